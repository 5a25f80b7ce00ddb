/* Gradients of the decoder's weights, intercepts and dispersions from the rows of gradients on the
 * logits; threads share the genes. */
#include "backend/cpu/decode.h"
#include "backend/cpu/strict.h"

#include <cblas.h>

enum { NARROW = 48 }; /* inputs up to this width: faster without SGEMM */

/* dw (n_in, G) += x^T rows for genes [begin, end). */
static void products(const av_decode_run *run, const av_decode_head *head, int64_t base, int64_t n,
                     int64_t begin, int64_t end) {
  const float *x = run->x + base * run->n_in;
  float *dw = av_floats(head->dw) + begin;
  if (run->n_in > NARROW) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)run->n_in, (blasint)(end - begin),
                (blasint)n, 1.0f, x, (blasint)run->n_in, head->rows + begin, (blasint)run->stride,
                1.0f, dw, (blasint)run->genes);
  } else {
    run->kernels->outer_add(n, run->n_in, x, run->n_in, head->rows + begin, run->stride,
                            end - begin, dw, run->genes);
  }
}

/* Adds rows [0, n) of genes [begin, end) to sums: all to one row, or each to those that its cell
 * belongs to. */
static void add_rows(const av_decode_run *run, const float *rows, const av_places *places,
                     int64_t n, int64_t begin, int64_t end, float *sums) {
  const int64_t width = end - begin;
  if (places == NULL) {
    run->kernels->sum_rows(n, rows + begin, run->stride, width, sums + begin);
    return;
  }
  for (int64_t r = 0; r < n; ++r) {
    av_add_to_places(run->kernels, places, r, width, rows + r * run->stride + begin, sums + begin,
                     run->genes);
  }
}

void av_decode_weight_grads(const av_decode_run *run, int64_t base, int64_t n) {
  const av_decode *decode = run->decode;
  const bool table = !run->poisson && !run->cell_theta; /* px_r is a parameter */
  const int threads = run->be->threads;
  const av_places columns = av_columns_from(run->batch, base);
  const av_places rows = {.row = run->row == NULL ? NULL : run->row + base, .n = 1};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(run->genes, AV_PANEL, part, threads, &begin, &end);
    for (int h = 0; h < run->n_heads && begin < end; ++h) {
      const av_decode_head *head = &run->head[h];
      products(run, head, base, n, begin, end);
      if (head->dc != NULL) {
        add_rows(run, head->rows, NULL, n, begin, end, av_floats(head->dc));
      }
      if (decode->n_onehot > 0) {
        add_rows(run, head->rows, &columns, n, begin, end,
                 av_floats(head->dw) + run->n_in * run->genes);
      }
    }
    if (table && begin < end) {
      add_rows(run, run->w_rows, run->row == NULL ? NULL : &rows, n, begin, end,
               av_floats(decode->dpx_r));
    }
  }
}

/* Order-free: the largest |x| of each input, and of each gene the largest gradient of each head and
 * of the dispersion, over all ranks; then rounded sums and products (strict.h). */
void av_decode_weight_grads_strict(const av_decode_run *run) {
  const av_decode *decode = run->decode;
  const int64_t n = run->batch->n;
  const int64_t genes = run->genes;
  const int64_t n_in = run->n_in;
  const av_places columns = av_columns_from(run->batch, 0);
  const av_places rows_of_px_r = {.row = run->row, .n = 1};
  const bool table = !run->poisson && !run->cell_theta; /* px_r is a parameter */
  const int kinds = run->n_heads + (table ? 1 : 0);
  const int64_t width = n_in + kinds * genes;
  float *top = av_scratch(run->be, AV_SLOT_TOP, width, sizeof *top);
  double *sum_magic = av_scratch(run->be, AV_SLOT_MAGIC, 2 * width, sizeof *sum_magic);
  double *product_magic = sum_magic + width;
  av_strict_tops(run->be, n, n_in, run->x, n_in, top);
  for (int h = 0; h < kinds; ++h) {
    const float *rows = h < run->n_heads ? run->head[h].rows : run->w_rows;
    av_strict_tops(run->be, n, genes, rows, run->stride, top + n_in + h * genes);
  }
  av_strict_maxima(run->be, top, width);
  const int64_t cells = av_strict_cells(run->be, n);
  av_strict_magics(width, top, av_strict_sum_bits(cells), sum_magic);
  av_strict_magics(width, top, av_strict_product_bits(cells), product_magic);
  for (int h = 0; h < run->n_heads; ++h) {
    const av_decode_head *head = &run->head[h];
    const double *magic = sum_magic + n_in + h * genes;
    av_strict_outer(run->be, n, n_in, genes, run->x, n_in, head->rows, run->stride, product_magic,
                    product_magic + n_in + h * genes, av_doubles(head->dw));
    if (head->dc != NULL) {
      av_strict_add_columns(run->be, n, genes, head->rows, run->stride, magic, NULL,
                            av_doubles(head->dc));
    }
    if (decode->n_onehot > 0) {
      av_strict_add_columns(run->be, n, genes, head->rows, run->stride, magic, &columns,
                            av_doubles(head->dw) + n_in * genes);
    }
  }
  if (table) {
    av_strict_add_columns(run->be, n, genes, run->w_rows, run->stride,
                          sum_magic + n_in + run->n_heads * genes,
                          run->row == NULL ? NULL : &rows_of_px_r, av_doubles(decode->dpx_r));
  }
}
