/* Streamed counts (gpu/stage.h) against resident ones: the same bits of every operation that reads
 * counts, for every kind of value and width of gene numbers, over more minibatches than are on
 * their way at a time. What is right of resident counts is the other tests' business
 * (tests/backend). And what is chosen when, and said where nothing fits: of a device whose memory
 * can be set, the emulated one. */
#include "backend/twin.h"

#include "backend/latent.h"
#include "base/memory.h"
#include "config/config.h"
#include "cuda_backend.h"
#include "state.h"
#include "tested_cuda.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef AV_EMULATED
#include "emulate.h"
static const size_t MEMORY = (size_t)4 << 30;
#endif

enum { WIDTH = 40, INPUTS = 5, ROUNDS = 2 * AV_GPU_STAGE_SLOTS + 3 };
enum { RESIDENT, STREAMED, WAYS };

/* cells, genes, non-zeros a cell, rows, values are multiplied by this, fractions */
typedef struct kind {
  const char *what;
  int64_t cells, genes, filled, rows;
  double times;
  bool fractions;
  av_count_kind stored;
  bool escapes, wide;
} kind;
static const kind kinds[] = {
    {"bytes and escapes", 150, 300, 40, 37, 1, false, AV_COUNT_U8, true, false},
    {"shorts and escapes", 150, 300, 40, 64, 300, false, AV_COUNT_U16, true, false},
    {"floats", 60, 120, 30, 20, 1, true, AV_COUNT_F32, false, false},
    {"wide genes", 60, 66000, 90, 3, 1, false, AV_COUNT_U8, true, true},
    {"fewer cells than rows", 5, 60, 20, 9, 1, false, AV_COUNT_U16, false, false},
};

static void make_kind(av_dataset *dataset, const kind *of) {
  const twin_shape shape = {.cells = of->cells,
                            .genes = of->genes,
                            .batches = 2,
                            .filled = (double)of->filled,
                            .times = of->times,
                            .fractions = of->fractions,
                            .continuous = 2};
  make_dataset(dataset, &shape, 1);
  assert_int_equal(dataset->counts.kind, of->stored);
  assert_int_equal(dataset->counts.n_escaped > 0, of->escapes);
  assert_int_equal(dataset->counts.wide_genes, of->wide);
}

static void open_way(av_backend *be, const av_comm *comm, int way, int64_t max_rows) {
  const av_backend_options options = {.choice = AV_BACKEND_CUDA,
                                      .threads = 2,
                                      .sums_by_mpi = true,
                                      .gpu_memory = way == STREAMED ? 1 : 0};
  require(av_backend_open_ops(be, &av_backend_cuda, &options, comm));
  be->gpu.max_rows = max_rows;
}

/* What an operation leaves, one behind the other. */
typedef struct results {
  int64_t n;
  double *values;
} results;

static void keep(results *to, av_backend *be, av_kind of, const void *array, int64_t n) {
  to->values = realloc(to->values, (size_t)(to->n + n) * sizeof *to->values);
  assert_non_null(to->values);
  require(be->ops->read(be, of, array, n, to->values + to->n));
  to->n += n;
}

typedef struct arrays {
  void *w, *bias, *y, *dw, *dbias, *x, *l, *losses, *dx, *dl, *head, *dhead, *px_r, *dpx_r;
} arrays;

static void *take(av_backend *be, av_kind of, int64_t n, source *from) {
  void *made = NULL;
  double *values = av_calloc((size_t)n, sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; from != NULL && i < n; ++i) {
    values[i] = 0.3 * source_normal(from);
  }
  require(be->ops->alloc(be, of, n, &made));
  require(be->ops->write(be, of, made, n, values));
  free(values);
  return made;
}

static void make_arrays(av_backend *be, const kind *of, int64_t inputs, arrays *a) {
  source from = {.item = 900};
  const int64_t rows = of->rows;
  *a = (arrays){.w = take(be, AV_REAL, inputs * WIDTH, &from),
                .bias = take(be, AV_REAL, WIDTH, &from),
                .y = take(be, AV_REAL, rows * WIDTH, &from),
                .dw = take(be, AV_GRAD, inputs * WIDTH, NULL),
                .dbias = take(be, AV_GRAD, WIDTH, NULL),
                .x = take(be, AV_REAL, rows * INPUTS, &from),
                .l = take(be, AV_REAL, rows, &from),
                .losses = take(be, AV_SUM, AV_LOSSES, NULL),
                .dx = take(be, AV_REAL, rows * INPUTS, NULL),
                .dl = take(be, AV_REAL, rows, NULL),
                .head = take(be, AV_REAL, INPUTS * of->genes, &from),
                .dhead = take(be, AV_GRAD, INPUTS * of->genes, NULL),
                .px_r = take(be, AV_REAL, of->genes, &from),
                .dpx_r = take(be, AV_GRAD, of->genes, NULL)};
}

static void free_arrays(av_backend *be, arrays *a) {
  void *const all[] = {a->w,      a->bias, a->y,  a->dw,   a->dbias, a->x,    a->l,
                       a->losses, a->dx,   a->dl, a->head, a->dhead, a->px_r, a->dpx_r};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    be->ops->release(be, all[i]);
  }
}

/* The first layer and the decoder, forward and backward, of the rows selected. */
static void step(av_backend *be, const av_batch *batch, const kind *of, const arrays *a) {
  const av_decode decode = {.likelihood = AV_LIKELIHOOD_NB,
                            .dispersion = AV_DISPERSION_GENE,
                            .n_genes = of->genes,
                            .n_in = INPUTS,
                            .n_dispersion = 1,
                            .scale = {.w = a->head, .dw = a->dhead},
                            .px_r = a->px_r,
                            .dpx_r = a->dpx_r};
  be->ops->sparse_linear(be, batch, true, true, WIDTH, a->w, a->bias, a->y);
  be->ops->sparse_linear_grad(be, batch, true, true, WIDTH, a->y, a->dw, a->dbias);
  be->ops->decode_nll(be, batch, &decode, a->x, a->l, a->losses, a->dx, a->dl);
}

/* Many minibatches, different in size and rows, the next one selected when a step is queued and
 * not before it is over; two batches by turns, as in training with evaluation. */
static results run_way(const av_dataset *dataset, const av_comm *comm, const kind *of, int way) {
  av_backend be;
  av_data *data = NULL;
  av_batch *batch[2] = {NULL};
  int64_t rows[100];
  results made = {0};
  arrays a;
  open_way(&be, comm, way, of->rows);
  require(be.ops->data_load(&be, dataset, &data));
  assert_int_equal(be.gpu.streamed, way == STREAMED);
  make_arrays(&be, of, of->genes + dataset->design.n_continuous + dataset->design.n_onehot, &a);
  for (int b = 0; b < 2; ++b) {
    require(be.ops->batch_create(&be, data, of->rows, &batch[b]));
  }
  const int64_t rounds = of->wide ? 2 : ROUNDS; /* they take long */
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t most = of->rows < of->cells ? of->rows : of->cells;
    const int64_t n = round == 3 ? 0 : round % 3 == 2 ? most / 2 : most;
    for (int64_t i = 0; i < n; ++i) {
      rows[i] = (i * 7 + 2 + round * 11) % of->cells;
    }
    av_batch *now = batch[round % 5 == 4 ? 1 : 0];
    be.ops->batch_select(&be, now, n, rows);
    memset(rows, -1, sizeof rows); /* the caller's again */
    step(&be, now, of, &a);
    keep(&made, &be, AV_REAL, a.y, n * WIDTH);
    keep(&made, &be, AV_REAL, a.dx, n * INPUTS);
  }
  keep(&made, &be, AV_GRAD, a.dw, of->genes * WIDTH);
  keep(&made, &be, AV_GRAD, a.dhead, INPUTS * of->genes);
  keep(&made, &be, AV_GRAD, a.dpx_r, of->genes);
  keep(&made, &be, AV_SUM, a.losses, AV_LOSSES);
  free_arrays(&be, &a);
  for (int b = 0; b < 2; ++b) {
    be.ops->batch_free(&be, batch[b]);
  }
  be.ops->data_free(&be, data);
  av_backend_close(&be);
  return made;
}

static void same_bits(void **state) {
  (void)state;
  av_comm comm;
  av_comm_self(&comm);
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
    av_dataset dataset;
    results of[WAYS];
    make_kind(&dataset, &kinds[k]);
    for (int way = 0; way < WAYS; ++way) {
      of[way] = run_way(&dataset, &comm, &kinds[k], way);
    }
    assert_int_equal(of[RESIDENT].n, of[STREAMED].n);
    double size = 0.0;
    for (int64_t i = 0; i < of[RESIDENT].n; ++i) {
      const double resident = of[RESIDENT].values[i];
      if (memcmp(&resident, &of[STREAMED].values[i], sizeof resident) != 0) {
        fail_msg("%s: number %lld is %.17g, not %.17g", kinds[k].what, (long long)i,
                 of[STREAMED].values[i], resident);
      }
      size += resident * resident;
    }
    assert_true(size > 0.0 && size < 1e300);
    for (int way = 0; way < WAYS; ++way) {
      free(of[way].values);
    }
    free_dataset(&dataset);
  }
}

#ifdef AV_EMULATED
/* Data that the device has no memory for: one line, with both texts in it, and nothing is left. */
static void check_refused(av_backend *be, const av_dataset *dataset, const char *what,
                          const char *advice) {
  av_data *data = NULL;
  assert_int_equal(be->ops->data_load(be, dataset, &data), AV_NOMEM);
  assert_null(data);
  assert_non_null(strstr(av_error_text(), what));
  assert_non_null(strstr(av_error_text(), advice));
  assert_null(strchr(av_error_text(), '\n'));
  av_error_clear();
}

/* Memory of the device in all -> resident, streamed, or too little; the sizes are those that the
 * backend itself has named. `spare`: what has to stay free beside them where so many share it. */
static void check_room(int sharing, int64_t spare) {
  const kind *of = &kinds[0];
  const int64_t rows = 2;
  av_comm comm;
  av_dataset dataset;
  av_backend be;
  av_data *data = NULL;
  av_comm_self(&comm);
  make_kind(&dataset, of);
  open_way(&be, &comm, RESIDENT, rows);
  be.gpu.need.model = 1000;
  require(be.ops->data_load(&be, &dataset, &data));
  const int64_t counts = av_counts_bytes(&dataset.counts) - 4 * dataset.counts.n_escaped;
  assert_int_equal(be.gpu.need.counts, counts); /* values of escapes are floats there */
  assert_int_equal(be.gpu.need.cells, of->cells * 4 * (1 + 1 + 1 + 2)); /* size, batch twice, C */
  const int64_t whole = be.gpu.need.counts + be.gpu.need.cells + be.gpu.need.model;
  be.ops->data_free(&be, data);
  const int64_t own = AV_GPU_BLAS_BYTES + (int64_t)sizeof(av_gpu_step); /* taken when it opened */
  av_backend_close(&be);

  for (int64_t lack = 0; lack < 2; ++lack) {
    av_emulate_memory((size_t)(own + spare + whole - lack)); /* this rank's part of it */
    open_way(&be, &comm, RESIDENT, rows);
    av_gpu_of(&be)->sharing = sharing;
    be.gpu.need.model = 1000;
    require(be.ops->data_load(&be, &dataset, &data));
    assert_int_equal(be.gpu.streamed, lack > 0);
    be.ops->data_free(&be, data);
    if (lack > 0) {
      const int64_t least = be.gpu.need.staging + be.gpu.need.cells + be.gpu.need.model;
      av_backend_close(&be);
      av_emulate_memory((size_t)(own + least - 1));
      open_way(&be, &comm, RESIDENT, rows);
      be.gpu.need.model = 1000;
      check_refused(&be, &dataset, "150 cells do not fit the GPU, though their counts",
                    "use more ranks, or a smaller [train] batch_size");
    }
    av_backend_close(&be);
  }
  av_emulate_memory(MEMORY);
  free_dataset(&dataset);
}

static void by_room(void **state) {
  (void)state;
  check_room(1, INT64_C(1) << 30);
  check_room(2, INT64_C(1) << 29);
  check_room(8, INT64_C(1) << 28); /* not less for each of many */
}

/* A plan that was too small, as where others take memory meanwhile: one line, and nothing is left
 * of what was loaded. */
static void full_all_the_same(void **state) {
  (void)state;
  av_comm comm;
  av_dataset dataset;
  av_backend be;
  av_comm_self(&comm);
  make_kind(&dataset, &kinds[0]);
  av_emulate_memory((size_t)(AV_GPU_BLAS_BYTES + (int64_t)sizeof(av_gpu_step) + 1500));
  open_way(&be, &comm, RESIDENT, 2);
  be.gpu.need.model = -2 * AV_GPU_SPARE_BYTES;
  check_refused(&be, &dataset, "150 cells with ", " more than was left: somebody else is on it");
  av_backend_close(&be);
  av_emulate_memory(MEMORY);
  free_dataset(&dataset);
}
#endif

/* The same by what the user gives: of a GPU that has plenty. */
static void by_limit(void **state) {
  (void)state;
  av_comm comm;
  av_dataset dataset;
  av_backend be;
  av_data *data = NULL;
  av_comm_self(&comm);
  make_kind(&dataset, &kinds[0]);
  open_way(&be, &comm, RESIDENT, 2);
  const av_gpu_slab slab = av_gpu_slab_of(&dataset);
  const av_gpu_need need = {.counts = av_gpu_counts_bytes(&slab),
                            .cells = av_gpu_cells_bytes(&slab)};
  for (int64_t lack = 0; lack < 2; ++lack) {
    be.gpu.limit = av_gpu_size_needed(&need, false, 1) - lack;
    require(be.ops->data_load(&be, &dataset, &data));
    assert_int_equal(be.gpu.streamed, lack > 0);
    be.ops->data_free(&be, data);
  }
  av_backend_close(&be);
  free_dataset(&dataset);
}

/* What is planned for scratch is enough for what operations take: the first layer's gradient and
 * the decoder's. */
static void scratch_is_planned(void **state) {
  (void)state;
  static const struct {
    int64_t genes, rows;
  } shapes[] = {{1, 1}, {300, 37}, {40000, 3}, {2000, 70}};
  av_comm comm;
  av_comm_self(&comm);
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    const kind of = {"",
                     90,
                     shapes[s].genes,
                     1 + shapes[s].genes / 100,
                     shapes[s].rows,
                     1,
                     false,
                     AV_COUNT_U8,
                     false,
                     false};
    av_dataset dataset;
    av_backend be;
    av_data *data = NULL;
    av_batch *batch = NULL;
    arrays a;
    const twin_shape shape = {.cells = of.cells, .genes = of.genes, .batches = 1, .filled = 1};
    make_dataset(&dataset, &shape, 1);
    const av_gpu_scratch plan = {
        .decode = {.max_rows = of.rows, .n_genes = of.genes, .n_heads = 1, .n_in = INPUTS},
        .n_first = WIDTH,
        .n_first_in = of.genes + 1};
    open_way(&be, &comm, RESIDENT, of.rows);
    require(be.ops->data_load(&be, &dataset, &data));
    require(be.ops->batch_create(&be, data, of.rows, &batch));
    make_arrays(&be, &of, of.genes + 1, &a);
    for (int known = 0; known < 2; ++known) { /* in steps; then as planned, in one */
      be.gpu.scratch = known == 1 ? av_gpu_scratch_bytes(&plan) : 0;
      step(&be, batch, &of, &a);
      assert_true((int64_t)av_gpu_of(&be)->work_bytes <= av_gpu_scratch_bytes(&plan));
      if (known == 0) {
        assert_int_equal(cudaFree(av_gpu_of(&be)->work), cudaSuccess);
        av_gpu_of(&be)->work = NULL;
        av_gpu_of(&be)->work_bytes = 0;
      }
    }
    assert_int_equal(av_gpu_of(&be)->work_bytes, av_gpu_scratch_bytes(&plan));
    be.ops->batch_free(&be, batch);
    be.ops->data_free(&be, data);
    free_arrays(&be, &a);
    av_backend_close(&be);
    free_dataset(&dataset);
  }
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  need_gpu();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_bits),
#ifdef AV_EMULATED
      cmocka_unit_test(by_room),   cmocka_unit_test(full_all_the_same),
#endif
      cmocka_unit_test(by_limit),  cmocka_unit_test(scratch_is_planned),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
