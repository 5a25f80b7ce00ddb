/* Data handles and minibatches: chosen rows of the compact counts, expanded once by all threads,
 * and the same entries by gene for the first layer's weight gradient. */
#include "backend/cpu/state.h"
#include "base/memory.h"
#include "math/numerics.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

av_status av_cpu_data_load(av_backend *be, const av_dataset *dataset, av_data **data) {
  (void)be;
  av_data *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = dataset;
  *data = made;
  return AV_OK;
}

void av_cpu_data_free(av_backend *be, av_data *data) {
  (void)be;
  free(data);
}

void av_cpu_batch_free(av_backend *be, av_batch *batch) {
  (void)be;
  if (batch == NULL) {
    return;
  }
  free(batch->row_start);
  free(batch->gene);
  free(batch->value);
  free(batch->log1p);
  free(batch->cell);
  free(batch->code);
  free(batch->label);
  free(batch->column);
  free(batch->continuous);
  free(batch->counting);
  free(batch->log_size);
  free(batch->constant);
  free(batch->total);
  free(batch->largest);
  if (batch->lists != NULL) {
    free(batch->lists->start);
    free(batch->lists->row);
    free(batch->lists->value);
    free(batch->lists->next);
    free(batch->lists->totals);
    free(batch->lists);
  }
  free(batch);
}

/* Sum of the max_rows longest rows: no minibatch has more non-zeros. Returns -1 without memory. */
static int64_t most_entries(const av_counts *counts, int64_t max_rows) {
  const int64_t longest = av_counts_longest_row(counts);
  int64_t *rows_of_length = av_calloc((size_t)longest + 1, sizeof *rows_of_length);
  if (rows_of_length == NULL) {
    return -1;
  }
  for (int64_t row = 0; row < counts->n_rows; ++row) {
    rows_of_length[counts->row_start[row + 1] - counts->row_start[row]] += 1;
  }
  int64_t entries = 0;
  int64_t left = max_rows;
  for (int64_t length = longest; length > 0 && left > 0; --length) {
    const int64_t rows = rows_of_length[length] < left ? rows_of_length[length] : left;
    entries += rows * length;
    left -= rows;
  }
  free(rows_of_length);
  return entries;
}

/* Room for what is known of each cell besides its counts. */
static bool allocate_facts(av_batch *batch, size_t rows) {
  const av_design *design = &batch->dataset->design;
  batch->n_factors = design->n_factors;
  batch->n_continuous = design->n_continuous;
  const size_t continuous = (size_t)design->n_continuous;
  const bool labels = batch->dataset->label.code != NULL;
  batch->cell = av_calloc(rows, sizeof *batch->cell);
  batch->code = av_calloc(rows, sizeof *batch->code);
  batch->label = labels ? av_calloc(rows, sizeof *batch->label) : NULL;
  batch->column = av_calloc(rows * (size_t)design->n_factors, sizeof *batch->column);
  batch->continuous = av_calloc(rows * continuous, sizeof *batch->continuous);
  batch->counting = av_calloc(continuous, sizeof *batch->counting);
  batch->log_size = av_calloc(rows, sizeof *batch->log_size);
  batch->constant = av_calloc(rows, sizeof *batch->constant);
  batch->total = av_calloc(rows, sizeof *batch->total);
  batch->largest = av_calloc(rows, sizeof *batch->largest);
  if (!(batch->cell && batch->code && (batch->label || !labels) && batch->column &&
        batch->continuous && batch->counting && batch->log_size && batch->constant &&
        batch->total && batch->largest)) {
    return false;
  }
  for (size_t c = 0; c < continuous; ++c) {
    batch->counting[c] = (int32_t)c;
  }
  return true;
}

av_status av_cpu_batch_create(av_backend *be, av_data *data, int64_t max_rows, av_batch **batch) {
  av_batch *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = data->dataset;
  made->max_rows = max_rows;
  const int64_t entries = most_entries(&data->dataset->counts, max_rows);
  const size_t n_entries = entries < 0 ? 0 : (size_t)entries;
  const size_t rows = (size_t)max_rows;
  const size_t genes = (size_t)data->dataset->n_genes;
  const size_t threads = (size_t)be->threads;
  made->row_start = av_calloc(rows + 1, sizeof *made->row_start);
  made->gene = av_calloc(n_entries, sizeof *made->gene);
  made->value = av_calloc(n_entries, sizeof *made->value);
  made->log1p = av_calloc(n_entries, sizeof *made->log1p);
  made->lists = av_calloc(1, sizeof *made->lists);
  bool complete = entries >= 0 && made->row_start && made->gene && made->value && made->log1p &&
                  made->lists && allocate_facts(made, rows);
  if (complete) {
    av_gene_lists *lists = made->lists;
    lists->start = av_calloc(genes + 1, sizeof *lists->start);
    lists->row = av_calloc(n_entries, sizeof *lists->row);
    lists->value = av_calloc(n_entries, sizeof *lists->value);
    lists->next = av_calloc(threads * genes, sizeof *lists->next);
    lists->totals = av_calloc(threads, sizeof *lists->totals);
    complete = lists->start && lists->row && lists->value && lists->next && lists->totals;
  }
  if (!complete) {
    av_cpu_batch_free(be, made);
    return av_fail(AV_NOMEM, "out of memory (minibatch of %lld rows)", (long long)max_rows);
  }
  *batch = made;
  return AV_OK;
}

enum { N_FACTORIALS = 64 };

/* log(0!) ... log(63!): the counts that dominate. */
static const double factorials[N_FACTORIALS] = {0.0,
                                                0.0,
                                                0.6931471805599453,
                                                1.791759469228055,
                                                3.1780538303479458,
                                                4.787491742782046,
                                                6.579251212010101,
                                                8.525161361065415,
                                                10.60460290274525,
                                                12.801827480081469,
                                                15.104412573075516,
                                                17.502307845873887,
                                                19.987214495661885,
                                                22.552163853123425,
                                                25.19122118273868,
                                                27.89927138384089,
                                                30.671860106080672,
                                                33.50507345013689,
                                                36.39544520803305,
                                                39.339884187199495,
                                                42.335616460753485,
                                                45.38013889847691,
                                                48.47118135183523,
                                                51.60667556776438,
                                                54.78472939811232,
                                                58.00360522298052,
                                                61.261701761002,
                                                64.55753862700634,
                                                67.88974313718154,
                                                71.25703896716801,
                                                74.65823634883016,
                                                78.0922235533153,
                                                81.55795945611504,
                                                85.05446701758152,
                                                88.58082754219768,
                                                92.1361756036871,
                                                95.7196945421432,
                                                99.33061245478743,
                                                102.96819861451381,
                                                106.63176026064346,
                                                110.32063971475739,
                                                114.0342117814617,
                                                117.77188139974507,
                                                121.53308151543864,
                                                125.3172711493569,
                                                129.12393363912722,
                                                132.95257503561632,
                                                136.80272263732635,
                                                140.67392364823425,
                                                144.5657439463449,
                                                148.47776695177302,
                                                152.40959258449735,
                                                156.3608363030788,
                                                160.3311282166309,
                                                164.32011226319517,
                                                168.32744544842765,
                                                172.3527971391628,
                                                176.39584840699735,
                                                180.45629141754378,
                                                184.53382886144948,
                                                188.6281734236716,
                                                192.7390472878449,
                                                196.86618167289,
                                                201.00931639928152};

/* lgamma(x + 1), from the table when x is a small whole number. */
static double log_factorial(float x) {
  const int whole = x < (float)N_FACTORIALS ? (int)x : -1;
  return whole >= 0 && (float)whole == x ? factorials[whole] : av_lgamma((double)x + 1.0);
}

/* What the design says of cell i of the minibatch, row `row` of the slab. */
static void describe(av_batch *batch, int64_t i, int64_t row) {
  const av_dataset *dataset = batch->dataset;
  const av_design *design = &dataset->design;
  const int64_t factors = batch->n_factors;
  const int64_t continuous = batch->n_continuous;
  batch->cell[i] = dataset->first + row;
  batch->code[i] = dataset->batch.code[row];
  if (batch->label != NULL) {
    batch->label[i] = dataset->label.code[row];
  }
  for (int64_t f = 0; f < factors; ++f) {
    batch->column[i * factors + f] = design->column[row * factors + f];
  }
  for (int64_t c = 0; c < continuous; ++c) {
    batch->continuous[i * continuous + c] = (float)design->continuous[row * continuous + c];
  }
  batch->log_size[i] = av_log_size(dataset, row);
}

static void expand(const av_kernels *kernels, av_batch *batch, int64_t i, int64_t row) {
  describe(batch, i, row);
  const int64_t first = batch->row_start[i];
  const int64_t n =
      av_counts_row(&batch->dataset->counts, row, batch->gene + first, batch->value + first);
  const float *value = batch->value + first;
  double constant = 0.0;
  double total = 0.0;
  float largest = 0.0f;
  for (int64_t e = 0; e < n; ++e) {
    constant += log_factorial(value[e]);
    total += (double)value[e];
    largest = value[e] > largest ? value[e] : largest;
  }
  kernels->log1p_row(n, value, batch->log1p + first);
  batch->constant[i] = constant;
  batch->total[i] = total;
  batch->largest[i] = largest;
}

void av_cpu_batch_select(av_backend *be, av_batch *batch, int64_t n, const int64_t *rows) {
  const int64_t *row_start = batch->dataset->counts.row_start;
  batch->n = n;
  batch->lists->holds = AV_LISTS_NONE;
  for (int64_t i = 0; i < n; ++i) {
    batch->row_start[i + 1] = batch->row_start[i] + row_start[rows[i] + 1] - row_start[rows[i]];
  }
  const av_kernels *kernels = av_kernels_of(be);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < n; ++i) {
    expand(kernels, batch, i, rows[i]);
  }
}

/* A counting sort by gene. Each part of the rows counts its genes; from the counts follows where
 * each part's entries of each gene begin; then each part places its entries. */
static void sort_by_gene(const av_batch *batch, av_gene_lists *lists, const float *value, int part,
                         int parts) {
  const int64_t genes = batch->dataset->n_genes;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  av_slice(batch->n, 1, part, parts, &row_begin, &row_end);
  int64_t *mine = lists->next + part * genes;
  memset(mine, 0, (size_t)genes * sizeof *mine);
  for (int64_t e = batch->row_start[row_begin]; e < batch->row_start[row_end]; ++e) {
    mine[batch->gene[e]] += 1;
  }
#pragma omp barrier
  int64_t begin = 0;
  int64_t end = 0;
  av_slice(genes, 16, part, parts, &begin, &end);
  int64_t total = 0;
  for (int other = 0; other < parts; ++other) {
    const int64_t *counts = lists->next + other * genes;
    for (int64_t g = begin; g < end; ++g) {
      total += counts[g];
    }
  }
  lists->totals[part] = total;
#pragma omp barrier
  int64_t at = 0;
  for (int other = 0; other < part; ++other) {
    at += lists->totals[other];
  }
  for (int64_t g = begin; g < end; ++g) {
    lists->start[g] = at;
    for (int other = 0; other < parts; ++other) {
      int64_t *next = lists->next + other * genes + g;
      const int64_t count = *next;
      *next = at;
      at += count;
    }
  }
#pragma omp barrier
  for (int64_t i = row_begin; i < row_end; ++i) {
    for (int64_t e = batch->row_start[i]; e < batch->row_start[i + 1]; ++e) {
      const int64_t to = mine[batch->gene[e]]++;
      lists->row[to] = (int32_t)i;
      lists->value[to] = value[e];
    }
  }
}

const av_gene_lists *av_batch_lists(av_backend *be, const av_batch *batch, bool log1p) {
  av_gene_lists *lists = batch->lists;
  const float *value = log1p ? batch->log1p : batch->value;
  if (lists->holds == (log1p ? AV_LISTS_LOG1P : AV_LISTS_COUNT)) {
    return lists;
  }
  lists->start[batch->dataset->n_genes] = batch->row_start[batch->n];
#pragma omp parallel num_threads(be->threads)
  { sort_by_gene(batch, lists, value, omp_get_thread_num(), omp_get_num_threads()); }
  lists->holds = log1p ? AV_LISTS_LOG1P : AV_LISTS_COUNT;
  return lists;
}
