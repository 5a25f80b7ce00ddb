#include "io/stored.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MIB = 1 << 20, ENTRY_BYTES = sizeof(double) + sizeof(int32_t) };

av_read_limits av_read_limits_default(void) {
  return (av_read_limits){.block_bytes = 32 * (int64_t)MIB,
                          .round_bytes = 16 * (int64_t)MIB,
                          .giant_chunk_bytes = 64 * (int64_t)MIB,
                          .threads = 1};
}

/* The code that a bool enum calls TRUE; other enums are not numbers. */
static av_status read_true_code(av_stored *stored, hid_t type) {
  const char *what = stored->matrix->what;
  hid_t native = -1;
  bool found[2] = {false, false};
  AV_TRY(AV_H5_ID(native, H5Tget_native_type(type, H5T_DIR_ASCEND), what));
  const size_t size = H5Tget_size(native);
  for (unsigned i = 0; i < 2 && size <= sizeof(int64_t); ++i) {
    int64_t code = 0; /* little-endian: the low bytes */
    char *name = H5Tget_member_name(native, i);
    if (name != NULL && H5Tget_member_value(native, i, &code) >= 0) {
      const bool is_true = strcasecmp(name, "TRUE") == 0;
      found[is_true] = is_true || strcasecmp(name, "FALSE") == 0;
      stored->true_code = is_true ? code : stored->true_code;
    }
    H5free_memory(name);
  }
  av_h5_close(&native);
  return found[0] && found[1]
             ? AV_OK
             : av_fail(AV_BADDATA, "%s: an enumeration other than FALSE, TRUE", what);
}

static av_status read_float_width(av_stored *stored, hid_t type) {
  size_t position[3];
  size_t exponent = 0;
  size_t mantissa = 0;
  AV_TRY(AV_H5(H5Tget_fields(type, &position[0], &position[1], &exponent, &position[2], &mantissa),
               stored->matrix->what));
  if (mantissa <= 23) {
    stored->kind = AV_STORED_FLOAT;
    stored->largest = 0x1p24;
    stored->unrounded = mantissa < 23 ? ldexp(1, (int)mantissa + 1) : INFINITY;
  } else {
    stored->kind = AV_STORED_DOUBLE;
  }
  return AV_OK;
}

static av_status read_kind(av_stored *stored) {
  hid_t type = -1;
  AV_TRY(AV_H5_ID(type, H5Dget_type(stored->matrix->data), stored->matrix->what));
  av_status status = AV_OK;
  stored->largest = 0x1p53 - 1; /* 2^53 may already be a rounded 2^53 + 1 */
  stored->unrounded = INFINITY;
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      stored->kind = H5Tget_sign(type) == H5T_SGN_NONE ? AV_STORED_UNSIGNED : AV_STORED_SIGNED;
      break;
    case H5T_ENUM:
      stored->kind = AV_STORED_BOOL;
      status = read_true_code(stored, type);
      break;
    default:
      status = read_float_width(stored, type);
      break;
  }
  av_h5_close(&type);
  return status;
}

/* Whether rank 0 alone should read `dataset`: it is one or two compressed chunks of which every
 * rank would hold a copy, or chunks so large that no rank should hold its own. */
static av_status wants_relay(hid_t dataset, int n_dims, const av_read_limits *limits,
                             const char *what, bool *relay) {
  hsize_t chunk[2] = {1, 1};
  hsize_t extent[2] = {0, 0};
  int64_t bytes = 0;
  AV_TRY(av_matrix_chunk(dataset, what, n_dims, chunk, &bytes));
  hid_t space = -1;
  AV_TRY(AV_H5_ID(space, H5Dget_space(dataset), what));
  const bool simple = H5Sget_simple_extent_type(space) == H5S_SIMPLE;
  const av_status status =
      simple ? AV_H5(H5Sget_simple_extent_dims(space, extent, NULL), what) : AV_OK;
  av_h5_close(&space);
  int64_t n_chunks = 1;
  for (int i = 0; i < n_dims; ++i) {
    n_chunks *= (int64_t)(extent[i] / chunk[i] + (extent[i] % chunk[i] != 0));
  }
  const bool giant = bytes > limits->giant_chunk_bytes && bytes > 0;
  *relay = *relay || (giant && (n_chunks <= 2 || bytes > 8 * limits->giant_chunk_bytes));
  return status;
}

av_status av_stored_open(av_stored *stored, const av_comm *comm, const av_matrix *matrix,
                         const av_read_limits *limits) {
  *stored = (av_stored){.comm = comm, .matrix = matrix};
  AV_TRY(read_kind(stored));
  const bool sparse = matrix->layout != AV_MATRIX_DENSE;
  const int64_t entry = sparse ? (int64_t)ENTRY_BYTES : (int64_t)sizeof(double);
  stored->max_values = limits->block_bytes / entry > 1 ? limits->block_bytes / entry : 1;
  AV_TRY(wants_relay(matrix->data, sparse ? 1 : 2, limits, matrix->what, &stored->relay));
  if (sparse) {
    AV_TRY(wants_relay(matrix->indices, 1, limits, matrix->what, &stored->relay));
  }
  stored->relay = stored->relay && comm->size > 1;
  return AV_OK;
}

/* One block of a dataset into `out`, which holds product(n) elements of `type`. */
static av_status read_block(hid_t dataset, int n_dims, const hsize_t *first, const hsize_t *n,
                            hid_t type, void *out, const char *what) {
  hid_t file_space = -1;
  hid_t memory_space = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(file_space, H5Dget_space(dataset), what), done);
  AV_GO(status, AV_H5(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, first, NULL, n, NULL), what),
        done);
  AV_GO(status, AV_H5_ID(memory_space, H5Screate_simple(n_dims, n, NULL), what), done);
  AV_GO(status, AV_H5(H5Dread(dataset, type, memory_space, file_space, H5P_DEFAULT, out), what),
        done);
done:
  av_h5_close(&memory_space);
  av_h5_close(&file_space);
  return status;
}

/* Reads values into the front of `value` in the wide type of their kind, then expands them in
 * place. */
static av_status read_values(const av_stored *stored, int n_dims, const hsize_t *first,
                             const hsize_t *n, double *value) {
  const hid_t type = stored->kind == AV_STORED_FLOAT      ? H5T_NATIVE_FLOAT
                     : stored->kind == AV_STORED_DOUBLE   ? H5T_NATIVE_DOUBLE
                     : stored->kind == AV_STORED_UNSIGNED ? H5T_NATIVE_UINT64
                                                          : H5T_NATIVE_INT64;
  AV_TRY(read_block(stored->matrix->data, n_dims, first, n, type, value, stored->matrix->what));
  const char *raw = (const char *)value;
  const int64_t total = (int64_t)(n[0] * (n_dims > 1 ? n[1] : 1));
  int64_t whole = 0;
  uint64_t natural = 0;
  float narrow = 0;
  switch (stored->kind) {
    case AV_STORED_FLOAT:
      for (int64_t i = total - 1; i >= 0; --i) {
        memcpy(&narrow, raw + i * (int64_t)sizeof narrow, sizeof narrow);
        value[i] = (double)narrow;
      }
      break;
    case AV_STORED_UNSIGNED:
      for (int64_t i = 0; i < total; ++i) {
        memcpy(&natural, raw + i * (int64_t)sizeof natural, sizeof natural);
        value[i] = (double)natural;
      }
      break;
    case AV_STORED_SIGNED:
    case AV_STORED_BOOL:
      for (int64_t i = 0; i < total; ++i) {
        memcpy(&whole, raw + i * (int64_t)sizeof whole, sizeof whole);
        value[i] =
            stored->kind == AV_STORED_BOOL ? (double)(whole == stored->true_code) : (double)whole;
      }
      break;
    case AV_STORED_DOUBLE:
      break;
  }
  return AV_OK;
}

static av_status read_entries(const av_stored *stored, int64_t first, int64_t n, double *value,
                              int32_t *index) {
  const hsize_t from = (hsize_t)first;
  const hsize_t count = (hsize_t)n;
  AV_TRY(read_values(stored, 1, &from, &count, value));
  return read_block(stored->matrix->indices, 1, &from, &count, H5T_NATIVE_INT32, index,
                    stored->matrix->what);
}

/* --- relay: a request is four numbers, all zero for "done"; the answer is a status, then the data
 * --- */

enum { TAG_REQUEST = 101, TAG_STATUS, TAG_VALUES, TAG_INDICES };
typedef struct request {
  int64_t first, n;          /* entries, or rows */
  int64_t column, n_columns; /* n_columns = 0: entries of a sparse matrix */
} request;

static av_status read_request(const av_stored *stored, const request *wanted, double *value,
                              int32_t *index) {
  if (wanted->n_columns == 0) {
    return read_entries(stored, wanted->first, wanted->n, value, index);
  }
  const hsize_t first[2] = {(hsize_t)wanted->first, (hsize_t)wanted->column};
  const hsize_t n[2] = {(hsize_t)wanted->n, (hsize_t)wanted->n_columns};
  return read_values(stored, 2, first, n, value);
}

static int64_t request_size(const request *wanted) {
  return wanted->n * (wanted->n_columns == 0 ? 1 : wanted->n_columns);
}

/* Answers one rank until it is done. */
static av_status serve_rank(const av_stored *stored, int rank, av_status *status, double *value,
                            int32_t *index) {
  const MPI_Comm mpi = stored->comm->mpi;
  for (;;) {
    request wanted = {0};
    AV_TRY(AV_MPI(MPI_Recv(&wanted, (int)sizeof wanted, MPI_BYTE, rank, TAG_REQUEST, mpi,
                           MPI_STATUS_IGNORE)));
    if (wanted.n == 0) {
      return AV_OK;
    }
    if (*status == AV_OK) {
      *status = read_request(stored, &wanted, value, index);
    }
    const int64_t answer = *status;
    AV_TRY(AV_MPI(MPI_Send(&answer, 1, MPI_INT64_T, rank, TAG_STATUS, mpi)));
    if (*status == AV_OK) {
      const int n = (int)request_size(&wanted);
      AV_TRY(AV_MPI(MPI_Send(value, n, MPI_DOUBLE, rank, TAG_VALUES, mpi)));
      if (wanted.n_columns == 0) {
        AV_TRY(AV_MPI(MPI_Send(index, n, MPI_INT32_T, rank, TAG_INDICES, mpi)));
      }
    }
  }
}

av_status av_stored_begin(av_stored *stored, av_status status) {
  if (!stored->relay || stored->comm->rank != 0) {
    return status;
  }
  double *value = av_malloc((size_t)stored->max_values, sizeof *value);
  int32_t *index = av_malloc((size_t)stored->max_values, sizeof *index);
  if (status == AV_OK && (value == NULL || index == NULL)) {
    status = av_fail(AV_NOMEM, "%s: out of memory (block of %lld values)", stored->matrix->what,
                     (long long)stored->max_values);
  }
  av_status told = AV_OK;
  for (int rank = 1; rank < stored->comm->size && told == AV_OK; ++rank) {
    told = serve_rank(stored, rank, &status, value, index);
  }
  free(value);
  free(index);
  return told != AV_OK ? told : status;
}

av_status av_stored_end(av_stored *stored, av_status status) {
  if (stored->relay && stored->comm->rank != 0) {
    const request done = {0};
    const av_status told =
        AV_MPI(MPI_Send(&done, (int)sizeof done, MPI_BYTE, 0, TAG_REQUEST, stored->comm->mpi));
    status = status == AV_OK ? told : status;
  }
  stored->relay = false;
  return status;
}

static av_status fetch(av_stored *stored, const request *wanted, double *value, int32_t *index) {
  const int64_t n = request_size(wanted);
  if (n == 0) {
    return AV_OK;
  }
  if (n > stored->max_values) {
    return AV_FAIL_BUG("%lld values asked for, %lld allowed", (long long)n,
                       (long long)stored->max_values);
  }
  if (!stored->relay || stored->comm->rank == 0) {
    return read_request(stored, wanted, value, index);
  }
  const MPI_Comm mpi = stored->comm->mpi;
  int64_t answer = AV_OK;
  AV_TRY(AV_MPI(MPI_Send(wanted, (int)sizeof *wanted, MPI_BYTE, 0, TAG_REQUEST, mpi)));
  AV_TRY(AV_MPI(MPI_Recv(&answer, 1, MPI_INT64_T, 0, TAG_STATUS, mpi, MPI_STATUS_IGNORE)));
  if (answer != AV_OK) {
    return av_fail((av_status)answer, "%s: rank 0 could not read it", stored->matrix->what);
  }
  AV_TRY(AV_MPI(MPI_Recv(value, (int)n, MPI_DOUBLE, 0, TAG_VALUES, mpi, MPI_STATUS_IGNORE)));
  if (wanted->n_columns == 0) {
    AV_TRY(AV_MPI(MPI_Recv(index, (int)n, MPI_INT32_T, 0, TAG_INDICES, mpi, MPI_STATUS_IGNORE)));
  }
  return AV_OK;
}

av_status av_stored_entries(av_stored *stored, int64_t first, int64_t n, double *value,
                            int32_t *index) {
  const request wanted = {.first = first, .n = n};
  return fetch(stored, &wanted, value, index);
}

av_status av_stored_tile(av_stored *stored, int64_t row, int64_t n_rows, int64_t column,
                         int64_t n_columns, double *value) {
  const request wanted = {.first = row, .n = n_rows, .column = column, .n_columns = n_columns};
  return n_columns == 0 ? AV_OK : fetch(stored, &wanted, value, NULL);
}

/* --- pointers -----------------------------------------------------------------------------------
 */

static av_status check_pointers(const av_matrix *matrix, int64_t first, int64_t n,
                                const char *major, const int64_t *pointer) {
  const int64_t n_major = matrix->layout == AV_MATRIX_CSC ? matrix->n_columns : matrix->n_rows;
  if (first == 0 && pointer[0] != 0) {
    return av_fail(AV_BADDATA, "%s: damaged: indptr begins with %lld instead of 0", matrix->what,
                   (long long)pointer[0]);
  }
  for (int64_t i = 0; i <= n; ++i) {
    const int64_t row = first + i - 1; /* the one that ends here */
    if (pointer[i] < 0 || (i > 0 && pointer[i] < pointer[i - 1])) {
      return av_fail(AV_BADDATA,
                     "%s: damaged: indptr decreases at %s %lld (to %lld); counted in 32 bits when "
                     "it was written? Write it again from the original data, with 64-bit indptr",
                     matrix->what, major, (long long)(row < 0 ? 0 : row), (long long)pointer[i]);
    }
    if (pointer[i] > matrix->n_stored) {
      return av_fail(
          AV_BADDATA, "%s: damaged: indptr says %s %lld ends at %lld, but there are %lld values",
          matrix->what, major, (long long)row, (long long)pointer[i], (long long)matrix->n_stored);
    }
  }
  if (first + n == n_major && pointer[n] != matrix->n_stored) {
    return av_fail(AV_BADDATA, "%s: damaged: indptr ends at %lld, but there are %lld values",
                   matrix->what, (long long)pointer[n], (long long)matrix->n_stored);
  }
  return AV_OK;
}

av_status av_read_pointers(const av_matrix *matrix, int64_t first, int64_t n, const char *major,
                           int64_t *pointer) {
  const int64_t piece = 8 * (int64_t)MIB;
  for (int64_t at = 0; at <= n; at += piece) {
    const int64_t start = first + at;
    const hsize_t from = (hsize_t)start;
    const int64_t rest = n + 1 - at;
    const hsize_t count = (hsize_t)(rest < piece ? rest : piece);
    AV_TRY(
        read_block(matrix->indptr, 1, &from, &count, H5T_NATIVE_INT64, pointer + at, matrix->what));
  }
  return check_pointers(matrix, first, n, major, pointer);
}

int64_t av_read_index(const av_matrix *matrix, int64_t at) {
  const hsize_t from = (hsize_t)at;
  const hsize_t one = 1;
  int64_t index = -1;
  if (read_block(matrix->indices, 1, &from, &one, H5T_NATIVE_INT64, &index, matrix->what) !=
      AV_OK) {
    return -1;
  }
  return index;
}
