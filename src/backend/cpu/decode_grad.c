/* Gradients of the decoder's weights, intercepts and dispersions from the rows of gradients on the
 * logits; threads share the genes. */
#include "backend/cpu/decode.h"
#include "backend/cpu/strict.h"

#include <string.h>

/* dw (n_in, G) += x^T rows for genes [begin, end). */
static void products(const av_decode_run *run, const av_decode_head *head, int64_t base, int64_t n,
                     int64_t begin, int64_t end) {
  run->kernels->outer_add(n, run->n_in, run->x + base * run->n_in, run->n_in, head->rows + begin,
                          run->stride, end - begin, av_floats(head->dw) + begin, run->genes);
}

/* Rows of the chunk by the row of a table that their cell belongs to. */
typedef struct groups {
  int64_t n;      /* rows of the table */
  int32_t *start; /* (n + 1) */
  int32_t *row;   /* rows of the chunk, by group, increasing */
} groups;

/* Groups by the f-th of each cell's places; space: n_table + 1 + n numbers. */
static groups group_rows(const av_places *places, int64_t f, int64_t n, int64_t n_table,
                         int32_t *space) {
  const groups made = {.n = n_table, .start = space, .row = space + n_table + 1};
  memset(made.start, 0, (size_t)(n_table + 1) * sizeof *made.start);
  for (int64_t r = 0; r < n; ++r) {
    made.start[places->row[r * places->n + f]] += 1;
  }
  int32_t at = 0;
  for (int64_t s = 0; s < n_table; ++s) {
    at += made.start[s];
    made.start[s] = at; /* its end; the loop below walks back to its beginning */
  }
  made.start[n_table] = at;
  for (int64_t r = n - 1; r >= 0; --r) {
    made.row[--made.start[places->row[r * places->n + f]]] = (int32_t)r;
  }
  return made;
}

/* table (., G) += sums of each group's rows, of genes [begin, end); total (G) += those of all rows,
 * unless NULL. sums: a row of working space. */
static void add_groups(const av_decode_run *run, const groups *by, const float *rows,
                       const float *ones, int64_t begin, int64_t end, float *table, float *total,
                       float *sums) {
  const int64_t width = end - begin;
  for (int64_t s = 0; s < by->n; ++s) {
    const int32_t *row = by->row + by->start[s];
    const int64_t n = by->start[s + 1] - by->start[s];
    float *to = table + s * run->genes + begin;
    if (n > 0 && total == NULL) {
      run->kernels->weighted_rows(n, row, ones, rows + begin, run->stride, width, to);
    } else if (n > 0) {
      memset(sums, 0, (size_t)width * sizeof *sums);
      run->kernels->weighted_rows(n, row, ones, rows + begin, run->stride, width, sums);
      run->kernels->add_row(width, sums, to);
      run->kernels->add_row(width, sums, total + begin);
    }
  }
}

/* How the rows of a chunk are grouped: by each factor of the one-hot block, then by dispersion. */
typedef struct groupings {
  groups *by;        /* (factors) of columns of the one-hot block */
  groups dispersion; /* n = 0: all rows have one */
  const float *ones; /* (chunk) */
} groupings;

static groupings group_chunk(const av_decode_run *run, int64_t base, int64_t n, groups *by) {
  const av_decode *decode = run->decode;
  const bool onehot = decode->n_onehot > 0;
  const int64_t factors = onehot ? run->batch->n_factors : 0;
  const int64_t each = decode->n_onehot + 1 + n;
  const int64_t of_dispersion = run->row == NULL ? 0 : decode->n_dispersion + 1 + n;
  int32_t *space =
      av_scratch(run->be, AV_SLOT_PAIRS, factors * each + of_dispersion + n, sizeof *space);
  groupings made = {.by = by};
  const av_places columns = av_columns_from(run->batch, base);
  for (int64_t f = 0; f < factors; ++f) {
    by[f] = group_rows(&columns, f, n, decode->n_onehot, space + f * each);
  }
  space += factors * each;
  if (run->row != NULL) {
    const av_places rows = {.row = run->row + base, .n = 1};
    made.dispersion = group_rows(&rows, 0, n, decode->n_dispersion, space);
    space += of_dispersion;
  }
  float *ones = (void *)space;
  for (int64_t r = 0; r < n; ++r) {
    ones[r] = 1.0f;
  }
  made.ones = ones;
  return made;
}

/* Intercept and one-hot gradients of a head. */
static void add_head_rows(const av_decode_run *run, const groupings *g, const av_decode_head *head,
                          int64_t n, int64_t begin, int64_t end, float *sums) {
  const int64_t factors = run->decode->n_onehot > 0 ? run->batch->n_factors : 0;
  float *dc = av_floats(head->dc);
  if (dc != NULL && factors == 0) {
    run->kernels->sum_rows(n, head->rows + begin, run->stride, end - begin, dc + begin);
  }
  for (int64_t f = 0; f < factors; ++f) {
    add_groups(run, &g->by[f], head->rows, g->ones, begin, end,
               av_floats(head->dw) + run->n_in * run->genes, f == 0 ? dc : NULL, sums);
  }
}

void av_decode_weight_grads(const av_decode_run *run, int64_t base, int64_t n) {
  const av_decode *decode = run->decode;
  const bool table = !run->poisson && !run->cell_theta; /* px_r is a parameter */
  const int threads = run->be->threads;
  groups *by = av_scratch(run->be, AV_SLOT_CODES2, run->batch->n_factors, sizeof *by);
  const groupings g = group_chunk(run, base, n, by);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    float *sums = av_decode_space_of(run, part).q;
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(run->genes, AV_PANEL, part, threads, &begin, &end);
    for (int h = 0; h < run->n_heads && begin < end; ++h) {
      products(run, &run->head[h], base, n, begin, end);
      add_head_rows(run, &g, &run->head[h], n, begin, end, sums);
    }
    if (table && begin < end && g.dispersion.n > 0) {
      add_groups(run, &g.dispersion, run->w_rows, g.ones, begin, end, av_floats(decode->dpx_r),
                 NULL, sums);
    } else if (table && begin < end) {
      run->kernels->sum_rows(n, run->w_rows + begin, run->stride, end - begin,
                             av_floats(decode->dpx_r) + begin);
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
