#include "io/read_raw.h"

#include "io/raw_array.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
  PIECE = 32768,     /* entries looked at together: they stay in a core's own cache */
  TASK = 131072,     /* entries of the rows that a thread takes ... */
  TASK_CHUNKS = 16,  /* ... or so many chunks: the first and last may be unpacked twice */
  LEAST_TASK = 1024, /* what a builder makes room for at least */
  ROW_ENTRIES = 8,   /* a part has room for one row per so many entries */
  /* Most bytes of a packed entry: gene, code, and its place and value should it be an escape; and
   * its share of row_start. */
  ENTRY_IN_PART = 2 * (int)sizeof(uint32_t) + (int)sizeof(int64_t) + (int)sizeof(double) +
                  (int)sizeof(int64_t) / ROW_ENTRIES,
  ENTRY_EXPANDED = (int)sizeof(int32_t) + (int)sizeof(double) /* in gene and value */
};

/* What the threads share. */
typedef struct team {
  av_slab *slab;
  const int64_t *pointer;
  av_counts_builder *builder;
  av_read_rows_fn general;
  av_raw_array data, indices;
  pthread_mutex_t hdf5; /* taken inside `turn`, never the other way round */
  double largest;
  bool all_genes; /* the columns are the genes used, in the same order */
  int64_t piece, task;
  int64_t part_rows;
  pthread_mutex_t turn; /* guards what follows */
  pthread_cond_t moved;
  int64_t next_row, n_taken, n_done;
  av_status status;
} team;

/* What a thread has to itself. */
typedef struct worker {
  team *team;
  av_counts_builder *part; /* NULL: the only worker, whose rows go to the team's builder */
  av_value_check check;
  av_raw_window data, indices;
  int32_t *gene; /* and value: room for the longest row */
  double *value;
} worker;

static av_value_check fresh_check(const av_value_check *check) {
  av_value_check fresh = *check;
  fresh.n_checked = fresh.n_bad = fresh.n_fractions = fresh.n_rounded = 0;
  fresh.first.row = -1;
  return fresh;
}

static av_counts_builder *builder_of(const worker *w) {
  return w->part != NULL ? w->part : w->team->builder;
}

/* Rows whose entries are not all plain counts of genes used, in order: one by one. *built: false if
 * one of them has no column. */
static av_status add_one_by_one(worker *w, int64_t row, const av_raw_rows *rows, bool *built) {
  const team *t = w->team;
  const av_slab *slab = t->slab;
  for (int64_t r = 0; r < rows->n_rows; ++r) {
    const int64_t first = rows->pointer[r] - rows->pointer[0];
    const int64_t n = rows->pointer[r + 1] - rows->pointer[r];
    const int64_t kept =
        av_raw_expand(rows, first, n, slab->matrix->n_columns, slab->position, w->gene, w->value);
    *built = kept >= 0;
    if (!*built) {
      return AV_OK;
    }
    av_check_values(&w->check, slab->dataset->first + row + r, kept, w->gene, w->value);
    AV_TRY(av_builder_add_row(builder_of(w), kept, w->gene, w->value));
  }
  return AV_OK;
}

/* Adds rows [row, end); without *built some of them at most, and all are left to the general way.
 */
static av_status build_rows(worker *w, int64_t row, int64_t end, bool *built) {
  const team *t = w->team;
  const int64_t *pointer = t->pointer;
  w->check = fresh_check(&w->check);
  w->data.fault = w->indices.fault = AV_RAW_FINE;
  *built = true;
  while (row < end && *built) {
    int64_t n_rows = 1;
    while (row + n_rows < end && pointer[row + n_rows + 1] - pointer[row] <= t->piece) {
      ++n_rows;
    }
    const int64_t n = pointer[row + n_rows] - pointer[row];
    av_raw_rows rows = {.n_rows = n_rows,
                        .pointer = pointer + row,
                        .value_kind = t->data.kind,
                        .index_kind = t->indices.kind};
    rows.value = av_raw_get(&w->data, pointer[row], n);
    rows.index = rows.value == NULL ? NULL : av_raw_get(&w->indices, pointer[row], n);
    *built = rows.value != NULL && rows.index != NULL; /* else the windows know why */
    bool added = false;
    if (*built && t->all_genes) {
      AV_TRY(av_builder_add_raw(builder_of(w), &rows, t->largest, &added));
    }
    if (added) {
      w->check.n_checked += n;
    } else if (*built) {
      AV_TRY(add_one_by_one(w, row, &rows, built));
    }
    row += n_rows;
  }
  return AV_OK;
}

/* The next rows for this worker; false when there are none. */
static bool take_rows(worker *w, int64_t *ticket, int64_t *row, int64_t *end) {
  team *t = w->team;
  const int64_t n_rows = t->slab->dataset->n_local;
  pthread_mutex_lock(&t->turn);
  const bool some = t->status == AV_OK && t->next_row < n_rows;
  if (some) {
    int64_t to = t->next_row + 1;
    while (to < n_rows && to - t->next_row < t->part_rows &&
           t->pointer[to + 1] - t->pointer[t->next_row] <= t->task) {
      ++to;
    }
    *ticket = t->n_taken++;
    *row = t->next_row;
    *end = t->next_row = to;
  }
  pthread_mutex_unlock(&t->turn);
  return some;
}

/* AV_OK if HDF5 should read what could not be read past it. */
static av_status judge_window(const team *t, const av_raw_window *window, const char *name) {
  const char *what = t->slab->matrix->what;
  switch (window->fault) {
    case AV_RAW_FINE:
    case AV_RAW_ODD:
      break;
    case AV_RAW_SHORT:
      return av_fail(AV_IOERR,
                     "%s/%s: ends early: the file was cut short or is still being written", what,
                     name);
    case AV_RAW_NO_READ:
      return av_fail(AV_IOERR, "%s/%s: cannot be read: %s", what, name, strerror(window->error));
    case AV_RAW_DAMAGED:
      return av_fail(AV_IOERR, "%s: %s (H5Dread)", what, window->reason);
  }
  return AV_OK;
}

static av_status read_general(worker *w, int64_t row, int64_t end) {
  team *t = w->team;
  AV_TRY(judge_window(t, &w->data, "data"));
  AV_TRY(judge_window(t, &w->indices, "indices"));
  pthread_mutex_lock(&t->hdf5);
  const av_status status = t->general(t->slab, t->pointer, row, end - row, t->builder);
  pthread_mutex_unlock(&t->hdf5);
  return status;
}

static void count_rows(worker *w, int64_t n_rows) {
  av_slab *slab = w->team->slab;
  av_value_check_merge(&slab->check, &w->check);
  slab->dataset->n_read_raw += n_rows;
}

/* Appends the rows when those before them are there; without `built`, reads them the general way.
 * Errors come in the order of the rows: none of a thread that is not at its turn. */
static void append_rows(worker *w, int64_t ticket, int64_t row, int64_t end, bool built) {
  team *t = w->team;
  pthread_mutex_lock(&t->turn);
  while (t->n_done != ticket) {
    pthread_cond_wait(&t->moved, &t->turn);
  }
  if (t->status == AV_OK && built) {
    t->status = av_builder_append(t->builder, w->part);
    count_rows(w, end - row);
  } else if (t->status == AV_OK) {
    t->status = read_general(w, row, end);
  }
  t->n_done += 1;
  pthread_cond_broadcast(&t->moved);
  pthread_mutex_unlock(&t->turn);
}

/* One of several. */
static void work(worker *w) {
  team *t = w->team;
  int64_t ticket = 0;
  int64_t row = 0;
  int64_t end = 0;
  while (take_rows(w, &ticket, &row, &end)) {
    pthread_mutex_lock(&t->turn); /* the builder's codes must not become wider meanwhile */
    if (t->status == AV_OK) {     /* the first failure is the one recorded */
      t->status = av_builder_part(w->part, t->builder);
    }
    bool built = t->status == AV_OK;
    pthread_mutex_unlock(&t->turn);
    if (built && build_rows(w, row, end, &built) != AV_OK) {
      built = false; /* never: a part has room for what it is given */
    }
    append_rows(w, ticket, row, end, built);
  }
}

/* The only one needs no part: what it could not build it takes back. */
static void work_alone(worker *w) {
  team *t = w->team;
  int64_t ticket = 0;
  int64_t row = 0;
  int64_t end = 0;
  while (take_rows(w, &ticket, &row, &end)) {
    const int64_t before = av_builder_n_rows(t->builder);
    bool built = false;
    t->status = build_rows(w, row, end, &built);
    if (t->status == AV_OK && built) {
      count_rows(w, end - row);
    } else if (t->status == AV_OK) {
      av_builder_cut(t->builder, before);
      t->status = read_general(w, row, end);
    }
  }
}

/* --- before and after --------------------------------------------------------------------- */

static void free_worker(worker *w) {
  av_builder_free(&w->part);
  av_raw_window_free(&w->data);
  av_raw_window_free(&w->indices);
  free(w->gene);
  free(w->value);
}

static bool make_worker(worker *w, team *t, bool alone, int64_t longest) {
  const av_dataset *dataset = t->slab->dataset;
  *w = (worker){.team = t, .check = fresh_check(&t->slab->check)};
  w->gene = av_malloc((size_t)longest, sizeof *w->gene);
  w->value = av_malloc((size_t)longest, sizeof *w->value);
  return w->gene != NULL && w->value != NULL &&
         av_raw_window_create(&w->data, &t->data, t->piece) &&
         av_raw_window_create(&w->indices, &t->indices, t->piece) &&
         (alone || av_builder_create(&w->part, dataset->n_genes, t->part_rows, t->task,
                                     w->check.allow_fractions) == AV_OK);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Sizes for `threads` threads within a block's bytes; false if so many do not fit. */
static bool plan_sizes(team *t, int threads, int64_t longest) {
  const int64_t share = t->slab->limits.block_bytes / threads;
  if (longest > share / ENTRY_EXPANDED) { /* also: no sum below overflows */
    return false;
  }
  const int64_t n_genes = t->slab->dataset->n_genes;
  const int64_t chunk = most(t->data.chunk, t->indices.chunk);
  t->piece = most(longest, most(1, least(PIECE, share / ENTRY_EXPANDED / 8)));
  const int64_t fixed =
      av_raw_window_bytes(&t->data, t->piece) + av_raw_window_bytes(&t->indices, t->piece) +
      longest * ENTRY_EXPANDED + n_genes * (int64_t)sizeof(double) +
      (n_genes / 64 + 1) * (int64_t)sizeof(uint64_t) +
      2 * (int64_t)sizeof(int64_t); /* the part's sums, what it has seen, two of row_start */
  const int64_t room = (share - fixed) / ENTRY_IN_PART;
  t->task = least(most(t->piece, most(TASK, TASK_CHUNKS * chunk)), room);
  t->part_rows = most(1, least(t->task / ROW_ENTRIES, t->slab->dataset->n_local));
  return t->task >= most(t->piece, LEAST_TASK);
}

/* How many of `threads` threads fit within a block's bytes; 0: none. */
static int plan(team *t, int threads, int64_t longest) {
  while (threads > 0 && !plan_sizes(t, threads, longest)) {
    --threads;
  }
  return threads;
}

static void find_facts(team *t, int64_t *longest) {
  const av_slab *slab = t->slab;
  *longest = 1;
  for (int64_t r = 0; r < slab->dataset->n_local; ++r) {
    *longest = most(*longest, t->pointer[r + 1] - t->pointer[r]);
  }
  t->largest =
      slab->check.largest < slab->check.unrounded ? slab->check.largest : slab->check.unrounded;
  t->all_genes = slab->dataset->n_genes == slab->matrix->n_columns;
  for (int64_t c = 0; c < slab->matrix->n_columns && t->all_genes; ++c) {
    t->all_genes = slab->position[c] == c;
  }
}

static av_status run_team(team *t, int n_threads, int64_t longest) {
  worker *workers = av_calloc((size_t)n_threads, sizeof *workers);
  AV_TRY_ALLOC(workers);
  bool made = true;
  for (int i = 0; i < n_threads && made; ++i) {
    made = make_worker(&workers[i], t, n_threads == 1, longest);
  }
  if (!made) {
    av_error_clear(); /* the builder's words, if it was that */
    t->status = av_fail(AV_NOMEM, "%s: out of memory (blocks of %d threads)", t->slab->matrix->what,
                        n_threads);
  } else if (n_threads == 1) {
    work_alone(&workers[0]);
  } else {
#pragma omp parallel for schedule(static, 1) num_threads(n_threads)
    for (int i = 0; i < n_threads; ++i) {
      work(&workers[i]);
    }
  }
  for (int i = 0; i < n_threads; ++i) {
    free_worker(&workers[i]);
  }
  free(workers);
  return t->status;
}

av_status av_read_raw(av_slab *slab, const int64_t *pointer, av_counts_builder *builder,
                      av_read_rows_fn general, bool *done) {
  team t = {.slab = slab,
            .pointer = pointer,
            .builder = builder,
            .general = general,
            .data = {.file = -1},
            .indices = {.file = -1},
            .hdf5 = PTHREAD_MUTEX_INITIALIZER,
            .turn = PTHREAD_MUTEX_INITIALIZER,
            .moved = PTHREAD_COND_INITIALIZER};
  const av_matrix *matrix = slab->matrix;
  const int64_t most_bytes = slab->limits.block_bytes / 4;
  int64_t longest = 1;
  int n_threads = 0;
  *done = false;
  av_status status = AV_OK;
  if (!slab->stored.relay && av_raw_open(&t.data, matrix->data, most_bytes, &t.hdf5) &&
      av_raw_open(&t.indices, matrix->indices, most_bytes, &t.hdf5) &&
      t.indices.size >= sizeof(int32_t) && t.indices.kind != AV_NUMBER_F32 &&
      t.indices.kind != AV_NUMBER_F64) {
    find_facts(&t, &longest);
    n_threads = plan(&t, slab->limits.threads > 1 ? slab->limits.threads : 1, longest);
  }
  if (n_threads > 0) {
    *done = true;
    status = run_team(&t, n_threads, longest);
  }
  av_raw_close(&t.data);
  av_raw_close(&t.indices);
  return status;
}
