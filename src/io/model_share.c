/* A model from rank 0 to every rank. */
#include "base/memory.h"
#include "io/model_file.h"

static av_status share_array(const av_comm *comm, av_named_array *array) {
  AV_TRY(av_bcast_text(comm, &array->name));
  int64_t facts[3] = {array->n_dims, array->shape[0], array->shape[1]};
  AV_TRY(av_bcast(comm, facts, (int64_t)sizeof facts));
  av_status status = AV_OK;
  if (comm->rank != 0) {
    array->n_dims = (int)facts[0];
    array->shape[0] = facts[1];
    array->shape[1] = facts[2];
    array->values = av_calloc((size_t)av_array_elements(array), sizeof *array->values);
    status = array->values == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", array->name) : AV_OK;
  }
  AV_TRY(av_agree(comm, status));
  return av_bcast(comm, array->values, av_array_elements(array) * (int64_t)sizeof *array->values);
}

av_status av_model_file_share(const av_comm *comm, av_model_file *model) {
  int64_t facts[3] = {model->n_arrays, model->exact, model->n_categorical};
  AV_TRY(av_bcast(comm, facts, (int64_t)sizeof facts));
  AV_TRY(av_names_bcast(comm, &model->genes));
  AV_TRY(av_names_bcast(comm, &model->batches));
  AV_TRY(av_names_bcast(comm, &model->labels));
  AV_TRY(av_names_bcast(comm, &model->categorical_names));
  AV_TRY(av_names_bcast(comm, &model->continuous_names));
  AV_TRY(av_bcast_text(comm, &model->settings));
  av_status status = AV_OK;
  if (comm->rank != 0) {
    model->exact = facts[1] != 0;
    model->arrays = av_calloc((size_t)facts[0], sizeof *model->arrays);
    model->n_arrays = model->arrays == NULL ? 0 : facts[0];
    model->categories = av_calloc((size_t)facts[2], sizeof *model->categories);
    model->n_categorical = model->categories == NULL ? 0 : facts[2];
    status = model->arrays == NULL || model->categories == NULL
                 ? av_fail(AV_NOMEM, "out of memory (model)")
                 : AV_OK;
  }
  AV_TRY(av_agree(comm, status));
  for (int64_t c = 0; c < facts[2]; ++c) {
    AV_TRY(av_names_bcast(comm, &model->categories[c]));
  }
  for (int64_t i = 0; i < facts[0]; ++i) {
    AV_TRY(share_array(comm, &model->arrays[i]));
  }
  return AV_OK;
}
