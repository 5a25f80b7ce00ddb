/* Decoder and likelihood: how a call is cut into chunks of cells, its scratch, and the order of its
 * kernels and products (kernels/decode.h). All follows from sizes that do not change in a run, so
 * that a call can be captured and replayed. */
#include "state.h"

#include "backend/gpu_decode.h"
#include "backend/gpu_memory.h"
#include "config/config.h"
#include "fetch.h"
#include "gemm.h"
#include "kernels/decode.h"
#include "kernels/decode_sums.h"
#include "outputs.h"
#include "trial.h"

enum {
  LOGITS_BYTES = 8 << 20, /* of what rho is summed from: they stay in the second-level cache */
  ALIGNMENT = 256         /* bytes */
};
_Static_assert(AV_DECODE_WIDTH % 8 == 0 && AV_DECODE_WIDTH > AV_DECODE_FEW,
               "inputs are multiplied 8 at a time, and warps share the sums of many");

/* A call. */
typedef struct decode_run {
  av_backend *be;
  const av_decode *decode;
  int64_t max_rows;
  int precision; /* of products; float32 where they may be made without, and be so or not */
  bool gradients;
  av_gpu_decode_sizes sizes;      /* of a call that ends in losses; ... */
  av_gpu_decode_cut cut;          /* ... likewise */
  int64_t chunk;                  /* cells at a time */
  av_gpu_decode call;             /* but for what is a pass's (begin_pass) */
  av_gpu_decode_walk walk;        /* its scratch: of each pass in turn */
  int32_t *order;                 /* likewise */
  av_gpu_decode_keys columns;     /* of the one-hot block; n_keys 0: not needed */
  av_gpu_decode_keys dispersions; /* rows of px_r, likewise */
} decode_run;

static int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t at_least(int64_t n, int64_t least) { return n > least ? n : least; }
static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* --- what is asked for ------------------------------------------------------------------------ */

static bool is_zinb(const av_decode *decode) { return decode->likelihood == AV_LIKELIHOOD_ZINB; }
static bool is_poisson(const av_decode *decode) {
  return decode->likelihood == AV_LIKELIHOOD_POISSON;
}
static bool is_by_cell(const av_decode *decode) {
  return !is_poisson(decode) && decode->dispersion == AV_DISPERSION_GENE_CELL;
}

static int kind_of(const av_decode *decode) {
  if (is_poisson(decode)) {
    return AV_DECODE_POISSON;
  }
  if (is_zinb(decode)) {
    return is_by_cell(decode) ? AV_DECODE_ZINB_BY_CELL : AV_DECODE_ZINB;
  }
  return is_by_cell(decode) ? AV_DECODE_NB_BY_CELL : AV_DECODE_NB;
}

static void add_head(av_gpu_decode *call, const av_head *head) {
  call->head[call->n_heads++] = (av_gpu_decode_head){.w = const_floats(head->w),
                                                     .c = const_floats(head->c),
                                                     .dw = floats(head->dw),
                                                     .dc = floats(head->dc)};
}

/* Row of px_r of each cell of the slab; NULL: the first. */
static const int32_t *codes_of(const av_gpu_data *data, const av_decode *decode) {
  if (decode->n_dispersion <= 1 || is_poisson(decode) || is_by_cell(decode)) {
    return NULL;
  }
  return decode->dispersion == AV_DISPERSION_GENE_LABEL ? data->label : data->batch;
}

/* Sizes and arrays of the model; the head of rho alone. */
static void begin_values(decode_run *run, av_backend *be, const av_batch *batch,
                         const av_decode *decode, const av_real *x, const av_real *l) {
  const bool few = decode->n_in + 1 <= AV_DECODE_WIDTH;
  *run = (decode_run){.be = be,
                      .decode = decode,
                      .max_rows = batch->view.max_rows,
                      .precision = few || decode->linear ? AV_PRECISION_FLOAT32 : be->precision};
  av_gpu_decode *call = &run->call;
  *call = (av_gpu_decode){.rows = batch->view,
                          .kind = kind_of(decode),
                          .softplus = decode->softplus,
                          .wide = !few, /* for values alone */
                          .n_genes = decode->n_genes,
                          .n_in = (int)decode->n_in,
                          .n_onehot = (int)decode->n_onehot,
                          .n_tiles = parts(decode->n_genes, AV_DECODE_GENES),
                          .x = const_floats(x),
                          .l = const_floats(l)};
  call->stride = call->n_tiles * AV_DECODE_GENES;
  add_head(call, &decode->scale);
}

/* How gradients are added up; those of one-hot columns and of px_r's rows from rows. */
static void choose_sums(decode_run *run, const av_data *data) {
  av_gpu_decode *call = &run->call;
  const av_design *design = &data->dataset->design;
  const av_gpu_data *facts = &data->on_device;
  run->sizes = (av_gpu_decode_sizes){
      .max_rows = run->max_rows,
      .n_genes = call->n_genes,
      .n_heads = call->n_heads,
      .n_in = call->n_in,
      .n_onehot = call->n_onehot,
      .n_factors = call->n_onehot > 0 ? design->n_factors : 0,
      .first = design->first,
      .px_r = av_gpu_px_r_of(run->decode->likelihood, run->decode->dispersion),
      .n_px_r = run->decode->n_dispersion,
      .linear = run->decode->linear};
  run->sizes.way = av_gpu_trial_way(run->be, &run->sizes, run->gradients);
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&run->sizes);
  run->cut = cut;
  call->wide = cut.wide;
  call->spread = cut.spread;
  if (cut.kept) {
    run->columns = (av_gpu_decode_keys){.key = facts->column,
                                        .stride = facts->n_factors,
                                        .n_factors = facts->n_factors,
                                        .first = facts->factor_first,
                                        .n_keys = call->n_onehot};
  }
  if (cut.w_rows) {
    run->dispersions = (av_gpu_decode_keys){
        .key = call->code, .stride = 1, .n_factors = 1, .n_keys = (int)run->decode->n_dispersion};
  }
}

/* The same for calls that end in losses. */
static void begin_losses(decode_run *run, av_backend *be, const av_batch *batch,
                         const av_decode *decode, const av_real *x, const av_real *l,
                         bool gradients) {
  begin_values(run, be, batch, decode, x, l);
  av_gpu_decode *call = &run->call;
  const av_gpu_data *data = &batch->view.data;
  run->gradients = gradients;
  if (is_zinb(decode)) {
    add_head(call, &decode->dropout);
  }
  if (is_by_cell(decode)) {
    add_head(call, &decode->px_r_head);
  } else if (!is_poisson(decode)) {
    call->px_r = const_floats(decode->px_r);
    call->code = codes_of(data, decode);
    call->dpx_r = call->code == NULL ? floats(decode->dpx_r) : NULL;
  }
  choose_sums(run, batch->data);
}

/* --- cutting and scratch ---------------------------------------------------------------------- */

/* Cells at a time, with or without gradients the same: sums are cut the same way. */
static void cut_losses(decode_run *run) {
  av_gpu_decode *call = &run->call;
  run->chunk = run->cut.chunk;
  call->slab = run->cut.slab;
  call->n_slabs = run->cut.n_slabs;
}

/* A piece of rho and mu that travels to the host. Kernels of a piece take a small part of its way
 * there: rows need not be many to fill the device. */
static void cut_values(decode_run *run, int outputs) {
  const int64_t row = outputs * run->call.n_genes * (int64_t)sizeof(float);
  run->chunk = at_most(at_least(AV_GPU_FETCH_BYTES / row, AV_GPU_FETCH_CELLS), run->max_rows);
}

/* A block of scratch: without `at` only measured. */
typedef struct scratch {
  char *at;
  size_t size;
} scratch;

static void *take(scratch *from, int64_t n, size_t size) {
  void *taken = from->at == NULL ? NULL : from->at + from->size;
  const size_t bytes = (size_t)n * size;
  from->size += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return taken;
}

/* The order of a walk, and what it leaves. */
static void take_walk(scratch *from, decode_run *run) {
  if (run->cut.n_runs > 0) {
    const int64_t pieces = run->call.n_slabs * AV_DECODE_PIECES;
    const int64_t sums = pieces * run->cut.n_runs * run->call.stride;
    run->order = take(from, run->chunk, sizeof *run->order);
    run->walk.pieces = take(from, sums, sizeof *run->walk.pieces);
    run->walk.piece_of = take(from, pieces, sizeof *run->walk.piece_of);
  }
}

static void take_keys(scratch *from, int64_t chunk, av_gpu_decode_keys *keys) {
  if (keys->n_keys > 0) {
    keys->order = take(from, keys->n_factors * chunk, sizeof *keys->order);
    keys->begin = take(from, keys->n_keys, sizeof *keys->begin);
    keys->end = take(from, keys->n_keys, sizeof *keys->end);
  }
}

static void take_losses(decode_run *run, scratch *from) {
  av_gpu_decode *call = &run->call;
  const int64_t cells = run->chunk * call->stride;
  call->loss = take(from, run->max_rows, sizeof *call->loss);
  call->cell = take(from, run->chunk, sizeof *call->cell);
  call->exact = take(from, run->chunk, sizeof *call->exact);
  for (int h = 0; (call->wide || (run->cut.kept && run->gradients)) && h < call->n_heads; ++h) {
    call->head[h].rows = take(from, cells, sizeof(float));
  }
  if (!run->gradients) {
    return;
  }
  call->starts = take(from, run->chunk * (call->n_tiles + 1), sizeof *call->starts);
  call->partial = take(from, call->n_slabs * run->cut.n_partial * call->stride, sizeof(float));
  if (!call->wide) {
    const int64_t most = at_most(call->n_in, AV_DECODE_WIDTH - 1); /* inputs of a pass */
    call->dx_partial = take(from, call->n_tiles * run->chunk * most, sizeof(float));
  }
  if (run->dispersions.n_keys > 0) {
    call->w_rows = take(from, cells, sizeof(float));
  }
  take_walk(from, run);
  take_keys(from, run->chunk, &run->columns);
  take_keys(from, run->chunk, &run->dispersions);
}

/* Rows of logits where they are needed. */
static void take_logits(scratch *from, decode_run *run) {
  if (run->call.wide) {
    run->call.head[0].rows = take(from, run->chunk * run->call.stride, sizeof(float));
  }
}

/* --- a chunk ---------------------------------------------------------------------------------- */

/* Chunks that may hold cells: of the first `rows` rows. */
static bool next_chunk(decode_run *run, int64_t rows) {
  av_gpu_decode *call = &run->call;
  call->first += call->n;
  call->n = at_most(run->chunk, rows - call->first);
  return call->n > 0;
}

static av_gpu_factor inputs_of(const av_gpu_decode *call, bool transposed) {
  return (av_gpu_factor){
      .at = call->x + call->first * call->n_in, .stride = call->n_in, .transposed = transposed};
}
static av_gpu_factor weights_of(const av_gpu_decode *call, int h, bool transposed) {
  return (av_gpu_factor){.at = call->head[h].w, .stride = call->n_genes, .transposed = transposed};
}
static av_gpu_factor rows_of(const av_gpu_decode *call, int h) {
  return (av_gpu_factor){.at = call->head[h].rows, .stride = call->stride};
}

/* Products of the inputs and the heads' weights into the heads' rows. */
static void wide_logits(decode_run *run) {
  av_gpu_decode *call = &run->call;
  for (int h = 0; call->wide && h < call->n_heads; ++h) {
    av_gpu_gemm(run->be, run->precision, call->n, call->n_genes, call->n_in, inputs_of(call, false),
                weights_of(call, h, false), 0.0F, call->head[h].rows, call->stride);
  }
}

/* dw += x^T d and dx = the heads' d w^T. Rows past B are zeros in both factors. */
static void wide_gradients(decode_run *run) {
  av_gpu_decode *call = &run->call;
  for (int h = 0; h < call->n_heads; ++h) {
    av_gpu_gemm(run->be, run->precision, call->n_in, call->n_genes, call->n, inputs_of(call, true),
                rows_of(call, h), 1.0F, call->head[h].dw, call->n_genes);
    av_gpu_gemm(run->be, run->precision, call->n, call->n_in, call->n_genes, rows_of(call, h),
                weights_of(call, h, true), h == 0 ? 0.0F : 1.0F,
                call->dx + call->first * call->n_in, call->n_in);
  }
}

/* The call as pass p makes it; its walk in *keys, n_factors 0 if there is none. */
static av_gpu_decode begin_pass(const decode_run *run, int p, av_gpu_decode_keys *keys) {
  const av_gpu_decode_pass pass = av_gpu_decode_pass_of(&run->sizes, &run->cut, p);
  const av_gpu_data *facts = &run->call.rows.data;
  av_gpu_decode call = run->call;
  call.from = (int)pass.from;
  call.own = (int)pass.own;
  call.width = (int)pass.width;
  call.n_partial = (int)pass.n_partial;
  for (int h = 0; p > 0 && h < call.n_heads; ++h) {
    call.head[h].dc = NULL; /* the first pass has added it */
  }
  call.dpx_r = p > 0 ? NULL : call.dpx_r;
  if (call.n_onehot > 0 && !call.spread) {
    call.beside = facts->column;
    call.n_beside = facts->n_factors;
  }
  *keys = (av_gpu_decode_keys){0};
  if (pass.walk == AV_GPU_WALK_NONE) {
    return call;
  }
  *keys = (av_gpu_decode_keys){.key = call.code, .stride = 1, .n_factors = 1, .order = run->order};
  if (pass.walk >= 0) {
    const int64_t *first = run->sizes.first + pass.walk;
    keys->key = facts->column + pass.walk;
    keys->stride = facts->n_factors;
    call.apart = (int)first[0];
    call.n_apart = (int)(first[1] - first[0]);
    call.beside = call.spread ? keys->key : call.beside;
    call.n_beside = call.spread ? 1 : call.n_beside;
  }
  call.walk = (av_gpu_decode_walk){.order = run->order,
                                   .key = keys->key,
                                   .stride = keys->stride,
                                   .columns = pass.walk >= 0,
                                   .dpx_r = pass.px_r_runs ? floats(run->decode->dpx_r) : NULL,
                                   .n = (int)pass.n_runs,
                                   .pieces = run->walk.pieces,
                                   .piece_of = run->walk.piece_of};
  return call;
}

/* Pass p over the chunk; the first adds its losses, too. */
static void pass_gradients(decode_run *run, int p, double *losses) {
  cudaStream_t stream = av_gpu_of(run->be)->stream;
  av_gpu_decode_keys keys;
  const av_gpu_decode call = begin_pass(run, p, &keys);
  if (keys.n_factors > 0) {
    AV_GPU_RUN(run->be, av_gpu_decode_sort(stream, &call, &keys));
  }
  AV_GPU_RUN(run->be, av_gpu_decode_tiles(stream, &call));
  AV_GPU_RUN(run->be, av_gpu_decode_finish(stream, &call, true, p == 0 ? losses : NULL));
}

/* Gradients of one-hot rows of the weights, and of px_r by batch or label. */
static void grouped_gradients(decode_run *run) {
  av_gpu_decode *call = &run->call;
  cudaStream_t stream = av_gpu_of(run->be)->stream;
  if (run->columns.n_keys > 0) {
    AV_GPU_RUN(run->be, av_gpu_decode_sort(stream, call, &run->columns));
    for (int h = 0; h < call->n_heads; ++h) {
      AV_GPU_RUN(run->be, av_gpu_decode_groups(stream, call, &run->columns, call->head[h].rows,
                                               call->head[h].dw + call->n_in * call->n_genes));
    }
  }
  if (run->dispersions.n_keys > 0) {
    AV_GPU_RUN(run->be, av_gpu_decode_sort(stream, call, &run->dispersions));
    AV_GPU_RUN(run->be, av_gpu_decode_groups(stream, call, &run->dispersions, call->w_rows,
                                             floats(run->decode->dpx_r)));
  }
}

/* --- operations ------------------------------------------------------------------------------- */

void av_gpu_decode_nll(av_backend *be, const av_batch *batch, const av_decode *decode,
                       const av_real *x, const av_real *l, av_sum *losses, av_real *dx,
                       av_real *dl) {
  cudaStream_t stream = av_gpu_of(be)->stream;
  decode_run run;
  begin_losses(&run, be, batch, decode, x, l, decode->scale.dw != NULL);
  run.call.dx = run.gradients ? floats(dx) : NULL;
  run.call.dl = run.gradients ? floats(dl) : NULL;
  cut_losses(&run);
  scratch space = {0};
  take_losses(&run, &space);
  space = (scratch){.at = av_gpu_work(be, space.size)};
  take_losses(&run, &space);
  while (next_chunk(&run, run.max_rows)) {
    wide_logits(&run);
    AV_GPU_RUN(be, av_gpu_decode_rows(stream, &run.call));
    if (!run.gradients) {
      AV_GPU_RUN(be, av_gpu_decode_finish(stream, &run.call, false, doubles(losses)));
      continue;
    }
    for (int p = 0; p < run.cut.n_passes; ++p) {
      pass_gradients(&run, p, doubles(losses));
    }
    grouped_gradients(&run);
    if (run.call.wide) {
      wide_gradients(&run);
    }
  }
}

av_status av_gpu_decode_cells(av_backend *be, const av_batch *batch, const av_decode *decode,
                              const av_real *x, const av_real *l, double *nll) {
  cudaStream_t stream = av_gpu_of(be)->stream;
  decode_run run;
  if (av_gpu_outputs_under_way(be)) {
    return AV_FAIL_BUG("losses of cells while outputs are under way");
  }
  if (batch->n == 0) {
    return AV_OK;
  }
  begin_losses(&run, be, batch, decode, x, l, false);
  cut_losses(&run);
  scratch space = {0};
  take_losses(&run, &space);
  space = (scratch){.at = av_gpu_work(be, space.size)};
  take_losses(&run, &space);
  while (next_chunk(&run, batch->n)) {
    wide_logits(&run);
    AV_TRY(AV_CUDA(av_gpu_decode_rows(stream, &run.call)));
  }
  const size_t bytes = (size_t)batch->n * sizeof *nll;
  void *slot = NULL;
  const void *arrived = NULL;
  av_gpu_fetch **ring = &av_gpu_of(be)->outputs.ring;
  AV_TRY(av_gpu_fetch_room(be, ring, bytes, &slot));
  AV_TRY(AV_CUDA(cudaMemcpyAsync(slot, run.call.loss, bytes, cudaMemcpyDeviceToDevice, stream)));
  AV_TRY(av_gpu_fetch_send(be, *ring, bytes));
  AV_TRY(av_gpu_fetch_take(be, *ring, "losses of cells", &arrived));
  av_gpu_fetch_copy(be, nll, arrived, bytes);
  return AV_OK;
}

/* --- rho and mu ------------------------------------------------------------------------------- */

/* Where they go, host memory; NULL: not asked for. */
typedef struct outputs {
  float *rho, *mu;
  int n; /* of the two */
  av_average average;
} outputs;

/* The chunk's, rho, then mu; on their way when they are whole: until then the next call finds them
 * in the slot that was not sent. */
static av_status send_chunk(decode_run *run, const outputs *to) {
  const int64_t first = run->call.first * run->call.n_genes;
  av_gpu_piece piece = {.numbers = run->call.n * run->call.n_genes};
  void *slot = NULL;
  const int64_t most = to->n * run->chunk * run->call.n_genes; /* all slots are as long */
  AV_TRY(av_gpu_outputs_room(run->be, (size_t)most * sizeof(float), &slot));
  av_gpu_decode_outputs at = {.share = (float)to->average.n, .added = to->average.at > 0};
  at.rho = to->rho != NULL ? slot : NULL;
  at.mu = to->mu == NULL ? NULL : at.rho == NULL ? slot : at.rho + piece.numbers;
  wide_logits(run);
  AV_TRY(AV_CUDA(av_gpu_decode_values(av_gpu_of(run->be)->stream, &run->call, &at)));
  av_gpu_ran(run->be); /* draws that are averaged wait for nothing else */
  if (to->average.at + 1 < to->average.n) {
    return AV_OK;
  }
  piece.rho = to->rho == NULL ? NULL : to->rho + first;
  piece.mu = to->mu == NULL ? NULL : to->mu + first;
  return av_gpu_outputs_send(run->be, &piece);
}

static av_status send_chunks(decode_run *run, const outputs *to, int64_t rows) {
  scratch space = {0};
  cut_values(run, to->n);
  if (to->average.n > 1 && rows > run->chunk) {
    return AV_FAIL_BUG("an average of outputs of %lld cells", (long long)rows);
  }
  take_logits(&space, run);
  space = (scratch){.at = av_gpu_work(run->be, space.size)};
  take_logits(&space, run);
  while (next_chunk(run, rows)) {
    AV_TRY(send_chunk(run, to));
  }
  return AV_OK;
}

av_status av_gpu_decode_output(av_backend *be, const av_batch *batch, const av_decode *decode,
                               const av_real *x, const av_real *l, av_average average, float *rho,
                               float *mu) {
  const outputs to = {
      .rho = rho, .mu = mu, .n = (rho != NULL ? 1 : 0) + (mu != NULL ? 1 : 0), .average = average};
  if (to.n > 0) {
    decode_run run;
    begin_values(&run, be, batch, decode, x, l);
    AV_TRY(send_chunks(&run, &to, batch->n));
  }
  if (average.at + 1 == average.n) {
    av_gpu_outputs_complete(be);
  }
  return AV_OK;
}

/* --- sums of rho ------------------------------------------------------------------------------ */

static float2 *take_sums(scratch *from, decode_run *run) {
  take_logits(from, run);
  return take(from, run->chunk, sizeof(float2));
}

/* Of a linear decoder no logits are written, however many inputs it has; of hundreds products would
 * be faster. */
av_status av_gpu_decode_sums(av_backend *be, const av_batch *batch, const av_decode *decode,
                             const av_real *x, const av_real *l, double scale, av_sum *sums) {
  cudaStream_t stream = av_gpu_of(be)->stream;
  decode_run run;
  begin_values(&run, be, batch, decode, x, l);
  run.call.wide = run.call.wide && !decode->linear;
  const int64_t row = run.call.stride * (int64_t)sizeof(float);
  const int64_t most = run.call.wide ? LOGITS_BYTES / row : run.max_rows;
  run.chunk = at_most(at_least(most, AV_DECODE_CELLS), run.max_rows);
  scratch space = {0};
  (void)take_sums(&space, &run);
  space = (scratch){.at = av_gpu_work(be, space.size)};
  float2 *const norms = take_sums(&space, &run);
  while (next_chunk(&run, run.max_rows)) {
    wide_logits(&run);
    AV_GPU_RUN(be, av_gpu_decode_norms(stream, &run.call, norms));
    AV_GPU_RUN(be, av_gpu_decode_add_values(stream, &run.call, norms, scale, (av_wide *)sums));
  }
  return AV_OK;
}
