/* CSC: shares of the columns, redistributed by rows. */
#include "io/read_slab.h"

#include "io/row_bins.h"
#include "base/memory.h"

#include <stdlib.h>

/* An entry on its way to the rank that owns the row. */
typedef struct parcel {
  uint32_t row; /* among the receiver's */
  int32_t gene;
  double value;
} parcel;

/* Chosen columns closer together in the file than this many entries are read in one go. */
enum { SMALL_GAP = 16384 };

/* Walks through the entries of this rank's columns, a block of the file at a time. */
typedef struct walker {
  int64_t *pointer;             /* (n_columns + 1) */
  int64_t column, end_column;   /* current, end of this rank's share */
  int64_t at;                   /* next entry, within `column` */
  int64_t block_first, block_n; /* entries held in value and index */
  double *value;
  int32_t *index;
} walker;

typedef struct exchange {
  walker walk;
  int64_t *rank_first; /* (ranks + 1) first row of each rank */
  int64_t per_round;   /* most parcels one rank sends in a round */
  parcel *made;        /* (per_round) in file order, and whom each is for */
  int32_t *owner;
  parcel *sent;    /* (per_round) grouped by receiver */
  int64_t n_space; /* parcels `received` has room for */
  parcel *received;
  int *send_n, *send_at, *receive_n, *receive_at; /* (ranks) in bytes */
  av_row_bins *bins;
} exchange;

static int64_t column_entries(const av_slab *slab, const int64_t *pointer, int64_t column) {
  return slab->position[column] < 0 ? 0 : pointer[column + 1] - pointer[column];
}

/* Cuts the chosen columns into runs of about equal numbers of entries, one run a rank; *n_mine
 * receives the entries of this rank's. Whole columns, so that repeated entries stay in order. */
static void choose_columns(const av_slab *slab, walker *walk, int64_t *n_mine) {
  const int64_t n_columns = slab->matrix->n_columns;
  int64_t total = 0;
  for (int64_t c = 0; c < n_columns; ++c) {
    total += column_entries(slab, walk->pointer, c);
  }
  const int n_ranks = slab->stored.relay ? 1 : slab->comm->size; /* relay: rank 0 reads all */
  const int rank = slab->comm->rank;
  const double share = (double)total / n_ranks;
  int64_t before = 0;
  walk->column = walk->end_column = 0;
  *n_mine = 0;
  for (int64_t c = 0; c < n_columns; ++c) {
    const int64_t n = column_entries(slab, walk->pointer, c);
    const int64_t owner = n == 0 ? -1 : (int64_t)(((double)before + (double)n / 2) / share);
    if ((owner < n_ranks - 1 ? owner : n > 0 ? n_ranks - 1 : -1) == rank) {
      walk->column = *n_mine == 0 ? c : walk->column;
      walk->end_column = c + 1;
      *n_mine += n;
    }
    before += n;
  }
  walk->at = walk->column < walk->end_column ? walk->pointer[walk->column] : 0;
}

/* Reads on from walk->at: as much of this and the following chosen columns as a block holds. */
static av_status read_block(av_slab *slab, walker *walk) {
  const int64_t limit = walk->at + slab->stored.max_values;
  int64_t end = walk->pointer[walk->column + 1];
  for (int64_t c = walk->column + 1; c < walk->end_column && end < limit; ++c) {
    if (column_entries(slab, walk->pointer, c) > 0) {
      if (walk->pointer[c] - end > SMALL_GAP) {
        break;
      }
      end = walk->pointer[c + 1];
    }
  }
  walk->block_first = walk->at;
  walk->block_n = (end < limit ? end : limit) - walk->at;
  return av_stored_entries(&slab->stored, walk->at, walk->block_n, walk->value, walk->index);
}

/* The rank that owns a row; empty ranks own none. */
static int owner_of(const exchange *ex, int n_ranks, int64_t row, int last) {
  if (row >= ex->rank_first[last] && row < ex->rank_first[last + 1]) {
    return last;
  }
  int low = 0;
  int high = n_ranks - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (row < ex->rank_first[middle + 1]) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/* The next entry of this rank's columns: reads a new block where needed. *more = false at the end.
 */
static av_status next_entry(av_slab *slab, walker *walk, bool *more) {
  while (walk->column < walk->end_column &&
         (walk->at >= walk->pointer[walk->column + 1] || slab->position[walk->column] < 0)) {
    walk->column += 1;
    walk->at = walk->pointer[walk->column];
  }
  *more = walk->column < walk->end_column;
  if (*more && (walk->at < walk->block_first || walk->at >= walk->block_first + walk->block_n)) {
    return read_block(slab, walk);
  }
  return AV_OK;
}

/* Makes up to per_round parcels; send_n counts them by receiver (in parcels). */
static av_status make_parcels(av_slab *slab, exchange *ex, int64_t *n_made) {
  walker *walk = &ex->walk;
  const av_matrix *matrix = slab->matrix;
  int owner = 0;
  *n_made = 0;
  while (*n_made < ex->per_round) {
    bool more = false;
    AV_TRY(next_entry(slab, walk, &more));
    if (!more) {
      return AV_OK;
    }
    const int64_t row = walk->index[walk->at - walk->block_first];
    const double value = walk->value[walk->at - walk->block_first];
    const int32_t gene = slab->position[walk->column];
    if (row < 0 || row >= matrix->n_rows) {
      return av_fail(AV_BADDATA,
                     "%s: damaged: gene number %lld refers to row %lld, but there are %lld rows",
                     matrix->what, (long long)walk->column,
                     (long long)av_read_index(matrix, walk->at), (long long)matrix->n_rows);
    }
    av_check_values(&slab->check, row, 1, &gene, &value);
    owner = owner_of(ex, slab->comm->size, row, owner);
    ex->owner[*n_made] = owner;
    ex->made[*n_made] =
        (parcel){.row = (uint32_t)(row - ex->rank_first[owner]), .gene = gene, .value = value};
    ex->send_n[owner] += 1;
    *n_made += 1;
    walk->at += 1;
  }
  return AV_OK;
}

/* Groups the parcels by receiver, keeping their order, and turns numbers of parcels into bytes. */
static void sort_parcels(exchange *ex, int n_ranks, int64_t n_made) {
  int at = 0;
  for (int r = 0; r < n_ranks; ++r) {
    ex->send_at[r] = at;
    at += ex->send_n[r];
  }
  for (int64_t i = 0; i < n_made; ++i) {
    ex->sent[ex->send_at[ex->owner[i]]++] = ex->made[i];
  }
  const int size = (int)sizeof(parcel);
  for (int r = 0; r < n_ranks; ++r) {
    ex->send_at[r] = (ex->send_at[r] - ex->send_n[r]) * size;
    ex->send_n[r] *= size;
  }
}

static av_status make_room(const av_slab *slab, exchange *ex, int64_t n) {
  if (n <= ex->n_space) {
    return AV_OK;
  }
  free(ex->received);
  ex->received = av_malloc((size_t)n, sizeof *ex->received);
  ex->n_space = ex->received == NULL ? 0 : n;
  return ex->received != NULL
             ? AV_OK
             : av_fail(AV_NOMEM, "%s: out of memory (%lld entries from other ranks)",
                       slab->matrix->what, (long long)n);
}

/* One round: make, agree, tell how many, agree, send, keep. `kept`: success of the last round's
 * keeping. */
static av_status one_round(av_slab *slab, exchange *ex, av_status *kept) {
  const av_comm *comm = slab->comm;
  int64_t n_made = 0;
  for (int r = 0; r < comm->size; ++r) {
    ex->send_n[r] = 0;
  }
  av_status status = *kept;
  if (status == AV_OK) {
    status = make_parcels(slab, ex, &n_made);
  }
  AV_TRY(av_agree(comm, status));
  sort_parcels(ex, comm->size, n_made);
  AV_TRY(AV_MPI(MPI_Alltoall(ex->send_n, 1, MPI_INT, ex->receive_n, 1, MPI_INT, comm->mpi)));
  int64_t bytes = 0;
  for (int r = 0; r < comm->size; ++r) {
    ex->receive_at[r] = (int)bytes; /* per_round keeps the sum below 2^31 */
    bytes += ex->receive_n[r];
  }
  const int64_t n = bytes / (int64_t)sizeof(parcel);
  AV_TRY(av_agree(comm, make_room(slab, ex, n)));
  AV_TRY(AV_MPI(MPI_Alltoallv(ex->sent, ex->send_n, ex->send_at, MPI_BYTE, ex->received,
                              ex->receive_n, ex->receive_at, MPI_BYTE, comm->mpi)));
  for (int64_t i = 0; i < n && *kept == AV_OK; ++i) {
    const parcel *p = &ex->received[i];
    *kept = av_row_bins_add(ex->bins, p->row, p->gene, p->value);
  }
  return AV_OK;
}

static void free_exchange(exchange *ex) {
  free(ex->walk.pointer);
  free(ex->walk.value);
  free(ex->walk.index);
  free(ex->rank_first);
  free(ex->made);
  free(ex->owner);
  free(ex->sent);
  free(ex->received);
  free(ex->send_n);
  free(ex->send_at);
  free(ex->receive_n);
  free(ex->receive_at);
  av_row_bins_free(&ex->bins);
}

/* Everything this rank needs before the first round; *n_rounds: those this rank fills. */
static av_status prepare(av_slab *slab, exchange *ex, int64_t *n_rounds) {
  const av_comm *comm = slab->comm;
  const size_t n_ranks = (size_t)comm->size;
  const int n_readers = slab->stored.relay ? 1 : comm->size;
  int64_t per_round = slab->limits.round_bytes / (int64_t)sizeof(parcel) / n_readers;
  const int64_t most = INT32_MAX / (int64_t)sizeof(parcel) / n_readers;
  per_round = per_round < most ? per_round : most;
  ex->per_round = per_round > 1 ? per_round : 1;
  const size_t n_columns = (size_t)slab->matrix->n_columns;
  ex->walk.pointer = av_malloc(n_columns + 1, sizeof *ex->walk.pointer);
  AV_TRY_ALLOC(ex->walk.pointer);
  AV_TRY(av_read_pointers(slab->matrix, 0, slab->matrix->n_columns, "column", ex->walk.pointer));
  int64_t n_mine = 0;
  choose_columns(slab, &ex->walk, &n_mine);
  *n_rounds = (n_mine + ex->per_round - 1) / ex->per_round;
  ex->walk.value = av_malloc((size_t)slab->stored.max_values, sizeof *ex->walk.value);
  ex->walk.index = av_malloc((size_t)slab->stored.max_values, sizeof *ex->walk.index);
  ex->rank_first = av_calloc(n_ranks + 1, sizeof *ex->rank_first);
  ex->made = av_malloc((size_t)ex->per_round, sizeof *ex->made);
  ex->owner = av_malloc((size_t)ex->per_round, sizeof *ex->owner);
  ex->sent = av_malloc((size_t)ex->per_round, sizeof *ex->sent);
  ex->send_n = av_calloc(n_ranks, sizeof *ex->send_n);
  ex->send_at = av_calloc(n_ranks, sizeof *ex->send_at);
  ex->receive_n = av_calloc(n_ranks, sizeof *ex->receive_n);
  ex->receive_at = av_calloc(n_ranks, sizeof *ex->receive_at);
  if (ex->walk.value == NULL || ex->walk.index == NULL || ex->rank_first == NULL ||
      ex->made == NULL || ex->owner == NULL || ex->sent == NULL || ex->send_n == NULL ||
      ex->send_at == NULL || ex->receive_n == NULL || ex->receive_at == NULL) {
    return av_fail(AV_NOMEM, "%s: out of memory (redistribution of columns)", slab->matrix->what);
  }
  for (int r = 0; r <= comm->size; ++r) {
    ex->rank_first[r] = av_rank_first(&slab->dataset->partition, r);
  }
  return av_row_bins_create(&ex->bins, slab->dataset->n_local, slab->dataset->n_genes);
}

static av_status build(av_slab *slab, av_row_bins *bins) {
  av_counts_builder *builder = NULL;
  const int64_t n = av_row_bins_size(bins);
  av_status status = av_builder_create(&builder, slab->dataset->n_genes, slab->dataset->n_local, n,
                                       slab->check.allow_fractions);
  if (status == AV_OK) {
    status = av_row_bins_flush(bins, builder);
  }
  if (status == AV_OK) {
    status = av_builder_finish(builder, &slab->dataset->counts);
  }
  av_builder_free(&builder);
  return status;
}

av_status av_read_csc(av_slab *slab) {
  exchange ex = {0};
  int64_t n_rounds = 0;
  av_status kept = AV_OK;
  av_status status = AV_OK;
  const av_status prepared = prepare(slab, &ex, &n_rounds);
  AV_GO(status, av_agree(slab->comm, prepared), done);
  AV_GO(status, av_max_i64(slab->comm, &n_rounds, 1), done);
  for (int64_t i = 0; i < n_rounds; ++i) {
    AV_GO(status, one_round(slab, &ex, &kept), done);
  }
  if (kept == AV_OK) {
    kept = build(slab, ex.bins);
  }
  AV_GO(status, av_agree(slab->comm, kept), done);
done:
  free_exchange(&ex);
  return status;
}
