#include "train/evaluate.h"

#include "backend/latent.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

av_status av_evaluate_split(const av_trainer *trainer, int which, av_draw draw, double losses[3],
                            int64_t *n_cells) {
  const av_comm *comm = trainer->comm;
  const int64_t n_local = trainer->dataset->n_local;
  const int64_t rows_per_pass =
      av_trainer_rows(trainer->config, trainer->dataset->n_genes, n_local);
  av_backend *be = trainer->be;
  av_batch *batch = NULL;
  int64_t *rows = av_malloc((size_t)n_local, sizeof *rows);
  av_status status = rows == NULL ? av_fail(AV_NOMEM, "out of memory (evaluation)") : AV_OK;
  if (status == AV_OK) {
    status = be->ops->batch_create(be, trainer->data, rows_per_pass, &batch);
  }
  status = av_agree(comm, status);
  if (status != AV_OK) {
    be->ops->batch_free(be, batch);
    free(rows);
    return status;
  }
  int64_t n = 0;
  for (int64_t i = 0; i < n_local; ++i) {
    const int8_t of = trainer->split->of[i];
    if (which == AV_EVALUATE_ALL ? of != AV_SPLIT_EMPTY : of == which) {
      rows[n++] = i;
    }
  }
  int64_t passes = rows_per_pass > 0 ? (n + rows_per_pass - 1) / rows_per_pass : 0;
  *n_cells = n;
  status = av_max_i64(comm, &passes, 1);
  if (status == AV_OK) {
    status = av_sum_i64(comm, n_cells, 1);
  }
  for (int64_t pass = 0; status == AV_OK && pass < passes; ++pass) {
    const int64_t begin = pass * rows_per_pass < n ? pass * rows_per_pass : n;
    const int64_t now = n - begin < rows_per_pass ? n - begin : rows_per_pass;
    be->ops->batch_select(be, batch, now, rows + begin);
    av_vae_evaluate(trainer->vae, batch, draw);
  }
  if (status == AV_OK) {
    status = av_vae_take_losses(trainer->vae, losses);
  }
  for (int i = 0; status == AV_OK && i < AV_LOSSES; ++i) {
    losses[i] = *n_cells > 0 ? losses[i] / (double)*n_cells : NAN;
  }
  be->ops->batch_free(be, batch);
  free(rows);
  return status;
}
