/* What a trained model says of its cells, in evaluation mode with z and l at their means, against
 * scvi-tools. */
#ifndef AV_TESTS_REFERENCE_OUTPUTS_H
#define AV_TESTS_REFERENCE_OUTPUTS_H

#include "reference/bench.h"

/* After training, av_vae_begin_inference and av_vae_get_values into b->params and b->running:
 * mean and variance of q(z) and q(l), rho and mu (to float_output at least), theta, pi, loadings.
 * Each recorded array is compared, or the test ends. */
void check_outputs(const bench *b, double float_output);

#endif
