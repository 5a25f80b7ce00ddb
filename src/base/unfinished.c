#include "base/unfinished.h"

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 4 };

static char names[SLOTS][PATH_MAX];
static volatile sig_atomic_t used[SLOTS];

void av_unfinished_remove(void) {
  for (int i = 0; i < SLOTS; ++i) {
    if (used[i]) {
      unlink(names[i]);
    }
  }
}

static void remove_all(int number) {
  av_unfinished_remove();
  signal(number, SIG_DFL);
  raise(number);
}

static void watch_signals(void) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i) {
    struct sigaction now;
    if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
      struct sigaction ours = {.sa_handler = remove_all};
      sigemptyset(&ours.sa_mask);
      sigaction(numbers[i], &ours, NULL);
    }
  }
}

void av_unfinished_add(const char *path) {
  const size_t bytes = strlen(path) + 1;
  watch_signals();
  for (int i = 0; i < SLOTS; ++i) {
    if (!used[i] && bytes <= sizeof names[i]) {
      memcpy(names[i], path, bytes);
      used[i] = true;
      return;
    }
  }
}

void av_unfinished_drop(const char *path) {
  for (int i = 0; i < SLOTS; ++i) {
    if (used[i] && strcmp(names[i], path) == 0) {
      used[i] = false;
    }
  }
}
