/* Constants of the variational posterior, shared by the backends and the model. */
#ifndef AV_BACKEND_LATENT_H
#define AV_BACKEND_LATENT_H

/* Variance of q(z) and q(l) = exp(head) + this. */
#define AV_VARIANCE_FLOOR 1e-4

/* The three sums that training keeps: losses (3). */
enum { AV_LOSS_NLL, AV_LOSS_KL_Z, AV_LOSS_KL_L, AV_LOSSES };

#endif
