/* What can be known about the output before training. */
#include "io/h5.h"
#include "io/writer.h"

#include <string.h>
#include <sys/stat.h>

static bool same_file(const char *a, const char *b) {
  struct stat first;
  struct stat second;
  return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

/* The input of copy and append: can it take results, and does it hold keys of ours? */
static av_status check_input(const av_config *config) {
  hid_t file = -1;
  const char *path = config->data.input;
  AV_TRY(av_h5_open_input(&file, path));
  char found[300] = "";
  av_status status = av_check_can_add(file, path, config);
  if (status == AV_OK && !config->output.overwrite) {
    status = av_our_keys(file, path, false, found);
  }
  if (status == AV_OK && found[0] != '\0') {
    status = av_fail(AV_CANTCREATE,
                     "%s: has %s already, of an earlier run: set overwrite = yes to replace it, or "
                     "choose mode = results",
                     path, found);
  }
  av_h5_close(&file);
  return status;
}

/* Size of the input file in bytes, 0 if it cannot be told. */
static int64_t input_size(const av_config *config) {
  struct stat facts;
  return stat(config->data.input, &facts) == 0 ? (int64_t)facts.st_size : 0;
}

static av_status check_model(const av_config *config, const char *output) {
  const char *model = config->output.model;
  if (model == NULL) {
    return AV_OK;
  }
  if (strcmp(model, output) == 0 || same_file(model, output) ||
      same_file(model, config->data.input)) {
    return av_fail(AV_CONFIG, "%s: %s is also the input or the output: choose another path",
                   av_config_where(config, "output", "model"), model);
  }
  return av_safe_file_check_target(model, config->output.overwrite);
}

static av_status check_output(const av_config *config, int64_t bytes_needed) {
  const bool append = config->output.mode == AV_OUTPUT_APPEND;
  const char *output = append ? config->data.input : config->output.path;
  if (output == NULL) {
    return av_fail(AV_CONFIG, "%s: missing: the .h5ad to write",
                   av_config_where(config, "output", "path"));
  }
  if (!append && same_file(output, config->data.input)) {
    return av_fail(AV_CONFIG,
                   "%s: %s is the input itself: choose another path, or mode = append to add the "
                   "results to it",
                   av_config_where(config, "output", "path"), output);
  }
  int64_t bytes = bytes_needed;
  if (config->output.mode != AV_OUTPUT_RESULTS) {
    AV_TRY(check_input(config));
    bytes += input_size(config);
  }
  char *resolved = av_resolve_path(output);
  AV_TRY_ALLOC(resolved);
  av_status status = av_safe_file_check_target(resolved, append || config->output.overwrite);
  if (status == AV_OK) {
    status = av_safe_file_check_space(resolved, bytes, bytes);
  }
  free(resolved);
  AV_TRY(status);
  return check_model(config, output);
}

av_status av_writer_preflight(const av_comm *comm, const av_config *config, int64_t bytes_needed) {
  return av_agree(comm, comm->rank == 0 ? check_output(config, bytes_needed) : AV_OK);
}
