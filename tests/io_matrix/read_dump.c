/* Reads inputs with av_h5ad_read and writes down what arrived, for read_test.py to compare.
 *
 *   read_dump JOBS        one job a line, fields separated by tabs:
 *     OUT BLOCK_BYTES ROUND_BYTES GIANT_CHUNK_BYTES key=value ...      (0: the default size)
 *   runtime.threads threads read, 1 if it is not given.
 *
 * Each rank writes OUT.<rank>: its rows with a digest of their entries. Rank 0 also writes
 * OUT.status: exit status, then the error text; and names every job on stderr, so that warnings can
 * be told apart.
 */
#include "base/log.h"
#include "base/memory.h"
#include "io/read_slab.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 64 };

/* Sum over a row's entries of a scrambled (gene, bits of the float): does not depend on their
 * order, which is checked here. */
static uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static uint64_t digest(int64_t n, const int32_t *gene, const float *value, bool *in_order) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = 0;
    memcpy(&bits, &value[i], sizeof bits);
    sum += scramble((uint64_t)(uint32_t)gene[i] << 32 | bits);
    *in_order = *in_order && (i == 0 || gene[i] > gene[i - 1]) && value[i] != 0;
  }
  return sum;
}

static av_status dump(const av_comm *comm, const av_dataset *d, double seconds, FILE *out) {
  const av_counts *counts = &d->counts;
  const int64_t longest = av_counts_longest_row(counts);
  int32_t *gene = av_malloc((size_t)longest, sizeof *gene);
  float *value = av_malloc((size_t)longest, sizeof *value);
  AV_TRY_ALLOC(gene);
  AV_TRY_ALLOC(value);
  fprintf(out, "total %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n",
          d->n_cells, d->n_genes, d->n_file_genes, d->n_nonzero, d->n_empty_cells,
          d->n_empty_genes);
  fprintf(out, "slab %d %" PRId64 " %" PRId64 " %d %" PRId64 " %" PRId64 " %.3f\n", comm->rank,
          d->first, d->n_local, (int)counts->kind, av_counts_bytes(counts), av_memory_peak(),
          seconds);
  for (int64_t g = 0; g < d->n_genes && comm->rank == 0; ++g) {
    fprintf(out, "gene %s\n", d->genes.at[g]);
  }
  bool in_order = counts->n_rows == d->n_local && counts->n_genes == d->n_genes;
  for (int64_t i = 0; i < d->n_local; ++i) {
    const int64_t n = av_counts_row(counts, i, gene, value);
    const uint64_t sum = digest(n, gene, value, &in_order);
    fprintf(out, "row %" PRId64 " %" PRId64 " %.17g %016" PRIx64 " %d %d %d\n", d->first + i, n,
            d->library[i], sum, d->batch.code[i], d->label.code == NULL ? -9 : d->label.code[i],
            d->split == NULL ? -9 : d->split[i]);
  }
  fprintf(out, "raw %" PRId64 "\n", d->n_read_raw);
  fprintf(out, "order %s\n", in_order ? "fine" : "broken");
  free(gene);
  free(value);
  return AV_OK;
}

static FILE *open_output(const char *stem, const char *suffix) {
  char *path = av_format("%s.%s", stem, suffix);
  FILE *out = path == NULL ? NULL : fopen(path, "w");
  if (out == NULL) {
    fprintf(stderr, "cannot write %s\n", path);
    exit(1);
  }
  free(path);
  return out;
}

static void run_job(const av_comm *comm, char *line) {
  char *field[MAX_FIELDS];
  int n = 0;
  for (char *at = strtok(line, "\t\n"); at != NULL && n < MAX_FIELDS; at = strtok(NULL, "\t\n")) {
    field[n++] = at;
  }
  if (n < 5) {
    fprintf(stderr, "a job has at least 5 fields\n");
    exit(1);
  }
  if (comm->rank == 0) {
    fprintf(stderr, "job %s\n", field[0]);
  }
  av_read_limits limits = av_read_limits_default();
  int64_t *sizes[3] = {&limits.block_bytes, &limits.round_bytes, &limits.giant_chunk_bytes};
  for (int i = 0; i < 3; ++i) {
    const int64_t given = strtoll(field[1 + i], NULL, 10);
    *sizes[i] = given > 0 ? given : *sizes[i];
  }
  av_config config;
  av_dataset dataset;
  av_status status = av_config_defaults(&config);
  if (status == AV_OK) {
    status = av_config_parse(&config, "job", "", n - 4, field + 4);
  }
  const double start = MPI_Wtime();
  if (status == AV_OK) {
    limits.threads = config.runtime.threads_given ? (int)config.runtime.threads : 1;
    status = av_h5ad_read_limited(comm, &config, &dataset, &limits);
  }
  const double seconds = MPI_Wtime() - start;
  char rank[16];
  snprintf(rank, sizeof rank, "%d", comm->rank);
  FILE *out = open_output(field[0], rank);
  if (status == AV_OK) {
    status = dump(comm, &dataset, seconds, out);
    av_dataset_free(&dataset);
  } else {
    fprintf(out, "failed %d %s\n", (int)status, av_error_text());
  }
  fclose(out);
  if (comm->rank == 0) {
    out = open_output(field[0], "status");
    fprintf(out, "%d\n%s\n", (int)status, av_error_text());
    fclose(out);
  }
  av_error_clear();
  av_config_free(&config);
}

int main(int argc, char **argv) {
  av_comm comm;
  av_status status = av_comm_create(&comm, &argc, &argv);
  if (status == AV_OK) {
    status = av_h5_init();
  }
  if (status == AV_OK) {
    status = av_log_open(&comm, NULL);
  }
  FILE *jobs = argc == 2 ? fopen(argv[1], "r") : NULL;
  if (status != AV_OK || jobs == NULL) {
    av_error_print();
    fprintf(stderr, "usage: read_dump JOBS\n");
    return 1;
  }
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, jobs) > 0) {
    run_job(&comm, line);
  }
  free(line);
  fclose(jobs);
  av_comm_free(&comm);
  return 0;
}
