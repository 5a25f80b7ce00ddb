/* Matrices with a row per cell, gathered from all ranks in rounds of bounded size.
 *
 * The rows are cut into blocks by a grid over all cells. In every round each rank fills the part of
 * its next block that lies in its slab, having begun that of the round after; all agree that this
 * went well, and that rank 0 could write the round before; then the parts go to rank 0. So nobody
 * waits for a rank that failed, and a GPU works on while a round is gathered.
 *
 * Rank 0 writes uncompressed matrices by a thread of its own (io/block_thread.h), straight to where
 * HDF5 has placed them, while the next round is filled: until that thread has finished nothing else
 * may use HDF5 on the file, since both keep the driver's books. Compressed ones go through HDF5.
 */
#include "base/memory.h"
#include "io/block_thread.h"
#include "io/h5.h"
#include "io/h5ad_put.h"
#include "io/output_driver.h"
#include "io/writer.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

enum {
  MOST_MATRICES = AV_BLOCK_PARTS,
  OWN_BLOCKS = AV_ROW_CALLS,     /* of this round and of the next */
  THREAD_BLOCKS = OWN_BLOCKS + 2 /* one is written, and one waits or arrives */
};

/* This rank's part of a round. */
typedef struct round_part {
  int64_t first, n;     /* rows, global numbers */
  unsigned char *block; /* block_rows rows of each matrix */
} round_part;

typedef struct cell_stream {
  av_writer *writer;
  int n_matrices;
  const char *link[MOST_MATRICES];  /* NULL: filled, but not wanted */
  hid_t dataset[MOST_MATRICES];     /* rank 0 */
  int64_t address[MOST_MATRICES];   /* rank 0: of the values in the file, with a thread */
  uint32_t checksum[MOST_MATRICES]; /* of this rank's slab */
  int n_dims;
  int64_t n_columns;
  hid_t stored, memory;
  int64_t row_bytes, block_rows, chunk_rows;
  int level;
  av_row_source source;
  unsigned char *room;     /* without a thread: OWN_BLOCKS blocks, ... */
  unsigned char *received; /* ... and on rank 0 one of another rank */
  av_block_thread *thread; /* rank 0, uncompressed: has the blocks; else NULL */
} cell_stream;

/* Rows of the slab of `rank` that its round `round` deals with, global numbers: [*first, return).
 */
static int64_t part_of(const cell_stream *s, int rank, int64_t round, int64_t *first) {
  const av_partition *partition = &s->writer->dataset->partition;
  const int64_t begin = av_rank_first(partition, rank);
  const int64_t end = av_rank_first(partition, rank + 1);
  const int64_t low = (begin / s->block_rows + round) * s->block_rows;
  const int64_t high = low + s->block_rows;
  *first = low > begin ? low : begin;
  *first = *first < end ? *first : end;
  return high < end ? high : end;
}

static int64_t count_rounds(const cell_stream *s) {
  const av_partition *partition = &s->writer->dataset->partition;
  int64_t most = 0;
  for (int rank = 0; rank < s->writer->comm->size; ++rank) {
    const int64_t begin = av_rank_first(partition, rank);
    const int64_t end = av_rank_first(partition, rank + 1);
    const int64_t rounds = end > begin ? (end - 1) / s->block_rows - begin / s->block_rows + 1 : 0;
    most = rounds > most ? rounds : most;
  }
  return most;
}

static av_status write_part(const cell_stream *s, int matrix, int64_t first, int64_t n,
                            const void *values) {
  const hsize_t start[2] = {(hsize_t)first, 0};
  const hsize_t count[2] = {(hsize_t)n, (hsize_t)s->n_columns};
  const char *link = s->link[matrix];
  hid_t file = -1;
  hid_t memory = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(memory, H5Screate_simple(s->n_dims, count, NULL), link), done);
  AV_GO(status, AV_H5_ID(file, H5Dget_space(s->dataset[matrix]), link), done);
  AV_GO(status, AV_H5(H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL), link),
        done);
  AV_GO(status,
        AV_H5(H5Dwrite(s->dataset[matrix], s->memory, memory, file, H5P_DEFAULT, values), link),
        done);

done:
  av_h5_close(&file);
  av_h5_close(&memory);
  return av_safe_file_failed(&s->writer->file, status);
}

/* Rank 0: rows [first, first + n) of each matrix, one after the other in `block`. */
static av_status write_block(cell_stream *s, int rank, int64_t first, int64_t n,
                             unsigned char *block) {
  const int64_t bytes = n * s->row_bytes;
  av_status status = AV_OK;
  av_block_part parts[MOST_MATRICES];
  int n_parts = 0;
  for (int m = 0; m < s->n_matrices && status == AV_OK && n > 0; ++m) {
    if (s->link[m] == NULL) {
      continue;
    }
    const unsigned char *values = block + m * bytes;
    if (s->thread == NULL) {
      status = write_part(s, m, first, n, values);
    } else {
      parts[n_parts++] = (av_block_part){.data = values,
                                         .address = s->address[m] + first * s->row_bytes,
                                         .bytes = bytes,
                                         .checksum = rank == 0 ? &s->checksum[m] : NULL};
    }
  }
  if (s->thread != NULL) {
    av_block_thread_put(s->thread, block, n_parts, parts);
  }
  return status;
}

static av_status receive(cell_stream *s, int rank, int64_t n, unsigned char *block) {
  const av_comm *comm = s->writer->comm;
  const int64_t bytes = n * s->row_bytes;
  av_status status = AV_OK;
  for (int m = 0; m < s->n_matrices; ++m) {
    if (s->link[m] != NULL) {
      MPI_Request request = MPI_REQUEST_NULL;
      av_status arrived =
          AV_MPI(MPI_Irecv(block + m * bytes, (int)bytes, MPI_BYTE, rank, m, comm->mpi, &request));
      arrived = arrived == AV_OK ? av_wait(comm, &request) : arrived;
      status = status == AV_OK ? arrived : status;
    }
  }
  return status;
}

/* Rank 0 writes its own part and those that arrive. After a failure it receives on, so that no
 * sender waits. */
static av_status collect_round(cell_stream *s, int64_t round, const round_part *own) {
  const av_comm *comm = s->writer->comm;
  av_status status = AV_OK;
  for (int rank = 0; rank < comm->size; ++rank) {
    int64_t first = 0;
    const int64_t n = part_of(s, rank, round, &first) - first;
    unsigned char *block = own->block;
    if (rank > 0 && n > 0) {
      block = s->thread != NULL ? av_block_thread_room(s->thread) : s->received;
      const av_status arrived = receive(s, rank, n, block);
      status = status == AV_OK ? arrived : status;
    }
    if (rank == 0 || n > 0) {
      const av_status written = write_block(s, rank, first, status == AV_OK ? n : 0, block);
      status = status == AV_OK ? written : status;
    }
  }
  if (s->thread != NULL && status == AV_OK && av_block_thread_failed(s->thread)) {
    av_block_thread_finish(&s->thread);
    status = av_safe_file_failed(&s->writer->file, AV_OK);
  }
  return status;
}

static av_status send_round(const cell_stream *s, const round_part *own) {
  const av_comm *comm = s->writer->comm;
  const int64_t bytes = own->n * s->row_bytes;
  for (int m = 0; m < s->n_matrices && own->n > 0; ++m) {
    if (s->link[m] != NULL) {
      MPI_Request request = MPI_REQUEST_NULL;
      AV_TRY(AV_MPI(
          MPI_Isend(own->block + m * bytes, (int)bytes, MPI_BYTE, 0, m, comm->mpi, &request)));
      AV_TRY(av_wait(comm, &request));
    }
  }
  return AV_OK;
}

/* This rank's part of a round, if it has one; rank 0 has a block in any case. */
static av_status begin_round(cell_stream *s, int64_t round, round_part *part) {
  const int64_t end = part_of(s, s->writer->comm->rank, round, &part->first);
  const int64_t block_bytes = s->n_matrices * s->block_rows * s->row_bytes;
  part->n = end - part->first;
  part->block = s->thread != NULL ? av_block_thread_room(s->thread)
                                  : s->room + round % OWN_BLOCKS * block_bytes;
  return part->n > 0 ? s->source.begin(s->source.context, part->first - s->writer->dataset->first,
                                       part->n, part->block)
                     : AV_OK;
}

static av_status end_round(cell_stream *s, const round_part *part) {
  if (part->n <= 0) {
    return AV_OK;
  }
  if (s->source.end != NULL) {
    AV_TRY(s->source.end(s->source.context));
  }
  const int64_t bytes = part->n * s->row_bytes;
  for (int m = 0; m < s->n_matrices && s->thread == NULL; ++m) {
    s->checksum[m] = av_checksum(s->checksum[m], part->block + m * bytes, bytes);
  }
  return AV_OK;
}

static av_status run_rounds(cell_stream *s) {
  const av_comm *comm = s->writer->comm;
  const int64_t n_rounds = count_rounds(s);
  round_part own[OWN_BLOCKS];
  av_status status = n_rounds > 0 ? begin_round(s, 0, &own[0]) : AV_OK;
  for (int64_t round = 0; round < n_rounds; ++round) {
    const round_part *part = &own[round % OWN_BLOCKS];
    if (status == AV_OK && round + 1 < n_rounds) {
      status = begin_round(s, round + 1, &own[(round + 1) % OWN_BLOCKS]);
    }
    AV_TRY(av_agree(comm, status != AV_OK ? status : end_round(s, part)));
    status = comm->rank == 0 ? collect_round(s, round, part) : send_round(s, part);
  }
  if (s->thread != NULL) {
    av_block_thread_finish(&s->thread);
    status = av_safe_file_failed(&s->writer->file, status);
  }
  return av_agree(comm, status);
}

/* The thread's: the first failure the file's av_write_failure remembers. */
static bool put_part(void *context, const av_block_part *part) {
  if (part->checksum != NULL) {
    *part->checksum = av_checksum(*part->checksum, part->data, part->bytes);
  }
  return av_output_write(context, part->address, part->data, part->bytes);
}

/* Rank 0: the thread, and where it writes to. */
static av_status open_thread(cell_stream *s) {
  av_output_handle *file = NULL;
  for (int m = 0; m < s->n_matrices; ++m) {
    if (s->link[m] != NULL) {
      s->address[m] = av_output_address(s->dataset[m]);
      if (s->address[m] < 0) {
        return AV_FAIL_BUG("%s has no place in the file", s->link[m]);
      }
    }
  }
  AV_TRY(av_output_handle_of(&file, s->writer->h5));
  return av_block_thread_create(&s->thread, THREAD_BLOCKS,
                                s->n_matrices * s->block_rows * s->row_bytes, put_part, file);
}

static av_status open_stream(cell_stream *s) {
  const av_comm *comm = s->writer->comm;
  const int64_t room = s->block_rows * s->row_bytes;
  if (room > INT_MAX) {
    return av_fail(AV_NOMEM, "a row of %lld bytes is too long for one message",
                   (long long)s->row_bytes);
  }
  const bool threaded = comm->rank == 0 && s->level == 0 && s->writer->dataset->n_cells > 0;
  const bool receives = comm->rank == 0 && comm->size > 1;
  if (!threaded) {
    const size_t bytes = (size_t)s->n_matrices * (size_t)room;
    const size_t blocks = receives ? OWN_BLOCKS + 1 : OWN_BLOCKS;
    s->room = av_malloc(bytes, blocks);
    AV_TRY_ALLOC(s->room);
    s->received = s->room + OWN_BLOCKS * bytes;
  }
  if (comm->rank != 0) {
    return AV_OK;
  }
  const hsize_t dims[2] = {(hsize_t)s->writer->dataset->n_cells, (hsize_t)s->n_columns};
  for (int m = 0; m < s->n_matrices; ++m) {
    if (s->link[m] == NULL) {
      continue;
    }
    AV_TRY(av_writer_prepare(s->writer, s->link[m]));
    char *what = av_writer_what(s->writer, s->link[m]);
    AV_TRY_ALLOC(what);
    const av_status status = av_put_matrix(&s->dataset[m], s->writer->h5, s->link[m], s->n_dims,
                                           dims, s->stored, s->chunk_rows, s->level, what);
    free(what);
    AV_TRY(av_safe_file_failed(&s->writer->file, status));
  }
  return threaded && s->row_bytes > 0 ? open_thread(s) : AV_OK;
}

/* Rank 0: one checksum of all slabs, in row order. */
static av_status join_checksums(const cell_stream *s, const uint32_t *all, int matrix) {
  const av_writer *writer = s->writer;
  const av_partition *partition = &writer->dataset->partition;
  av_written entry = {.link = (char *)(uintptr_t)s->link[matrix],
                      .n_dims = s->n_dims,
                      .dims = {(hsize_t)writer->dataset->n_cells, (hsize_t)s->n_columns},
                      .checksummed = true,
                      .block_rows = s->block_rows};
  for (int rank = 0; rank < writer->comm->size; ++rank) {
    const int64_t n = av_rank_first(partition, rank + 1) - av_rank_first(partition, rank);
    if (n > 0 && s->row_bytes > 0) {
      entry.checksum = (uint32_t)crc32_combine(entry.checksum, all[rank * MOST_MATRICES + matrix],
                                               (z_off_t)(n * s->row_bytes));
    }
  }
  return av_writer_remember(s->writer, &entry);
}

static av_status close_stream(cell_stream *s) {
  const av_comm *comm = s->writer->comm;
  uint32_t *all = av_calloc((size_t)comm->size * MOST_MATRICES, sizeof *all);
  av_status status = all == NULL ? av_fail(AV_NOMEM, "out of memory (checksums)") : AV_OK;
  AV_GO(status, av_agree(comm, status), done);
  AV_GO(status,
        AV_MPI(MPI_Gather(s->checksum, MOST_MATRICES, MPI_UINT32_T, all, MOST_MATRICES,
                          MPI_UINT32_T, 0, comm->mpi)),
        done);
  for (int m = 0; m < s->n_matrices && comm->rank == 0 && status == AV_OK; ++m) {
    if (s->link[m] != NULL) {
      const hid_t dataset = s->dataset[m];
      s->dataset[m] = -1;
      status = av_safe_file_failed(&s->writer->file, AV_H5(H5Dclose(dataset), s->link[m]));
    }
    if (status == AV_OK && s->link[m] != NULL) {
      status = join_checksums(s, all, m);
    }
  }
  status = av_agree(comm, status);

done:
  free(all);
  return status;
}

static av_status run_stream(cell_stream *s) {
  enum { CHUNK_BYTES = 1 << 20 };
  for (int m = 0; m < MOST_MATRICES; ++m) {
    s->dataset[m] = -1;
  }
  s->chunk_rows = s->row_bytes > 0 && s->row_bytes < CHUNK_BYTES ? CHUNK_BYTES / s->row_bytes : 1;
  /* whole chunks a block: only those on the border of two slabs are written in two parts */
  s->block_rows = av_block_rows(s->row_bytes, s->level > 0 ? s->chunk_rows : 1);
  av_status status = av_agree(s->writer->comm, open_stream(s));
  if (status == AV_OK && s->row_bytes > 0) {
    status = run_rounds(s);
  }
  if (status == AV_OK) {
    status = close_stream(s);
  }
  av_block_thread_finish(&s->thread); /* after a failure it may be writing still */
  for (int m = 0; m < MOST_MATRICES; ++m) {
    av_h5_close(&s->dataset[m]);
  }
  free(s->room);
  return status;
}

int64_t av_writer_buffers(bool first_rank, int64_t n_columns) {
  const int64_t row_bytes = n_columns * (int64_t)sizeof(float);
  const int blocks = first_rank ? THREAD_BLOCKS : OWN_BLOCKS;
  return blocks * MOST_MATRICES * av_block_rows(row_bytes, 1) * row_bytes;
}

static av_status write_floats(av_writer *writer, int n_matrices, const char *link_a,
                              const char *link_b, int64_t n_columns, const av_row_source *source) {
  cell_stream stream = {.writer = writer,
                        .n_matrices = n_matrices,
                        .link = {link_a, link_b},
                        .n_dims = 2,
                        .n_columns = n_columns,
                        .stored = H5T_IEEE_F32LE,
                        .memory = H5T_NATIVE_FLOAT,
                        .row_bytes = n_columns * (int64_t)sizeof(float),
                        .level = (int)writer->config->output.compression,
                        .source = *source};
  return run_stream(&stream);
}

av_status av_writer_cell_matrix(av_writer *writer, const char *link, int64_t n_columns,
                                const av_row_source *source) {
  return write_floats(writer, 1, link, NULL, n_columns, source);
}

av_status av_writer_cell_matrix_pair(av_writer *writer, const char *link_a, const char *link_b,
                                     int64_t n_columns, const av_row_source *source) {
  return link_a == NULL && link_b == NULL
             ? AV_OK
             : write_floats(writer, 2, link_a, link_b, n_columns, source);
}

static av_status copy_bytes(void *context, int64_t first_row, int64_t n_rows, void *out) {
  memcpy(out, (const int8_t *)context + first_row, (size_t)n_rows);
  return AV_OK;
}

av_status av_writer_cell_bytes(av_writer *writer, const char *link, const int8_t *values) {
  cell_stream stream = {.writer = writer,
                        .n_matrices = 1,
                        .link = {link},
                        .n_dims = 1,
                        .n_columns = 1,
                        .stored = H5T_STD_I8LE,
                        .memory = H5T_NATIVE_INT8,
                        .row_bytes = 1,
                        .level = (int)writer->config->output.compression,
                        .source = {.context = (void *)(uintptr_t)values, .begin = copy_bytes}};
  return run_stream(&stream);
}
