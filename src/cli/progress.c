#include "cli/progress.h"

#include "base/clock.h"
#include "base/launcher.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/figures.h"
#include "config/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { WIDEST = 500, USUAL_WIDTH = 80, EVERY_EPOCH = 100, PERCENT = 100 };
static const double REDRAW_SECONDS = 0.1;
static const double LINE_SECONDS = 10;

struct av_progress {
  FILE *out;
  bool bar;
  bool lines;
  int64_t first_epoch;
  int64_t n_epochs;
  int64_t restart;    /* 1 unless said otherwise */
  int64_t n_restarts; /* 1: nothing is said of it */
  double epoch_began;
  double epoch_share;      /* of the current epoch that is done, 0 to 1 */
  double seconds_an_epoch; /* running mean; 0: none finished */
  int64_t n_ended;
  av_epoch_line last;  /* the last epoch that ended; epoch 0: none */
  double line_printed; /* when a line was last printed, */
  int64_t line_epoch;  /* and for which epoch */
  double bar_drawn;
  int bar_width; /* columns on the screen to be cleared; 0: no bar there */
};

static void clear_bar(void *context) {
  av_progress *progress = context;
  if (progress->bar_width > 0) {
    fprintf(progress->out, "\r%*s\r", progress->bar_width, "");
    fflush(progress->out);
    progress->bar_width = 0;
  }
}

av_status av_progress_begin(av_progress **progress, const av_comm *comm, int mode,
                            int64_t first_epoch, int64_t n_epochs, FILE *out) {
  *progress = NULL;
  if (comm->rank != 0) {
    return AV_OK;
  }
  av_progress *new = av_calloc(1, sizeof *new);
  AV_TRY_ALLOC(new);
  new->out = out;
  new->bar = mode == AV_PROGRESS_BAR || (mode == AV_PROGRESS_AUTO && av_is_terminal(fileno(out)));
  new->lines = mode == AV_PROGRESS_LINES || (mode == AV_PROGRESS_AUTO && !new->bar);
  new->first_epoch = first_epoch;
  new->n_epochs = n_epochs;
  new->restart = 1;
  new->n_restarts = 1;
  new->epoch_began = av_clock();
  new->line_printed = new->epoch_began;
  if (new->bar) {
    av_log_before_line(clear_bar, new);
  }
  *progress = new;
  return AV_OK;
}

void av_progress_restart(av_progress *progress, int64_t restart, int64_t n_restarts) {
  if (progress == NULL) {
    return;
  }
  progress->restart = restart;
  progress->n_restarts = n_restarts;
  if (progress->lines) {
    fprintf(progress->out, "restart %" PRId64 " of %" PRId64 "\n", restart, n_restarts);
    fflush(progress->out);
  }
}

/* Seconds until the end, from the running mean and what the current epoch has shown; NaN if nothing
 * is known yet. */
static double seconds_left(const av_progress *progress, double now) {
  double an_epoch = progress->seconds_an_epoch;
  if (progress->n_ended == 0) {
    if (progress->epoch_share <= 0) {
      return NAN;
    }
    an_epoch = (now - progress->epoch_began) / progress->epoch_share;
  }
  const double ended = (double)(progress->first_epoch - 1 + progress->n_ended);
  const double left = an_epoch * ((double)progress->n_epochs - ended - progress->epoch_share);
  return left > 0 ? left : 0;
}

static int digits_of(int64_t n) { return snprintf(NULL, 0, "%" PRId64, n); }

static void append(char *text, size_t size, const char *name, const char *format, double value) {
  if (isnan(value)) {
    return;
  }
  const size_t length = strlen(text);
  int written = snprintf(text + length, size - length, "  %s", name);
  if (written > 0 && length + (size_t)written < size) {
    snprintf(text + length + (size_t)written, size - length - (size_t)written, format, value);
  }
}

static void line_text(const av_progress *progress, double left, char text[WIDEST]) {
  const av_epoch_line *line = &progress->last;
  av_figure figure;
  snprintf(text, WIDEST, "epoch %*" PRId64 "/%" PRId64, digits_of(progress->n_epochs), line->epoch,
           progress->n_epochs);
  append(text, WIDEST, "elbo_train ", "%.1f", line->elbo_train);
  append(text, WIDEST, "elbo_validation ", "%.1f", line->elbo_validation);
  append(text, WIDEST, "kl_weight ", "%.3f", line->kl_weight);
  append(text, WIDEST, "", "%.2f s", line->seconds);
  size_t length = strlen(text);
  if (isfinite(line->cells_per_second)) {
    snprintf(text + length, WIDEST - length, "  %s cells/s",
             av_count_text(&figure, llround(line->cells_per_second)));
    length = strlen(text);
  }
  snprintf(text + length, WIDEST - length, "  left %s", av_clock_text(&figure, left));
}

/* "epoch 12/400 [####------]  3 %  elbo 1234.5  val 1240.1  left 0:14:52" in `width` columns: what
 * does not fit is left out, from the least needed. */
static void bar_text(const av_progress *progress, double now, int width, char text[WIDEST]) {
  enum { LEAST_BAR = 10, MOST_BAR = 40 };
  char head[160] = "";
  char elbo[80] = "";
  char tail[80];
  av_figure figure;
  const int64_t current = progress->first_epoch + progress->n_ended;
  const double done = (double)(current - 1) + progress->epoch_share;
  const double share = progress->n_epochs > 0 ? fmin(done / (double)progress->n_epochs, 1) : 1;
  if (progress->n_restarts > 1) {
    snprintf(head, sizeof head, "restart %" PRId64 "/%" PRId64 "  ", progress->restart,
             progress->n_restarts);
  }
  const size_t begun = strlen(head);
  snprintf(head + begun, sizeof head - begun, "epoch %*" PRId64 "/%" PRId64,
           digits_of(progress->n_epochs),
           current < progress->n_epochs ? current : progress->n_epochs, progress->n_epochs);
  append(elbo, sizeof elbo, "elbo ", "%.1f",
         progress->n_ended > 0 ? progress->last.elbo_train : NAN);
  append(elbo, sizeof elbo, "val ", "%.1f",
         progress->n_ended > 0 ? progress->last.elbo_validation : NAN);
  snprintf(tail, sizeof tail, "  %3.0f %%  left %s", floor(100 * share),
           av_clock_text(&figure, seconds_left(progress, now)));
  const int fixed = (int)(strlen(head) + strlen(tail));
  if (fixed + (int)strlen(elbo) > width) {
    elbo[0] = '\0';
  }
  int room = width - fixed - (int)strlen(elbo) - 3; /* " [" and "]" */
  if (room < LEAST_BAR) {
    snprintf(text, WIDEST, "%s%s%s", head, elbo, tail);
  } else {
    char bar[MOST_BAR + 1];
    room = room > MOST_BAR ? MOST_BAR : room;
    const int full = (int)(share * room);
    memset(bar, '#', (size_t)full);
    memset(bar + full, '-', (size_t)(room - full));
    bar[room] = '\0';
    snprintf(text, WIDEST, "%s [%s]%s%s", head, bar, elbo, tail);
  }
  if ((int)strlen(text) > width) {
    text[width] = '\0';
  }
}

static void draw_bar(av_progress *progress, double now) {
  char text[WIDEST];
  /* One column stays free: a full line would wrap and could not be cleared. */
  int width = av_terminal_width(fileno(progress->out), USUAL_WIDTH) - 1;
  width = width < 1 ? 1 : width >= WIDEST ? WIDEST - 1 : width;
  bar_text(progress, now, width, text);
  const int length = (int)strlen(text);
  const int rest = progress->bar_width > length && progress->bar_width <= width
                       ? progress->bar_width - length
                       : 0;
  fprintf(progress->out, "\r%s%*s", text, rest, "");
  fflush(progress->out);
  progress->bar_width = length + rest;
  progress->bar_drawn = now;
}

void av_progress_step(av_progress *progress, int64_t done, int64_t total) {
  if (progress == NULL || !progress->bar) {
    return;
  }
  progress->epoch_share = total > 0 ? fmin(fmax((double)done / (double)total, 0), 1) : 0;
  const double now = av_clock();
  if (now - progress->bar_drawn >= REDRAW_SECONDS) {
    draw_bar(progress, now);
  }
}

static void print_line(av_progress *progress, double now) {
  char text[WIDEST];
  line_text(progress, seconds_left(progress, now), text);
  fprintf(progress->out, "%s\n", text);
  fflush(progress->out);
  progress->line_printed = now;
  progress->line_epoch = progress->last.epoch;
}

/* Is this epoch's line one of those that a log gets? */
static bool wants_line(const av_progress *progress, double now) {
  const int64_t epoch = progress->last.epoch;
  const int64_t n = progress->n_epochs;
  return n <= EVERY_EPOCH || progress->n_ended == 1 || epoch >= n ||
         epoch * PERCENT / n > (epoch - 1) * PERCENT / n ||
         now - progress->line_printed >= LINE_SECONDS;
}

void av_progress_epoch(av_progress *progress, const av_epoch_line *line) {
  if (progress == NULL) {
    return;
  }
  const double now = av_clock();
  /* The mean of all epochs at first, then mostly of the last 20: the speed of a shared machine
   * changes. */
  ++progress->n_ended;
  const double weight = progress->n_ended < 20 ? 1.0 / (double)progress->n_ended : 0.05;
  progress->seconds_an_epoch += weight * (now - progress->epoch_began - progress->seconds_an_epoch);
  progress->epoch_began = now;
  progress->epoch_share = 0;
  progress->last = *line;
  av_log_event("epoch", "restart", "i", progress->restart, "epoch", "i", line->epoch, "n_epochs",
               "i", progress->n_epochs, "elbo_train", "d", line->elbo_train, "elbo_validation", "d",
               line->elbo_validation, "kl_weight", "d", line->kl_weight, "seconds", "d",
               line->seconds, "cells_per_second", "d", line->cells_per_second, "seconds_left", "d",
               seconds_left(progress, now), NULL);
  if (progress->lines && wants_line(progress, now)) {
    print_line(progress, now);
  }
  if (progress->bar && (now - progress->bar_drawn >= REDRAW_SECONDS || progress->n_ended == 1)) {
    draw_bar(progress, now);
  }
}

void av_progress_end(av_progress **progress) {
  av_progress *ended = *progress;
  *progress = NULL;
  if (ended == NULL) {
    return;
  }
  if (ended->bar) {
    clear_bar(ended);
    av_log_before_line(NULL, NULL);
    if (ended->n_ended > 0) {
      print_line(ended, av_clock());
    }
  } else if (ended->lines && ended->line_epoch != ended->last.epoch) {
    print_line(ended, av_clock()); /* stopped early: the last epoch has its line all the same */
  }
  free(ended);
}
