#include "train/evaluate.h"

#include "backend/latent.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

static void list_rows(av_evaluator *evaluator, int which) {
  const int8_t *of = evaluator->trainer->split->of;
  for (int64_t i = 0; i < evaluator->trainer->dataset->n_local; ++i) {
    if (which == AV_EVALUATE_ALL ? of[i] != AV_SPLIT_EMPTY : of[i] == which) {
      evaluator->rows[evaluator->n++] = i;
    }
  }
}

av_status av_evaluator_create(av_evaluator *evaluator, const av_trainer *trainer, int which) {
  const av_comm *comm = trainer->comm;
  const int64_t n_local = trainer->dataset->n_local;
  av_backend *be = trainer->be;
  *evaluator = (av_evaluator){
      .trainer = trainer,
      .per_pass = av_trainer_rows(trainer->config, trainer->dataset->n_genes, n_local),
      .rows = av_malloc((size_t)n_local, sizeof *evaluator->rows)};
  av_status status =
      evaluator->rows == NULL ? av_fail(AV_NOMEM, "out of memory (evaluation)") : AV_OK;
  if (status == AV_OK) {
    list_rows(evaluator, which);
    status = be->ops->batch_create(be, trainer->data, evaluator->per_pass, &evaluator->batch);
  }
  AV_TRY(av_agree(comm, status));
  const int64_t per_pass = evaluator->per_pass;
  evaluator->passes = per_pass > 0 ? (evaluator->n + per_pass - 1) / per_pass : 0;
  evaluator->n_cells = evaluator->n;
  AV_TRY(av_max_i64(comm, &evaluator->passes, 1));
  return av_sum_i64(comm, &evaluator->n_cells, 1);
}

void av_evaluator_free(av_evaluator *evaluator) {
  if (evaluator->trainer != NULL) {
    av_backend *be = evaluator->trainer->be;
    be->ops->batch_free(be, evaluator->batch);
  }
  free(evaluator->rows);
  *evaluator = (av_evaluator){0};
}

av_status av_evaluate(const av_evaluator *evaluator, av_draw draw, double losses[3]) {
  const av_trainer *trainer = evaluator->trainer;
  av_backend *be = trainer->be;
  const int64_t n = evaluator->n;
  const int64_t per_pass = evaluator->per_pass;
  for (int64_t pass = 0; pass < evaluator->passes; ++pass) {
    const int64_t begin = pass * per_pass < n ? pass * per_pass : n;
    const int64_t now = n - begin < per_pass ? n - begin : per_pass;
    be->ops->batch_select(be, evaluator->batch, now, evaluator->rows + begin);
    av_vae_evaluate(trainer->vae, evaluator->batch, draw);
  }
  AV_TRY(av_vae_take_losses(trainer->vae, losses));
  for (int i = 0; i < AV_LOSSES; ++i) {
    losses[i] = evaluator->n_cells > 0 ? losses[i] / (double)evaluator->n_cells : NAN;
  }
  return AV_OK;
}
