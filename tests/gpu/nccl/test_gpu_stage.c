/* Streamed minibatches on streams that run late and in either order (cuda_host.h): what a kernel
 * sees is its own minibatch, however far the host and the copies are ahead. Expected are the
 * slab's rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cuda_host.h"
#include "pass.h"
#include "rig.h"
#include "stage.h"
#include "trial.h"

#include <string.h>

enum { CELLS = 41, GENES = 60, ROWS = 9, STEPS = 5 * AV_GPU_STAGE_SLOTS + 1, LATE = 3 };

static av_comm comm;
static av_dataset dataset;

/* No pass is kept here (pass.h). */
av_status av_gpu_graphs_create(struct av_gpu_graph **graphs) {
  *graphs = NULL;
  return AV_OK;
}
void av_gpu_graphs_free(struct av_gpu_graph *graphs) { assert_null(graphs); }
/* Nor timed (trial.h). */
av_status av_gpu_trial_create(const av_backend *be, av_gpu_trial **trial) {
  (void)be;
  *trial = NULL;
  return AV_OK;
}
void av_gpu_trial_free(av_gpu_trial *trial) { assert_null(trial); }

/* Rows of 0, 1, 2, ... genes; every seventh count needs an escape. */
static void make_dataset(void) {
  av_counts_builder *builder = NULL;
  int32_t gene[GENES];
  double value[GENES];
  dataset = (av_dataset){.n_cells = CELLS, .n_local = CELLS, .n_genes = GENES};
  assert_int_equal(av_builder_create(&builder, GENES, CELLS, 1000, false), AV_OK);
  for (int64_t row = 0; row < CELLS; ++row) {
    for (int32_t i = 0; i < row; ++i) {
      gene[i] = i + (int32_t)row / 3;
      value[i] = (row * i) % 97 == 5 ? 300.0 + (double)row : 1.0 + (double)((row + i) % 50);
    }
    assert_int_equal(av_builder_add_row(builder, row, gene, value), AV_OK);
  }
  assert_int_equal(av_builder_finish(builder, &dataset.counts), AV_OK);
  av_builder_free(&builder);
  assert_int_equal(dataset.counts.kind, AV_COUNT_U8);
  assert_true(dataset.counts.n_escaped > 4);
}

/* A kernel that reads the minibatch's counts, some time later. */
typedef struct kernel {
  const av_gpu_rows *view;
  int64_t n;
  int64_t rows[ROWS];
  int waits; /* turns of its stream until it runs */
  int *done;
} kernel;

static float value_seen(const av_gpu_data *data, int64_t at, int *escape) {
  const uint8_t code = ((const uint8_t *)data->value)[at];
  if (code < UINT8_MAX) {
    return (float)code;
  }
  assert_true(*escape < *data->n_escaped);
  assert_int_equal(data->escaped_at[*escape], at);
  return data->escaped_value[(*escape)++];
}

static bool run_kernel(void *context) {
  kernel *of = context;
  if (of->waits-- > 0) {
    return false;
  }
  const av_gpu_data *data = &of->view->data;
  int32_t gene[GENES];
  float value[GENES];
  int escape = 0;
  assert_int_equal(*of->view->n, of->n);
  for (int64_t i = 0; i < of->n; ++i) {
    const int64_t start = data->row_start[i];
    const int64_t n = av_counts_row(&dataset.counts, of->rows[i], gene, value);
    assert_int_equal(of->view->row[i], of->rows[i]);
    assert_int_equal(data->row_start[i + 1] - start, n);
    for (int64_t e = 0; e < n; ++e) {
      assert_int_equal(((const uint16_t *)data->gene)[start + e], gene[e]);
      assert_true(value_seen(data, start + e, &escape) == value[e]);
    }
  }
  assert_int_equal(*data->n_escaped, escape);
  ++*of->done;
  return true;
}

static void queue_kernel(rig *r, const kernel *of) {
  const av_stream_work work = {.run = run_kernel};
  assert_int_equal(av_stream_queue(r->gpu.stream, &work, of, sizeof *of), cudaSuccess);
}

/* The next minibatch is selected while a graph is recorded that reads this one, as in a pass that
 * is kept. */
static void select_in_pass(rig *r, av_batch *next, int64_t n, const int64_t *rows,
                           const kernel *now) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t ready = NULL;
  r->gpu.in_pass = true;
  assert_int_equal(cudaStreamBeginCapture(r->gpu.stream, cudaStreamCaptureModeRelaxed),
                   cudaSuccess);
  av_gpu_batch_select(&r->be, next, n, rows);
  queue_kernel(r, now);
  assert_int_equal(cudaStreamEndCapture(r->gpu.stream, &graph), cudaSuccess);
  assert_int_equal(cudaGraphInstantiate(&ready, graph, 0), cudaSuccess);
  assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
  assert_int_equal(cudaGraphLaunch(ready, r->gpu.stream), cudaSuccess);
  r->gpu.in_pass = false;
  assert_ptr_equal(r->gpu.selected, next);
  av_gpu_batch_send(&r->be, next);
  assert_int_equal(cudaGraphExecDestroy(ready), cudaSuccess);
}

/* Two batches by turns, each minibatch read twice. */
static void minibatches(bool youngest_first) {
  rig r;
  av_batch *batch[2];
  int done = 0;
  const int live = cuda_host_live();
  cuda_host_youngest_first = youngest_first;
  assert_int_equal(rig_open(&r, &comm, true, 0), AV_OK);
  r.be.threads = 2;
  av_data data = {.dataset = &dataset};
  assert_int_equal(av_gpu_source_create(&dataset, &data.source), AV_OK);
  for (int b = 0; b < 2; ++b) {
    assert_int_equal(av_gpu_batch_create(&r.be, &data, ROWS, &batch[b]), AV_OK);
  }
  kernel before = {.view = &batch[0]->view, .done = &done}; /* no rows yet */
  for (int64_t step = 0; step < STEPS; ++step) {
    int64_t rows[ROWS];
    const int64_t n = step == 2 ? 0 : step == 0 ? ROWS : 1 + step % ROWS;
    for (int64_t i = 0; i < n; ++i) { /* the largest first: all there is room for */
      rows[i] = step == 0 ? CELLS - 1 - i : (i * 11 + step * 5) % CELLS;
    }
    av_batch *now = batch[step % 4 == 3 ? 1 : 0];
    if (step % 3 == 0) {
      queue_kernel(&r, &before);
      av_gpu_batch_select(&r.be, now, n, rows);
    } else {
      select_in_pass(&r, now, n, rows, &before);
    }
    before =
        (kernel){.view = &now->view, .n = n, .waits = step < STEPS / 2 ? 0 : LATE, .done = &done};
    memcpy(before.rows, rows, (size_t)n * sizeof *rows);
    queue_kernel(&r, &before);
    memset(rows, 0, sizeof rows);
  }
  for (int b = 0; b < 2; ++b) {
    av_gpu_batch_free(&r.be, batch[b]);
  }
  assert_int_equal(done, 2 * STEPS);
  av_gpu_source_free(data.source);
  rig_close(&r);
  assert_int_equal(cuda_host_live(), live);
}

static void copies_first(void **unused) {
  (void)unused;
  minibatches(true);
}
static void kernels_first(void **unused) {
  (void)unused;
  minibatches(false);
}

/* Nothing until `open`. */
static bool run_gate(void *context) { return **(const bool *const *)context; }

/* While a kernel works, later minibatches travel, as many as there is room for, and the host goes
 * on. */
static void copies_beside_kernels(void **unused) {
  (void)unused;
  const av_stream_work gate = {.run = run_gate};
  bool open = false;
  const bool *const opens = &open;
  rig r;
  av_batch *batch = NULL;
  assert_int_equal(rig_open(&r, &comm, true, 0), AV_OK);
  r.be.threads = 1;
  av_data data = {.dataset = &dataset};
  assert_int_equal(av_gpu_source_create(&dataset, &data.source), AV_OK);
  assert_int_equal(av_gpu_batch_create(&r.be, &data, ROWS, &batch), AV_OK);
  assert_int_equal(cudaStreamSynchronize(r.gpu.stream), cudaSuccess);
  assert_int_equal(av_stream_queue(r.gpu.stream, &gate, &opens, sizeof opens), cudaSuccess);
  for (int64_t step = 0; step < AV_GPU_STAGE_SLOTS; ++step) {
    const int64_t rows[] = {step, step + 20, step + 30};
    const int64_t before = cuda_host_copies();
    av_gpu_batch_select(&r.be, batch, 3, rows);
    cuda_host_step();
    assert_int_equal(cuda_host_copies() - before, 1); /* the row numbers wait for the kernel */
  }
  const int64_t before = cuda_host_copies();
  open = true;
  assert_int_equal(cudaStreamSynchronize(r.gpu.stream), cudaSuccess);
  assert_int_equal(cuda_host_copies() - before, AV_GPU_STAGE_SLOTS);
  av_gpu_batch_free(&r.be, batch);
  av_gpu_source_free(data.source);
  rig_close(&r);
}

/* The largest minibatch is what the rows with most entries hold: here those of CELLS - 1, CELLS -
 * 2, ... */
static void room_is_exact(void **unused) {
  (void)unused;
  av_gpu_source *source = NULL;
  assert_int_equal(av_gpu_source_create(&dataset, &source), AV_OK);
  for (int64_t rows = 0; rows <= CELLS + 5; ++rows) {
    int64_t entries = 0;
    for (int64_t i = 0; i < rows && i < CELLS; ++i) {
      entries += CELLS - 1 - i;
    }
    int64_t escapes = 0;
    int64_t most[CELLS] = {0};
    for (int64_t row = 0; row < CELLS; ++row) {
      int64_t own = 0;
      for (int64_t i = 0; i < row; ++i) {
        own += (row * i) % 97 == 5 ? 1 : 0;
      }
      ++most[own];
    }
    int64_t left = rows;
    for (int64_t own = CELLS - 1; own > 0; --own) {
      const int64_t taken = most[own] < left ? most[own] : left;
      escapes += taken * own;
      left -= taken;
    }
    assert_int_equal(
        av_gpu_source_slot_bytes(source, rows),
        (rows + 2) * 8 + entries * 3 + escapes * 12 + 5 * (int64_t)AV_GPU_STAGE_ALIGNMENT);
  }
  av_gpu_source_free(source);
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  make_dataset();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(copies_first),
      cmocka_unit_test(kernels_first),
      cmocka_unit_test(copies_beside_kernels),
      cmocka_unit_test(room_is_exact),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_counts_free(&dataset.counts);
  av_comm_free(&comm);
  return failed;
}
