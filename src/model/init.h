/* Starting values of a model. */
#ifndef AV_MODEL_INIT_H
#define AV_MODEL_INIT_H

#include "data/dataset.h"
#include "model/layout.h"

/* scvi-tools' starting values: weights and biases U(+-1/sqrt(fan in)), BatchNorm 1 and 0, running
 * statistics 0 and 1, px_r N(0, 1). A function of seed and layout alone. params (layout->n_params),
 * running (layout->n_running). Not collective. */
void av_init_values(const av_layout *layout, uint64_t seed, double *params, double *running);

/* Then, for model.init = data, what the counts of the training cells say (model.md section 7):
 * decoder intercepts from log frequencies, dispersions between moments and their root, small
 * factors, the library encoder's heads, rare zero inflation. tests/quality/start_values.md compares
 * both starts on real files. split (n_local): AV_SPLIT_*. Order-free sums. Collective. */
av_status av_init_from_data(const av_comm *comm, const av_dataset *dataset, const int8_t *split,
                            const av_layout *layout, double *params);

#endif
