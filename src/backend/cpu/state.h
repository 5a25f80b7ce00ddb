/* What the cpu backend keeps behind the opaque handles, and what its files share. Internal.
 *
 * Elements: AV_REAL float, AV_SUM double, AV_GRAD float, or double in order-free mode. */
#ifndef AV_BACKEND_CPU_STATE_H
#define AV_BACKEND_CPU_STATE_H

#include "backend/cpu/kernels/kernels.h"
#include "backend/operations.h"

static inline float *av_floats(void *array) { return array; }
static inline const float *av_const_floats(const void *array) { return array; }
static inline double *av_doubles(void *array) { return array; }
static inline const double *av_const_doubles(const void *array) { return array; }

/* Work areas that grow to the largest size asked for and then stay. */
typedef enum av_slot {
  AV_SLOT_LOSS,  /* a few doubles a cell; sums of one call */
  AV_SLOT_TOP,   /* largest terms of columns */
  AV_SLOT_MAGIC, /* their quanta */
  AV_SLOT_LEFT,  /* rounded operands of exact products */
  AV_SLOT_RIGHT,
  AV_SLOT_COLUMNS, /* columns of a layer; sums of columns */
  AV_SLOT_ROWS,    /* rows of terms */
  AV_SLOT_PACKED,  /* weights in panels */
  AV_SLOT_PACKED2,
  AV_SLOT_PACKED3,
  AV_SLOT_TILE,    /* each thread's tiles */
  AV_SLOT_DECODE,  /* logits, then their gradients */
  AV_SLOT_DECODE2, /* the same of the second head */
  AV_SLOT_DECODE3, /* the same of the third, or dispersion gradients */
  AV_SLOT_THETA,
  AV_SLOT_CODES,
  AV_SLOT_CODES2,
  AV_SLOT_FOLD,
  AV_SLOT_FOLD2,
  AV_SLOT_PAIRS,
  AV_SLOT_GRADS,
  AV_SLOTS
} av_slot;

/* Exchanges with other ranks (comm.c): the n that are under way, then memory for others. */
typedef struct av_pending_list {
  struct av_pending *each;
  int n, most;
} av_pending_list;

typedef struct av_cpu {
  const av_kernels *kernels;
  void *scratch[AV_SLOTS];
  size_t scratch_bytes[AV_SLOTS];
  av_pending_list sums, gathers; /* by shares */
} av_cpu;

static inline av_cpu *av_cpu_of(const av_backend *be) { return be->state; }
static inline const av_kernels *av_kernels_of(const av_backend *be) {
  return av_cpu_of(be)->kernels;
}

/* n elements of `size` bytes, 64-byte aligned, contents undefined. Ends the run if there is no
 * memory. */
void *av_scratch(av_backend *be, av_slot slot, int64_t n, size_t size);
/* Ends the run if `status` is an error. */
void av_cpu_require(const av_backend *be, av_status status);

/* What is known of a cell besides its counts. */
typedef struct av_cell_facts {
  double constant; /* sum of lgamma(x + 1) */
  double total;    /* of the counts */
  double log_size; /* log of the library or size factor */
  float largest;   /* count */
  int32_t code;    /* batch */
} av_cell_facts;

struct av_data {
  const av_dataset *dataset; /* borrowed */
  av_cell_facts *cell;       /* (n_local) */
  int32_t *gene_bounds;      /* (threads + 1) ranges of genes of about equal work */
};

struct av_batch {
  const av_dataset *dataset;
  const av_data *data;
  int64_t max_rows;
  int64_t n;                       /* B */
  int64_t *row_start;              /* (n + 1) */
  int32_t *gene;                   /* (row_start[n]) */
  float *value;                    /* counts */
  float *log1p;                    /* log1p of counts */
  int64_t *cell;                   /* (n) global number */
  int32_t *code;                   /* (n) batch */
  int32_t *label;                  /* (n) label; NULL without labels */
  int64_t n_factors, n_continuous; /* C; of dataset->design */
  int32_t *column;                 /* (n, n_factors) the cell's ones in the one-hot block */
  float *continuous;               /* (n, C) */
  int32_t *counting;               /* (C) 0, 1, 2, ... */
  double *log_size;                /* (n) log of the observed library or size factor */
  double *constant;                /* (n) sum of lgamma(x + 1) */
  double *total;                   /* (n) sum of counts */
  float *largest;                  /* (n) largest count */
};

static inline av_cell_counts av_counts_of(const av_batch *batch, int64_t i) {
  const int64_t first = batch->row_start[i];
  return (av_cell_counts){.n = batch->row_start[i + 1] - first,
                          .gene = batch->gene + first,
                          .value = batch->value + first};
}

/* The rows of a table that each cell belongs to: row[i * n] to row[i * n + n - 1]. */
typedef struct av_places {
  const int32_t *row;
  int64_t n;
} av_places;

/* The batch's one-hot columns, from cell `first` on. */
static inline av_places av_columns_from(const av_batch *batch, int64_t first) {
  return (av_places){.row = batch->column + first * batch->n_factors, .n = batch->n_factors};
}

/* y (n) += the rows of table (., n; row stride) that cell i belongs to. */
static inline void av_add_places(const av_kernels *kernels, const av_places *places, int64_t i,
                                 int64_t n, const float *table, int64_t stride, float *y) {
  for (int64_t f = 0; f < places->n; ++f) {
    kernels->add_row(n, table + places->row[i * places->n + f] * stride, y);
  }
}

/* The rows of table (., n; row stride) that cell i belongs to += x (n). */
static inline void av_add_to_places(const av_kernels *kernels, const av_places *places, int64_t i,
                                    int64_t n, const float *x, float *table, int64_t stride) {
  for (int64_t f = 0; f < places->n; ++f) {
    kernels->add_row(n, x, table + places->row[i * places->n + f] * stride);
  }
}

/* Part `part` of `parts` of n items, cut at multiples of `grain`. */
static inline void av_slice(int64_t n, int64_t grain, int part, int parts, int64_t *begin,
                            int64_t *end) {
  const int64_t units = (n + grain - 1) / grain;
  const int64_t first = units * part / parts * grain;
  const int64_t last = units * (part + 1) / parts * grain;
  *begin = first < n ? first : n;
  *end = last < n ? last : n;
}

static inline int64_t av_panels(int64_t n) { return (n + AV_PANEL - 1) / AV_PANEL; }

/* Packs columns [0, n) of w (depth, n) into panels: packed (panels, depth, AV_PANEL). All threads.
 */
void av_pack_panels(const av_backend *be, int64_t depth, int64_t n, const float *w, float *packed);

/* A step of Adam with gradients multiplied by `scale`, its numbers rounded as the kernels want them
 * (adam.c). */
av_adam_step av_cpu_adam_step(const av_adam *adam, double scale);

/* The operations, in files that are named after them. */
AV_DECLARE_OPERATIONS(av_cpu_)

void av_cpu_comm_free(av_cpu *cpu);

#endif
