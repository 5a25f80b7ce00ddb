/* Mean and variance of the log library size in each batch: the prior of l (model.md section 1). */
#ifndef AV_MODEL_LIBRARY_PRIOR_H
#define AV_MODEL_LIBRARY_PRIOR_H

#include "data/dataset.h"

#include <stdbool.h>

/* prior (S, 2): mean and population variance of log(total count) over the non-empty cells of each
 * batch, whatever their split. A batch with fewer than two such cells, or a variance below 1e-4,
 * takes the pooled within-batch variance (1 if that is no better), with a warning that names the
 * first few if `warn` (the model has a latent library).
 * Sums are order-free: the same bits on any number of ranks. Collective. */
av_status av_library_prior(const av_comm *comm, const av_dataset *dataset, bool warn,
                           double *prior);

#endif
