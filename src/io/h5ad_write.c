/* The life of a writer: create, (write,) commit or discard. */
#include "io/h5ad_write.h"

#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_put.h"
#include "io/dataframe.h"
#include "io/writer.h"

#include <string.h>
#include <zlib.h>

int64_t av_block_rows(int64_t row_bytes, int64_t multiple) {
  enum { BLOCK_BYTES = 8 << 20 };
  const int64_t rows = row_bytes > 0 ? BLOCK_BYTES / row_bytes : BLOCK_BYTES;
  return rows > multiple ? rows / multiple * multiple : multiple;
}

uint32_t av_checksum(uint32_t checksum, const void *data, int64_t bytes) {
  return (uint32_t)crc32_z(checksum, data, (z_size_t)bytes);
}

char *av_writer_what(const av_writer *writer, const char *link) {
  return av_format("%s: %s", writer->file.path, link);
}

av_status av_writer_prepare(av_writer *writer, const char *link) {
  bool exists = false;
  AV_TRY(av_h5_exists(writer->h5, link, &exists));
  if (!exists) {
    return av_put_parents(writer->h5, link, writer->file.path);
  }
  if (!writer->config->output.overwrite) {
    return av_fail(AV_CANTCREATE, "%s: has %s already: set overwrite = yes to replace it",
                   writer->file.path, link);
  }
  return AV_H5(H5Ldelete(writer->h5, link, H5P_DEFAULT), writer->file.path);
}

av_status av_writer_remember(av_writer *writer, const av_written *entry) {
  if (writer->n_written == writer->room) {
    const int64_t room = 2 * writer->room + 16;
    av_written *grown = av_realloc(writer->written, (size_t)room, sizeof *grown);
    AV_TRY_ALLOC(grown);
    writer->written = grown;
    writer->room = room;
  }
  av_written *kept = &writer->written[writer->n_written];
  *kept = *entry;
  kept->link = av_strdup(entry->link);
  AV_TRY_ALLOC(kept->link);
  writer->n_written += 1;
  return AV_OK;
}

static void free_writer(av_writer *writer) {
  av_h5_close(&writer->h5);
  av_safe_file_discard(&writer->file);
  for (int64_t i = 0; i < writer->n_written; ++i) {
    free(writer->written[i].link);
  }
  free(writer->written);
  free(writer);
}

static av_status count_var(av_writer *writer) {
  av_frame frame;
  AV_TRY(av_frame_open(&frame, writer->h5, writer->file.path, AV_H5AD_VAR));
  writer->n_var = frame.n_rows;
  av_frame_close(&frame);
  for (int64_t g = 0; g < writer->dataset->n_genes; ++g) {
    if (writer->dataset->gene_var[g] >= writer->n_var) {
      return av_fail(AV_IOERR, "%s: var has %lld rows now: the file was changed during the run",
                     writer->dataset->input_path, (long long)writer->n_var);
    }
  }
  return AV_OK;
}

/* copy, append: the input's bytes, without earlier results of ours. */
static av_status copy_input(av_writer *writer) {
  const av_config *config = writer->config;
  const char *input = writer->dataset->input_path;
  char found[300] = "";
  AV_TRY(av_safe_file_copy_from(&writer->file, input, &writer->input));
  AV_TRY(av_safe_file_open(&writer->file, false, &writer->h5));
  AV_TRY(av_check_can_add(writer->h5, input, config));
  AV_TRY(av_our_keys(writer->h5, input, config->output.overwrite, found));
  if (found[0] != '\0') {
    return av_fail(AV_CANTCREATE, "%s: has %s already: set overwrite = yes to replace it", input,
                   found);
  }
  return count_var(writer);
}

static av_status check_unchanged(const av_dataset *dataset) {
  struct stat facts;
  if (stat(dataset->input_path, &facts) != 0) {
    return av_fail(AV_NOINPUT, "%s: is gone: it was removed during the run", dataset->input_path);
  }
  return dataset->input_bytes > 0 && (int64_t)facts.st_size != dataset->input_bytes
             ? av_fail(AV_IOERR, "%s: was changed during the run", dataset->input_path)
             : AV_OK;
}

static av_status create_file(av_writer *writer) {
  const av_config *config = writer->config;
  const bool append = config->output.mode == AV_OUTPUT_APPEND;
  const char *path = append ? writer->dataset->input_path : config->output.path;
  AV_TRY(check_unchanged(writer->dataset));
  AV_TRY(av_safe_file_begin(&writer->file, path, append || config->output.overwrite));
  av_status status = AV_OK;
  if (config->output.mode == AV_OUTPUT_RESULTS) {
    status = av_safe_file_open(&writer->file, true, &writer->h5);
    if (status == AV_OK) {
      status = av_writer_new_content(writer);
    }
  } else {
    status = copy_input(writer);
  }
  return av_safe_file_failed(&writer->file, status);
}

av_status av_writer_create(av_writer **writer, const av_comm *comm, const av_config *config,
                           const av_dataset *dataset) {
  *writer = NULL;
  av_writer *made = av_calloc(1, sizeof *made);
  av_status status = made == NULL ? av_fail(AV_NOMEM, "out of memory (writer)") : AV_OK;
  AV_GO(status, av_agree(comm, status), done);
  *made = (av_writer){.comm = comm, .config = config, .dataset = dataset, .h5 = -1};
  status = av_agree(comm, comm->rank == 0 ? create_file(made) : AV_OK);
  if (status == AV_OK) {
    *writer = made;
    return AV_OK;
  }
  free_writer(made);
  return status;

done:
  free(made);
  return status;
}

/* append: was the input touched by someone else while its copy was worked on? */
static av_status check_still_ours(const av_writer *writer) {
  struct stat now;
  if (writer->config->output.mode != AV_OUTPUT_APPEND) {
    return AV_OK;
  }
  if (stat(writer->file.path, &now) != 0 || now.st_ino != writer->input.st_ino ||
      now.st_size != writer->input.st_size || now.st_mtim.tv_sec != writer->input.st_mtim.tv_sec ||
      now.st_mtim.tv_nsec != writer->input.st_mtim.tv_nsec) {
    return av_fail(
        AV_IOERR,
        "%s: was changed by another program during the run; it is left as it is, without "
        "the results",
        writer->file.path);
  }
  return AV_OK;
}

static av_status store_file(av_writer *writer) {
  if (writer->h5 < 0) { /* stored already */
    return AV_OK;
  }
  AV_TRY(av_safe_file_close(&writer->file, &writer->h5));
  return av_safe_file_sync(&writer->file);
}

static av_status finish_file(av_writer *writer) {
  AV_TRY(store_file(writer));
  AV_TRY(av_writer_verify(writer));
  AV_TRY(check_still_ours(writer));
  return av_safe_file_commit(&writer->file);
}

av_status av_writer_store(av_writer *writer) {
  return av_agree(writer->comm, writer->comm->rank == 0 ? store_file(writer) : AV_OK);
}

av_status av_writer_commit(av_writer **writer) {
  av_writer *w = *writer;
  const av_status status = av_agree(w->comm, w->comm->rank == 0 ? finish_file(w) : AV_OK);
  av_writer_discard(writer);
  return status;
}

void av_writer_discard(av_writer **writer) {
  if (*writer != NULL) {
    free_writer(*writer);
    *writer = NULL;
  }
}
