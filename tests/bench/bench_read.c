/* Seconds of reading counts: ours, and a bare H5Dread of the same arrays into memory.
 *
 *   bench_read plain|huge|ours FILE THREADS ROUNDS
 *
 * X, a CSR matrix. `plain`: each rank an equal share of data and indices and of indptr, in the
 * types they are stored in, on one thread whatever THREADS, into memory that it takes for them by
 * malloc. `huge`: the same into memory of huge pages, which ours asks for. `ours`: names and
 * columns ("metadata"), then the counts into their compact form with everything checked
 * ("counts"). One line of JSON from rank 0: a list of seconds a round, of the slowest rank, and the
 * bytes read.
 */
#include "base/log.h"
#include "base/memory.h"
#include "io/h5.h"
#include "io/read_slab.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROUNDS = 1000, ARRAYS = 3 };

typedef struct times {
  double metadata[MOST_ROUNDS], counts[MOST_ROUNDS];
  int64_t bytes, nonzeros;
  void *memory[ARRAYS]; /* plain and huge: of this rank's shares */
} times;

/* One of the arrays, open, and this rank's share of it. */
typedef struct array {
  hid_t dataset, type, space;
  hsize_t n, first, share;
  size_t width;
} array;

static const char *const links[ARRAYS] = {"X/data", "X/indices", "X/indptr"};

static void close_array(array *a) {
  av_h5_close(&a->space);
  av_h5_close(&a->type);
  av_h5_close(&a->dataset);
}

static av_status open_array(array *a, const av_comm *comm, hid_t file, const char *link) {
  hid_t stored = -1;
  av_status status = AV_OK;
  *a = (array){.dataset = -1, .type = -1, .space = -1};
  AV_GO(status, AV_H5_ID(a->dataset, H5Dopen2(file, link, H5P_DEFAULT), link), done);
  AV_GO(status, AV_H5_ID(stored, H5Dget_type(a->dataset), link), done);
  AV_GO(status, AV_H5_ID(a->type, H5Tget_native_type(stored, H5T_DIR_ASCEND), link), done);
  AV_GO(status, AV_H5_ID(a->space, H5Dget_space(a->dataset), link), done);
  AV_GO(status, AV_H5(H5Sget_simple_extent_dims(a->space, &a->n, NULL), link), done);
  a->first = a->n * (hsize_t)comm->rank / (hsize_t)comm->size;
  a->share = a->n * (hsize_t)(comm->rank + 1) / (hsize_t)comm->size - a->first;
  a->width = H5Tget_size(a->type);

done:
  av_h5_close(&stored);
  if (status != AV_OK) {
    close_array(a);
  }
  return status;
}

/* This rank's share of one array into *memory, which is taken here. */
static av_status read_bare(const av_comm *comm, hid_t file, const char *link, bool huge,
                           void **memory, int64_t *bytes) {
  array a;
  hid_t memory_space = -1;
  av_status status = AV_OK;
  AV_TRY(open_array(&a, comm, file, link));
  *bytes += (int64_t)(a.n * a.width);
  *memory = huge ? av_malloc(a.share, a.width) : malloc(a.share * a.width);
  if (*memory == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "%s: out of memory", link), done);
  }
  AV_GO(status, AV_H5_ID(memory_space, H5Screate_simple(1, &a.share, NULL), link), done);
  AV_GO(status,
        AV_H5(H5Sselect_hyperslab(a.space, H5S_SELECT_SET, &a.first, NULL, &a.share, NULL), link),
        done);
  AV_GO(status,
        AV_H5(H5Dread(a.dataset, a.type, memory_space, a.space, H5P_DEFAULT, *memory), link), done);

done:
  av_h5_close(&memory_space);
  close_array(&a);
  return status;
}

static void free_memory(times *t) {
  for (int i = 0; i < ARRAYS; ++i) {
    free(t->memory[i]);
    t->memory[i] = NULL;
  }
}

static av_status round_bare(const av_comm *comm, const char *path, bool huge, times *t) {
  hid_t file = -1;
  t->bytes = 0;
  AV_TRY(AV_H5_ID(file, H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), path));
  av_status status = AV_OK;
  for (int i = 0; i < ARRAYS && status == AV_OK; ++i) {
    status = read_bare(comm, file, links[i], huge, &t->memory[i], &t->bytes);
  }
  av_h5_close(&file);
  return status;
}

/* Seconds since `start` of the slowest rank. */
static double elapsed(const av_comm *comm, double start) {
  double seconds = MPI_Wtime() - start;
  MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, comm->mpi);
  return seconds;
}

static av_status round_ours(const av_comm *comm, const av_config *config, int threads, times *t,
                            int round) {
  av_dataset dataset = {0};
  av_input_plan plan = {0};
  av_read_limits limits = av_read_limits_default();
  limits.threads = threads;
  double start = MPI_Wtime();
  av_status status = av_h5ad_read_metadata(comm, config, &dataset, &plan);
  t->metadata[round] = elapsed(comm, start);
  start = MPI_Wtime();
  if (status == AV_OK) {
    status = av_h5ad_read_slabs(comm, config, &dataset, &plan, &limits);
  }
  t->counts[round] = elapsed(comm, start);
  t->nonzeros = dataset.n_nonzero;
  av_input_plan_free(&plan);
  av_dataset_free(&dataset);
  return status;
}

static void print_list(const char *name, int n, const double *seconds) {
  printf("\"%s\": [", name);
  for (int i = 0; i < n; ++i) {
    printf("%s%.6f", i > 0 ? ", " : "", seconds[i]);
  }
  printf("]");
}

static av_status run(const av_comm *comm, char **argv) {
  const bool ours = strcmp(argv[1], "ours") == 0;
  const bool huge = strcmp(argv[1], "huge") == 0;
  const int threads = atoi(argv[3]);
  const int rounds = atoi(argv[4]);
  if ((!ours && !huge && strcmp(argv[1], "plain") != 0) || threads < 1 || rounds < 1 ||
      rounds > MOST_ROUNDS) {
    return av_fail(AV_USAGE, "bench_read plain|huge|ours FILE THREADS ROUNDS");
  }
  char *input = av_format("data.input=%s", argv[2]);
  times *t = av_calloc(1, sizeof *t);
  av_config config = {0};
  av_status status = input == NULL || t == NULL ? av_fail(AV_NOMEM, "out of memory") : AV_OK;
  if (status == AV_OK) {
    status = av_config_defaults(&config);
  }
  if (status == AV_OK) {
    char *settings[] = {input, "data.empty_cells=nan"};
    status = av_config_parse(&config, "bench", "", 2, settings);
  }
  for (int i = 0; i < rounds && status == AV_OK; ++i) {
    MPI_Barrier(comm->mpi);
    const double start = MPI_Wtime();
    if (ours) {
      status = round_ours(comm, &config, threads, t, i);
    } else {
      status = av_agree(comm, round_bare(comm, argv[2], huge, t));
      t->counts[i] = elapsed(comm, start);
      free_memory(t);
    }
  }
  if (status == AV_OK && comm->rank == 0) {
    printf("{\"bytes\": %" PRId64 ", \"nonzeros\": %" PRId64 ", ", t->bytes, t->nonzeros);
    print_list("metadata", rounds, t->metadata);
    printf(", ");
    print_list("counts", rounds, t->counts);
    printf("}\n");
  }
  av_config_free(&config);
  if (t != NULL) {
    free_memory(t);
  }
  free(t);
  free(input);
  return status;
}

int main(int argc, char **argv) {
  av_comm comm;
  (void)mallopt(M_MMAP_THRESHOLD, 1 << 17); /* no round gets memory that one before has touched */
  av_status status = av_comm_create(&comm, &argc, &argv);
  if (status == AV_OK) {
    status = av_h5_init();
  }
  if (status == AV_OK) {
    status = av_log_open(&comm, NULL);
  }
  if (status == AV_OK) {
    status = argc == 5 ? run(&comm, argv)
                       : av_fail(AV_USAGE, "bench_read plain|huge|ours FILE THREADS ROUNDS");
  }
  if (status != AV_OK) {
    av_error_print();
  }
  av_comm_free(&comm);
  return status == AV_OK ? 0 : 1;
}
