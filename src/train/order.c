#include "train/order.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
  WINDOW_CELLS = 16384, /* on average; about 0.6 MiB with everything: near the cache */
  WINDOW_PER_SHARD = 16 /* or as many cells of each shard: the work per shard and window is small */
};

typedef struct entry {
  double key;
  int64_t row; /* -1: another rank's */
} entry;

struct av_order {
  int64_t n_shards;
  int64_t first_own;
  int64_t n_own;
  int64_t n_windows; /* equal parts of [0, 1) */
  int64_t capacity;  /* cells of any window */
  av_order_epoch epoch;
  int64_t *from;   /* (n_shards) cells before the current window */
  int64_t *to;     /* (n_shards) and before its end */
  int64_t window;  /* the next one */
  int64_t counted; /* cells of the current window that are not sorted: others' */
  int64_t at;      /* next of the sorted ones */
  int64_t n_sorted;
  entry *sorted;   /* (capacity) */
  entry *unsorted; /* (capacity) */
  int32_t *bucket; /* (capacity + 1) cells before each bucket of the window */
};

void av_order_free(av_order **order) {
  if (*order == NULL) {
    return;
  }
  free((*order)->from);
  free((*order)->to);
  free((*order)->sorted);
  free((*order)->unsorted);
  free((*order)->bucket);
  free(*order);
  *order = NULL;
}

static av_status allocate(av_order *order) {
  const size_t shards = (size_t)order->n_shards;
  const size_t capacity = (size_t)order->capacity;
  order->from = av_calloc(shards, sizeof *order->from);
  order->to = av_calloc(shards, sizeof *order->to);
  order->sorted = av_malloc(capacity, sizeof *order->sorted);
  order->unsorted = av_malloc(capacity, sizeof *order->unsorted);
  order->bucket = av_malloc(capacity + 1, sizeof *order->bucket);
  if (order->from == NULL || order->to == NULL || order->sorted == NULL ||
      order->unsorted == NULL || order->bucket == NULL) {
    return av_fail(AV_NOMEM, "out of memory (order of the cells of %lld shards)",
                   (long long)order->n_shards);
  }
  return AV_OK;
}

av_status av_order_create(av_order **order, int64_t n_cells, int64_t n_shards, int64_t first_own,
                          int64_t n_own) {
  av_order *made = av_calloc(1, sizeof *made);
  if (made == NULL) {
    return av_fail(AV_NOMEM, "out of memory (order of the cells)");
  }
  made->n_shards = n_shards;
  made->first_own = first_own;
  made->n_own = n_own;
  const int64_t of_shards = WINDOW_PER_SHARD * n_shards;
  const int64_t size = of_shards > WINDOW_CELLS ? of_shards : WINDOW_CELLS;
  made->n_windows = n_cells > size ? (n_cells + size - 1) / size : 1;
  /* A window holds the same part of every shard, rounded up to a cell, or to a second one where
   * the rounding of keys makes it so. */
  made->capacity = n_cells > size + 2 * n_shards ? size + 2 * n_shards : n_cells;
  const av_status status = allocate(made);
  if (status != AV_OK) {
    av_order_free(&made);
    return status;
  }
  *order = made;
  return AV_OK;
}

void av_order_begin(av_order *order, const av_order_epoch *epoch) {
  order->epoch = *epoch;
  order->window = 0;
  order->counted = 0;
  order->at = 0;
  order->n_sorted = 0;
  memset(order->to, 0, (size_t)order->n_shards * sizeof *order->to);
}

/* The one expression for keys: ties between shards depend on how it rounds. */
static inline double key_of(int64_t cell, double offset, double cells) {
  return ((double)cell + offset) / cells;
}

/* By what rounding moves keys, in cells of their shard: 1e9 cells x 1e-16, and more. */
#define KEYS_ROUNDED 1e-6

/* Keys of a shard are 1 / n_v apart, so that a stretch of the key axis of a given length, both ends
 * in it, has n_v length of them rounded down, or one more. Of n cells in a row, that span such a
 * stretch, as many may be own ... */
static int64_t own_within(const av_order *order, const int64_t *shard_cells, double length) {
  int64_t most = 0;
  for (int64_t v = order->first_own; v < order->first_own + order->n_own; ++v) {
    const int64_t within = (int64_t)((double)shard_cells[v] * length + KEYS_ROUNDED) + 1;
    most += within < shard_cells[v] ? within : shard_cells[v];
  }
  return most;
}

/* ... and as the others leave, of which cells with the same keys as the first and the last may not
 * be among the n: for these, too, something is taken off before rounding down. */
static int64_t left_within(const av_order *order, const int64_t *shard_cells, int64_t n,
                           double length) {
  for (int64_t v = 0; v < order->n_shards; ++v) {
    const double within = (double)shard_cells[v] * length - KEYS_ROUNDED;
    const bool own = v >= order->first_own && v < order->first_own + order->n_own;
    n -= own || within < 0 ? 0 : (int64_t)within;
  }
  return n;
}

int64_t av_order_most_own(const av_order *order, const int64_t *shard_cells, int64_t n) {
  enum { HALVINGS = 40 };
  double low = 0.0; /* what may be own grows with the length, what the others leave shrinks */
  double high = 1.0;
  for (int i = 0; i < HALVINGS; ++i) {
    const double length = 0.5 * (low + high);
    if (own_within(order, shard_cells, length) <= left_within(order, shard_cells, n, length)) {
      low = length;
    } else {
      high = length;
    }
  }
  const int64_t own = own_within(order, shard_cells, high);
  const int64_t left = left_within(order, shard_cells, n, low);
  return own < left ? own : left;
}

/* The shard's cells with keys below `end`, of which there are at least `from`. */
static int64_t cells_below(double end, int64_t from, double offset, int64_t cells) {
  const double n = (double)cells;
  int64_t to = (int64_t)(end * n - offset + 1.0); /* give or take one */
  to = to < from ? from : to > cells ? cells : to;
  while (to < cells && key_of(to, offset, n) < end) {
    ++to;
  }
  while (to > from && key_of(to - 1, offset, n) >= end) {
    --to;
  }
  return to;
}

/* Moves to the next window; returns its cells over all ranks. */
static int64_t open_window(av_order *order) {
  ++order->window;
  const bool last = order->window == order->n_windows;
  const double end = (double)order->window / (double)order->n_windows;
  int64_t n = 0;
  for (int64_t v = 0; v < order->n_shards; ++v) {
    const int64_t from = order->to[v];
    const int64_t cells = order->epoch.shard_cells[v];
    order->from[v] = from;
    order->to[v] = last ? cells : cells_below(end, from, order->epoch.offset[v], cells);
    n += order->to[v] - from;
  }
  return n;
}

/* Writes the window's cells of a shard to `out`; returns the place after. `rows`: of the shard's
 * cells, NULL for another rank's. */
static entry *list_shard(const av_order *order, int64_t shard, const int64_t *rows, entry *out) {
  const int64_t to = order->to[shard];
  const double offset = order->epoch.offset[shard];
  const double cells = (double)order->epoch.shard_cells[shard];
  for (int64_t j = order->from[shard]; j < to; ++j) {
    *out++ = (entry){.key = key_of(j, offset, cells), .row = rows != NULL ? rows[j] : -1};
  }
  return out;
}

/* Lists the window's cells of the shards [begin, end) in the order of shards; returns how many. */
static int64_t list_window(const av_order *order, int64_t begin, int64_t end) {
  const av_order_epoch *epoch = &order->epoch;
  entry *out = order->unsorted;
  for (int64_t shard = begin; shard < end; ++shard) {
    const int64_t v = shard - order->first_own;
    const bool own = v >= 0 && v < order->n_own;
    out = list_shard(order, shard, own ? epoch->own_rows + epoch->own_start[v] : NULL, out);
  }
  return out - order->unsorted;
}

/* Bucket of a key; grows with the key, whatever the rounding. */
static inline int64_t bucket_of(double key, double start, double scale, int64_t last) {
  const int64_t bucket = (int64_t)((key - start) * scale);
  return bucket < last ? bucket : last;
}

/* Sorts the n listed cells by key. Stable, so equal keys stay in the order of shards. */
static void sort_window(av_order *order, int64_t n) {
  const double start = (double)(order->window - 1) / (double)order->n_windows;
  const double scale = (double)n * (double)order->n_windows;
  const entry *unsorted = order->unsorted;
  entry *sorted = order->sorted;
  int32_t *place = order->bucket; /* place[b + 1] counts bucket b, then is where it begins */
  memset(place, 0, ((size_t)n + 1) * sizeof *place);
  for (int64_t i = 0; i < n; ++i) {
    ++place[bucket_of(unsorted[i].key, start, scale, n - 1) + 1];
  }
  for (int64_t b = 0; b < n; ++b) {
    place[b + 1] += place[b];
  }
  for (int64_t i = 0; i < n; ++i) {
    sorted[place[bucket_of(unsorted[i].key, start, scale, n - 1)]++] = unsorted[i];
  }
  for (int64_t i = 1; i < n; ++i) {
    const entry moving = sorted[i];
    int64_t to = i;
    for (; to > 0 && moving.key < sorted[to - 1].key; --to) {
      sorted[to] = sorted[to - 1];
    }
    sorted[to] = moving;
  }
}

/* Opens the next window, of which `room` cells are wanted, and sorts what is needed of it. */
static void next_window(av_order *order, int64_t room) {
  const int64_t n = open_window(order);
  const bool whole = n <= room;
  const int64_t begin = whole ? order->first_own : 0;
  const int64_t end = whole ? order->first_own + order->n_own : order->n_shards;
  order->n_sorted = list_window(order, begin, end);
  order->counted = n - order->n_sorted;
  order->at = 0;
  sort_window(order, order->n_sorted);
}

int64_t av_order_take(av_order *order, int64_t n, int64_t *rows, int64_t *n_rows) {
  int64_t taken = 0;
  int64_t n_own = 0;
  while (taken < n) {
    if (order->at == order->n_sorted) {
      if (order->window == order->n_windows) {
        break;
      }
      next_window(order, n - taken);
      taken += order->counted;
    }
    const int64_t left = order->n_sorted - order->at;
    const int64_t end = order->at + (left < n - taken ? left : n - taken);
    taken += end - order->at;
    for (; order->at < end; ++order->at) {
      const int64_t row = order->sorted[order->at].row;
      rows[n_own] = row; /* without a branch: whose turn it is cannot be foreseen */
      n_own += row >= 0;
    }
  }
  *n_rows = n_own;
  return taken;
}
