/* What is between a minibatch and its loss, in training, against scvi-tools. */
#ifndef AV_TESTS_REFERENCE_INTERMEDIATES_H
#define AV_TESTS_REFERENCE_INTERMEDIATES_H

#include "reference/bench.h"

/* After av_vae_step(draw) and before av_vae_update: every layer of the encoders and the decoder
 * before and after BatchNorm, LayerNorm and dropout, q(z), q(l), z, l, rho, and each cell's terms
 * of the loss. Each recorded array is compared, or the test ends. Not collective. */
void check_intermediates(bench *b, av_draw draw, double kl_weight, double float_output);

/* What strict rounds a cell's loss to. */
#define STRICT_LOSS 0x1p-17

#endif
