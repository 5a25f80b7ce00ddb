/* Decoder and likelihood in one pass over chunks of cells.
 *
 * Cells of a chunk are shared out over threads in tiles of AV_ROW_BLOCK: logits of the tile, then
 * cell by cell softmax, likelihood and the gradient on the logits in their place (decode_cell.c),
 * then dx. When the chunk is done, threads share the genes: weight, one-hot, intercept and
 * dispersion gradients of the chunk are added without partial copies (decode_grad.c). A chunk's
 * (cells, G) rows stay in a cache where they can. Order-free mode keeps the rows of all B cells,
 * because the largest gradients must be known on all ranks before any sum is made.
 *
 * Products with the weights are panel kernels, whatever the width: one thread reaches 240, 190 and
 * 230 GFLOP/s (logits, dx, weights) for 128 x 2,000 weights, SGEMM of OpenBLAS 0.3.21 on the same
 * shapes 205, 177 and 222, and half of that where it does not know the processor. Bound: 3 n_in
 * multiply-adds and the likelihood a gene.
 */
#include "backend/cpu/decode.h"
#include "backend/cpu/strict.h"
#include "backend/latent.h"
#include "config/config.h"

#include <math.h>
#include <string.h>

enum {
  CHUNK_BYTES = 2 << 20, /* of all rows of a chunk, where that is enough cells */
  ENOUGH_CELLS = 128
};

/* start (stride) = c, or 0 without, plus the one-hot row `more` or nothing; `padding` after the
 * genes. */
static void start_row(const av_decode_run *run, const float *c, const float *more, float padding,
                      float *start) {
  if (c == NULL) {
    memset(start, 0, (size_t)run->genes * sizeof *start);
  } else {
    memcpy(start, c, (size_t)run->genes * sizeof *start);
  }
  if (more != NULL) {
    run->kernels->add_row(run->genes, more, start);
  }
  for (int64_t g = run->genes; g < run->stride; ++g) {
    start[g] = padding;
  }
}

/* Adds a head to the run; returns its rows. */
static float *add_head(av_decode_run *run, const av_head *head) {
  static const av_slot packed[AV_HEADS] = {AV_SLOT_PACKED, AV_SLOT_PACKED2, AV_SLOT_PACKED3};
  static const av_slot rows[AV_HEADS] = {AV_SLOT_DECODE, AV_SLOT_DECODE2, AV_SLOT_DECODE3};
  const int h = run->n_heads++;
  av_decode_head *made = &run->head[h];
  made->w = av_const_floats(head->w);
  made->dw = head->dw;
  made->dc = head->dc;
  const int64_t n_starts = run->n_starts;
  float *space =
      av_scratch(run->be, packed[h], run->stride * (run->n_in + n_starts), sizeof *space);
  float *weights = space + n_starts * run->stride;
#pragma omp parallel for schedule(static) num_threads(run->be->threads) if (n_starts > 1)
  for (int64_t s = 0; s < n_starts; ++s) {
    const float *more = n_starts > 1 ? made->w + (run->n_in + s) * run->genes : NULL;
    /* padding: logit -infinity, weight 0 in the softmax; zero inflation and px_r 0 */
    start_row(run, av_const_floats(head->c), more, h == 0 ? -INFINITY : 0.0f,
              space + s * run->stride);
  }
  made->start = space;
  av_pack_panels(run->be, run->n_in, run->genes, made->w, weights);
  made->packed = weights;
  made->rows = av_scratch(run->be, rows[h], run->chunk * run->stride, sizeof *made->rows);
  return made->rows;
}

/* Row of px_r of each cell; NULL: all have one. */
static const int32_t *dispersion_rows(const av_batch *batch, const av_decode *decode) {
  if (decode->n_dispersion <= 1) {
    return NULL;
  }
  return decode->dispersion == AV_DISPERSION_GENE_LABEL ? batch->label : batch->code;
}

/* Dispersions of the rows of px_r that occur, each prepared once. */
static void prepare_theta(av_decode_run *run) {
  const av_decode *decode = run->decode;
  const float *px_r = av_const_floats(decode->px_r);
  int32_t *slot = NULL;
  int32_t *code_of = NULL;
  int64_t slots = 1;
  if (run->row != NULL) {
    slot = av_scratch(run->be, AV_SLOT_CODES, 2 * decode->n_dispersion, sizeof *slot);
    code_of = slot + decode->n_dispersion;
    slots = 0;
    for (int64_t s = 0; s < decode->n_dispersion; ++s) {
      slot[s] = -1;
    }
    for (int64_t i = 0; i < run->batch->n; ++i) {
      const int32_t code = run->row[i];
      if (slot[code] < 0) {
        code_of[slots] = code;
        slot[code] = (int32_t)slots++;
      }
    }
  }
  float *theta = av_scratch(run->be, AV_SLOT_THETA, slots * 2 * run->stride, sizeof *theta);
#pragma omp parallel for schedule(static) num_threads(run->be->threads)
  for (int64_t s = 0; s < slots; ++s) {
    float *row = theta + s * 2 * run->stride;
    float *inverse = row + run->stride;
    run->kernels->theta_row(run->genes, px_r + (code_of == NULL ? 0 : code_of[s]) * run->genes, row,
                            inverse);
    for (int64_t g = run->genes; g < run->stride; ++g) {
      row[g] = 1.0f;
      inverse[g] = 1.0f;
    }
  }
  run->theta = theta;
  run->theta_slot = slot;
}

/* Cells worked on together, with `rows_a_cell` rows of genes each: what a cache holds, but with
 * gradients at least as many as a gene has weights (up to ENOUGH_CELLS). With fewer, reading and
 * writing the weights' gradients once a chunk would cost more than the rows do (10,000 genes, ZINB:
 * 80 us a cell with 16 cells, 58 with 128). */
static void choose_chunk(av_decode_run *run, int64_t rows_a_cell) {
  const int64_t unit = (int64_t)run->be->threads * AV_ROW_BLOCK;
  const int64_t row_bytes = run->stride * (int64_t)sizeof(float);
  const int64_t held = CHUNK_BYTES / (rows_a_cell * row_bytes) / unit * unit;
  const int64_t wanted = run->n_in < ENOUGH_CELLS ? run->n_in : ENOUGH_CELLS;
  const int64_t least = run->gradients ? (wanted + unit - 1) / unit * unit : unit;
  const int64_t chunk = held < least ? least : held;
  const bool all = run->be->strict && run->gradients;
  run->chunk = all || chunk > run->batch->n ? run->batch->n : chunk;
}

av_decode_space av_decode_space_of(const av_decode_run *run, int part) {
  float *at = run->space + part * run->space_size;
  return (av_decode_space){.q = at,
                           .dq = at + run->stride,
                           .dw = at + 2 * run->stride,
                           .dp = at + 3 * run->stride,
                           .theta = at + 4 * run->stride,
                           .ratio = at + 6 * run->stride,
                           .lanes = at + 7 * run->stride};
}

/* What both kinds of call need: sizes, and the head of rho with its rows. */
static void begin_output(av_decode_run *run, av_backend *be, const av_batch *batch,
                         const av_decode *decode, const float *x, const float *l, bool gradients,
                         int64_t rows_a_cell) {
  *run = (av_decode_run){.be = be,
                         .kernels = av_kernels_of(be),
                         .batch = batch,
                         .decode = decode,
                         .x = x,
                         .l = l,
                         .genes = decode->n_genes,
                         .panels = av_panels(decode->n_genes),
                         .stride = av_panels(decode->n_genes) * AV_PANEL,
                         .n_in = decode->n_in,
                         .gradients = gradients};
  choose_chunk(run, rows_a_cell);
  const bool few = batch->n_factors == 1 && 2 * decode->n_onehot <= batch->n;
  run->n_starts = few && decode->n_onehot > 1 ? decode->n_onehot : 1;
  add_head(run, &decode->scale);
  run->space_size = 7 * run->stride + (AV_ROW_BLOCK * run->n_in * 16);
  run->space = av_scratch(be, AV_SLOT_TILE, be->threads * run->space_size, sizeof(float));
}

/* Prepares a call that ends in losses. */
static void begin_losses(av_decode_run *run, av_backend *be, const av_batch *batch,
                         const av_decode *decode, const float *x, const float *l, bool gradients) {
  const bool zinb = decode->likelihood == AV_LIKELIHOOD_ZINB;
  const bool poisson = decode->likelihood == AV_LIKELIHOOD_POISSON;
  begin_output(run, be, batch, decode, x, l, gradients, 1 + (zinb ? 1 : 0) + (poisson ? 0 : 1));
  run->zinb = zinb;
  run->poisson = poisson;
  run->cell_theta = !poisson && decode->dispersion == AV_DISPERSION_GENE_CELL;
  if (zinb) {
    run->p_rows = add_head(run, &decode->dropout);
  }
  if (run->cell_theta) {
    run->w_rows = add_head(run, &decode->px_r_head);
  } else if (!poisson) {
    run->row = dispersion_rows(batch, decode);
    prepare_theta(run);
    run->w_rows = av_scratch(be, AV_SLOT_DECODE3, run->chunk * run->stride, sizeof(float));
  }
  run->loss = av_scratch(be, AV_SLOT_LOSS, batch->n, sizeof(double));
}

/* Where the logits of row i of [begin, ...) start; filled into the row itself unless there is such
 * a row already. */
static const float *start_of(const av_decode_run *run, const av_decode_head *head,
                             const av_places *columns, int64_t i, float *row) {
  if (run->n_starts > 1) {
    return head->start + columns->row[i] * run->stride;
  }
  if (run->decode->n_onehot == 0) {
    return head->start;
  }
  memcpy(row, head->start, (size_t)run->stride * sizeof *row);
  av_add_places(run->kernels, columns, i, run->genes, head->w + run->n_in * run->genes, run->genes,
                row);
  return row;
}

void av_decode_logits(const av_decode_run *run, int64_t base, int64_t begin, int64_t end) {
  const int64_t stride = run->stride;
  const av_places columns = av_columns_from(run->batch, begin);
  for (int h = 0; h < run->n_heads; ++h) {
    const av_decode_head *head = &run->head[h];
    float *rows = head->rows + (begin - base) * stride;
    const float *start[AV_ROW_BLOCK];
    for (int64_t i = 0; i < end - begin; ++i) {
      start[i] = start_of(run, head, &columns, i, rows + i * stride);
    }
    run->kernels->panel_product(end - begin, run->n_in, run->x + begin * run->n_in, run->n_in,
                                run->panels, head->packed, start, rows, stride);
  }
}

/* dx of cells [begin, end) from the gradients on their logits. */
static void input_grad(const av_decode_run *run, const av_decode_space *space, int64_t base,
                       int64_t begin, int64_t end) {
  float *dx = run->dx + begin * run->n_in;
  for (int h = 0; h < run->n_heads; ++h) {
    const av_decode_head *head = &run->head[h];
    const float *rows = head->rows + (begin - base) * run->stride;
    run->kernels->panel_dots(end - begin, run->n_in, run->panels, rows, run->stride, head->packed,
                             h > 0, dx, run->n_in, space->lanes);
  }
}

/* Losses of all cells; with gradients, everything down to dx and the weights. */
static void decode_all(av_decode_run *run) {
  const int threads = run->be->threads;
  for (int64_t base = 0; base < run->batch->n; base += run->chunk) {
    const int64_t n = run->batch->n - base < run->chunk ? run->batch->n - base : run->chunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; ++part) {
      const av_decode_space space = av_decode_space_of(run, part);
      int64_t begin = 0;
      int64_t end = 0;
      av_slice(n, AV_ROW_BLOCK, part, threads, &begin, &end);
      for (int64_t i = begin; i < end; i += AV_ROW_BLOCK) {
        const int64_t last = i + AV_ROW_BLOCK < end ? i + AV_ROW_BLOCK : end;
        av_decode_logits(run, base, base + i, base + last);
        for (int64_t r = i; r < last; ++r) {
          av_decode_cell(run, &space, base + r, r);
        }
        if (run->gradients) {
          input_grad(run, &space, base, base + i, base + last);
        }
      }
    }
    if (run->gradients && !run->be->strict) {
      av_decode_weight_grads(run, base, n);
    }
  }
  if (run->gradients && run->be->strict) {
    av_decode_weight_grads_strict(run);
  }
}

void av_cpu_decode_nll(av_backend *be, const av_batch *batch, const av_decode *decode,
                       const av_real *x, const av_real *l, av_sum *losses_, av_real *dx,
                       av_real *dl) {
  av_decode_run run;
  begin_losses(&run, be, batch, decode, av_const_floats(x), av_const_floats(l),
               decode->scale.dw != NULL);
  run.dx = av_floats(dx);
  run.dl = av_floats(dl);
  decode_all(&run);
  double *losses = av_doubles(losses_);
  for (int64_t i = 0; i < batch->n; ++i) {
    losses[AV_LOSS_NLL] += be->strict ? av_strict_loss(run.loss[i]) : run.loss[i];
  }
}

av_status av_cpu_decode_cells(av_backend *be, const av_batch *batch, const av_decode *decode,
                              const av_real *x, const av_real *l, double *nll) {
  av_decode_run run;
  begin_losses(&run, be, batch, decode, av_const_floats(x), av_const_floats(l), false);
  decode_all(&run);
  if (batch->n > 0) {
    memcpy(nll, run.loss, (size_t)batch->n * sizeof *nll);
  }
  return AV_OK;
}

/* `to` has the part of an average that `from` is; nothing to do where they are the same row. */
static void add_part(int64_t n, av_average average, const float *from, float *to) {
  const float share = (float)average.n;
  for (int64_t g = 0; from != to && g < n; ++g) {
    to[g] = (average.at == 0 ? 0.0F : to[g]) + from[g] / share;
  }
}

/* rho and mu of cell i from its logits in row r. */
static void output_cell(const av_decode_run *run, const av_decode_space *space, av_average average,
                        int64_t i, int64_t r, float *rho, float *mu) {
  float *e = run->head[0].rows + r * run->stride;
  double sum = 1.0; /* what e is divided by */
  if (run->decode->softplus) {
    (void)run->kernels->row_softplus(run->stride, e, space->ratio);
  } else {
    const float top = run->kernels->row_max(run->stride, e);
    sum = run->kernels->row_exp(run->stride, top, e);
  }
  if (rho != NULL) {
    float *const whole = rho + i * run->genes;
    float *const values = average.n > 1 ? space->ratio : whole;
    run->kernels->scale_row(run->genes, (float)(1.0 / sum), e, values);
    add_part(run->genes, average, values, whole);
  }
  if (mu != NULL) {
    const double rate = exp((double)run->l[i]) / sum;
    float *const whole = mu + i * run->genes;
    float *const values = average.n > 1 ? space->ratio : whole;
    for (int64_t g = 0; g < run->genes; ++g) {
      values[g] = (float)(rate * (double)e[g]);
    }
    add_part(run->genes, average, values, whole);
  }
}

av_status av_cpu_decode_output(av_backend *be, const av_batch *batch, const av_decode *decode,
                               const av_real *x, const av_real *l, av_average average, float *rho,
                               float *mu) {
  av_decode_run run;
  begin_output(&run, be, batch, decode, av_const_floats(x), av_const_floats(l), false, 1);
  for (int64_t base = 0; base < batch->n; base += run.chunk) {
    const int64_t n = batch->n - base < run.chunk ? batch->n - base : run.chunk;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int part = 0; part < be->threads; ++part) {
      const av_decode_space space = av_decode_space_of(&run, part);
      int64_t begin = 0;
      int64_t end = 0;
      av_slice(n, AV_ROW_BLOCK, part, be->threads, &begin, &end);
      for (int64_t i = begin; i < end; i += AV_ROW_BLOCK) {
        const int64_t last = i + AV_ROW_BLOCK < end ? i + AV_ROW_BLOCK : end;
        av_decode_logits(&run, base, base + i, base + last);
        for (int64_t r = i; r < last; ++r) {
          output_cell(&run, &space, average, base + r, r, rho, mu);
        }
      }
    }
  }
  return AV_OK;
}

av_status av_cpu_decode_sums(av_backend *be, const av_batch *batch, const av_decode *decode,
                             const av_real *x, const av_real *l, double scale, av_sum *sums) {
  return av_backend_sum_rho(be, batch, batch->n, decode, x, l, scale, sums);
}
