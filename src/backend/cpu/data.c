/* Data handles: what is known of a slab's cells before training begins, so that no minibatch has to
 * find it again. 32 bytes a cell. */
#include "backend/cpu/by_gene.h"
#include "base/memory.h"
#include "math/numerics.h"

#include <stdlib.h>

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

void av_cpu_data_free(av_backend *be, av_data *data) {
  (void)be;
  if (data == NULL) {
    return;
  }
  free(data->cell);
  free(data->gene_bounds);
  free(data);
}

/* gene, value: room for the longest row. */
static void take_row(av_data *data, int64_t row, int32_t *gene, float *value) {
  const int64_t n = av_counts_row(&data->dataset->counts, row, gene, value);
  double constant = 0.0;
  double total = 0.0;
  float largest = 0.0f;
  for (int64_t e = 0; e < n; ++e) {
    constant += log_factorial(value[e]);
    total += (double)value[e];
    largest = value[e] > largest ? value[e] : largest;
  }
  data->cell[row] = (av_cell_facts){.constant = constant,
                                    .total = total,
                                    .log_size = av_log_size(data->dataset, row),
                                    .largest = largest,
                                    .code = data->dataset->batch.code[row]};
}

av_status av_cpu_data_load(av_backend *be, const av_dataset *dataset, av_data **data) {
  const int64_t n = dataset->n_local;
  const int64_t longest = av_counts_longest_row(&dataset->counts);
  const int64_t threads = be->threads;
  av_status status = AV_OK;
  int32_t *gene = av_malloc((size_t)(threads * longest), sizeof *gene);
  float *value = av_malloc((size_t)(threads * longest), sizeof *value);
  av_data *made = av_calloc(1, sizeof *made);
  if (made != NULL) {
    made->dataset = dataset;
    made->cell = av_malloc((size_t)n, sizeof *made->cell);
    made->gene_bounds = av_calloc((size_t)threads + 1, sizeof *made->gene_bounds);
  }
  if (!(gene && value && made && made->cell && made->gene_bounds &&
        av_gene_bounds(&dataset->counts, be->threads, made->gene_bounds))) {
    av_cpu_data_free(be, made);
    status = av_fail(AV_NOMEM, "out of memory (%lld cells)", (long long)n);
    goto done;
  }
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t part = 0; part < threads; ++part) {
    for (int64_t row = n * part / threads; row < n * (part + 1) / threads; ++row) {
      take_row(made, row, gene + part * longest, value + part * longest);
    }
  }
  *data = made;
done:
  free(gene);
  free(value);
  return status;
}
