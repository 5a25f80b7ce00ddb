/* The boundary between the model and the machine it runs on.
 *
 * Model code (src/model) is written once, in terms of the coarse operations below, and never
 * dereferences what it passes to them. A backend implements them: `reference` (plain loops in
 * double, the readable definition and the tests' oracle), `cpu` (threads, vectors, BLAS) and `cuda`
 * (gpu/, where it is built). The same tests run on each.
 *
 * Letters (as everywhere): B cells of the global minibatch that this rank holds, Bg of all ranks, G
 * genes, S batches, K latent dimensions, O one-hot columns and C continuous covariates of
 * dataset->design, n and m widths. Matrices are row-major. Weights are stored
 * input-major, (in, out), so that a gene's or a category's row is contiguous.
 *
 * Three kinds of array, opaque to the model (incomplete types: only a backend can look inside):
 *   av_real  parameters and activations: float, or double in the reference
 *   av_grad  gradients: as av_real, or double where sums over cells must be order-free
 *   av_sum   sums over cells (moments, losses), and codes that are means of many draws: double
 *
 * Sums over cells are local to the rank, and *added* to what the array holds, unless said
 * otherwise; av_backend_allreduce makes them global. Gradients are those of the SUM over cells of
 * the loss; adam's `scale` makes them a mean.
 *
 * Order-free mode (runtime.reproducible = strict): every sum over cells is made of terms rounded to
 * a power of two that all ranks agree on, so that additions are exact and any split over ranks or
 * threads gives the same bits; what belongs to one cell is computed in an order that does not
 * depend on its neighbours. Operations marked [sum] may then communicate: all ranks must call them,
 * in the same order, also with B = 0. (The model does so always.) Losses are sums over a whole
 * epoch: there the quantum is fixed, and nothing is communicated, so that inference may differ in
 * passes between ranks.
 *
 * Arrays are allocated before training. After that an operation cannot fail in a way a user could
 * mend, so operations return void; allocation and transfers return av_status. A backend that meets
 * a broken device or communicator ends the run, on every rank.
 */
#ifndef AV_BACKEND_BACKEND_H
#define AV_BACKEND_BACKEND_H

#include "backend/gpu_memory.h"
#include "base/comm.h"
#include "base/status.h"
#include "data/dataset.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct av_real av_real;
typedef struct av_grad av_grad;
typedef struct av_sum av_sum;
typedef struct av_data av_data;   /* a rank's slab of counts and facts about its cells */
typedef struct av_batch av_batch; /* some of its rows, ready for the operations */

typedef struct av_backend av_backend;

typedef enum av_kind { AV_REAL, AV_GRAD, AV_SUM, AV_KINDS } av_kind;

enum { AV_READS = 2 }; /* read_begin before read_end */

/* Counter of the random draws of one pass: who draws is decided by the cell, never by rank or
 * thread. */
typedef struct av_draw {
  uint64_t seed;
  uint32_t epoch; /* training: epoch; inference: number of the sample */
  uint32_t
      purpose; /* AV_DRAW_LATENT when training, AV_DRAW_POSTERIOR after; dropout uses its own */
} av_draw;

/* BatchNorm (eps 1e-3, momentum 0.01) + LayerNorm (eps 1e-5, no weights) + ReLU + dropout on (B,
 * n).
 */
typedef struct av_norm {
  int64_t n;
  bool training;   /* minibatch moments, running statistics updated, dropout; else running ones */
  bool batch_norm; /* false: moments, gamma, beta, running and sums are not touched, may be NULL */
  bool layer_norm; /* each block of n / blocks columns of a cell by itself */
  int64_t blocks;  /* layers that lie side by side: 1 or 2 */
  bool relu;
  double dropout; /* probability; 0 for none */
  uint32_t layer; /* tells the draws of different layers apart */
  av_draw draw;
  int64_t n_cells; /* Bg: cells in the moments */
} av_norm;

/* The latent draw. */
typedef struct av_latent {
  int64_t n_latent;
  int64_t stride;      /* of rows of z and dz: K + C; columns K on are continuous covariates */
  bool simplex;        /* z = softmax of the draw (latent_distribution = ln) */
  bool latent_library; /* l is drawn from its own posterior; else av_log_size */
  bool sample;         /* draw; false: z from the mean, l = mean */
  double kl_weight;    /* of KL(z), for the gradient */
  av_draw draw;
} av_latent;

/* One output head of the decoder: logits (B, G) = [x, one-hot] w + c. */
typedef struct av_head {
  const av_real *w; /* (in + n_onehot, G) */
  const av_real *c; /* (G); NULL for 0 */
  av_grad *dw;      /* (in + n_onehot, G); NULL without gradients */
  av_grad *dc;      /* (G); NULL without gradients or without c */
} av_head;

/* Decoder and likelihood in one pass. */
typedef struct av_decode {
  int likelihood;       /* AV_LIKELIHOOD_* of config.h */
  int dispersion;       /* AV_DISPERSION_* of config.h */
  bool softplus;        /* rho = softplus(logit), with size factors; else softmax over genes */
  int64_t n_genes;      /* G */
  int64_t n_in;         /* width of x */
  bool linear;          /* x is the latent code; else a hidden layer's output */
  int64_t n_onehot;     /* O: x is followed by the one-hot block; 0: it is not */
  int64_t n_dispersion; /* rows of px_r: 1, or batches, or labels (the row is the cell's) */
  av_head scale;        /* rho */
  av_head dropout;      /* zero-inflation logits; used by ZINB only */
  av_head px_r_head;    /* px_r of each cell; used by gene-cell only (not by Poisson) */
  const av_real *px_r;  /* (n_dispersion, G): theta = exp(px_r); unused by Poisson and gene-cell */
  av_grad *dpx_r;       /* (n_dispersion, G); NULL without gradients */
} av_decode;

/* Factors of the design that the cuda backend can fold. */
enum { AV_CUDA_FOLD_FACTORS = 63 };

/* A linear layer to G genes followed by BatchNorm over cells, folded into one affine map (model.md
 * section 5): logits = [z, one-hot] A + c. */
typedef struct av_fold {
  const av_design *design;         /* the factors behind the one-hot columns */
  int64_t n_genes, n_in, n_onehot; /* D = n_in + n_onehot */
  bool training;                   /* moments of the minibatch; else running ones */
  int64_t n_cells;                 /* Bg */
  const av_real *w;                /* (D, G) */
  const av_real *bias;             /* (G), added before BatchNorm; NULL for 0 */
  const av_real *gamma;            /* (G) */
  const av_real *beta;             /* (G) */
  av_real *running;                /* (2, G): mean, variance */
  av_real *a;                      /* (D, G) out of fold */
  av_real *c;                      /* (G) out of fold */
  av_real *inv_sigma;              /* (G) out of fold: 1/sqrt(variance + eps) */
} av_fold;

/* Numbers in fold_sums' result for a decoder input of n_in dense columns: cells in each one-hot
 * column (max(O, 1)), sums of the dense columns over those cells (max(O, 1), n_in), sums of
 * products of the dense columns (n_in, n_in), then for each pair of factors f < f' the cells that
 * have both categories (categories of f, of f'). Without a one-hot block the one "column" is all
 * cells. */
int64_t av_fold_stats_size(const av_design *design, int64_t n_in, int64_t n_onehot);

typedef struct av_adam {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled; /* AdamW: parameters shrink by lr * weight_decay, the gradient knows nothing */
  double clip;    /* the scaled gradient's length is brought down to this; 0: it is left alone */
  double scale;   /* gradients are multiplied by this first: 1 / Bg */
  int64_t step;   /* from 1 */
} av_adam;

/* Passes over a minibatch that are the same time after time, for backends that keep them. */
typedef enum av_pass_kind {
  AV_PASS_STEP, /* a training step with its update */
  AV_PASS_EVALUATION,
  AV_PASS_ENCODING,
  AV_PASS_CODES,      /* encoding, with the means of softmaxed draws */
  AV_PASS_MEANS,      /* decoding those of z and l, up to the heads */
  AV_PASS_DRAWS,      /* decoding one of each */
  AV_PASS_SUMS,       /* decoding means, with sums of rho */
  AV_PASS_STATISTICS, /* of a BatchNorm over all cells */
  AV_PASSES
} av_pass_kind;

/* All that may differ from one pass of a kind to the next, beside the rows of the batch. */
typedef struct av_pass_values {
  int64_t n_cells;     /* Bg; 0 outside training */
  uint32_t epoch;      /* of its draws */
  double kl_weight;    /* 0 outside training */
  const av_adam *adam; /* of these lr, scale and step; NULL: no update */
} av_pass_values;

/* Which of n outputs that are averaged: 0, 1, ... n - 1. {0, 1}: one by itself. */
typedef struct av_average {
  int64_t at, n;
} av_average;

typedef struct av_backend_ops {
  const char *name;

  /* REQUIRED: life */
  av_status (*open)(av_backend *be);
  void (*close)(av_backend *be);

  /* REQUIRED: memory. Arrays are zeroed. read and write convert from and to double. */
  av_status (*alloc)(av_backend *be, av_kind kind, int64_t n, void **array);
  void (*release)(av_backend *be, void *array);
  av_status (*write)(av_backend *be, av_kind kind, void *array, int64_t n, const double *values);
  av_status (*read)(av_backend *be, av_kind kind, const void *array, int64_t n, double *values);
  /* read in two halves, between which other operations may be queued, also such as write to the
   * array: read_end gives, with the same kind and n, what the oldest read_begin found. Up to
   * AV_READS under way. */
  av_status (*read_begin)(av_backend *be, av_kind kind, const void *array, int64_t n);
  av_status (*read_end)(av_backend *be, av_kind kind, int64_t n, double *values);
  void (*zero)(av_backend *be, av_kind kind, void *array, int64_t n);
  /* sums (n) += more (n) */
  void (*add)(av_backend *be, int64_t n, av_sum *sums, const av_sum *more);

  /* REQUIRED: data. `dataset` is borrowed, must outlive the handle, and is as it will stay. */
  av_status (*data_load)(av_backend *be, const av_dataset *dataset, av_data **data);
  void (*data_free)(av_backend *be, av_data *data);
  /* A batch that can hold up to max_rows rows of `data`. */
  av_status (*batch_create)(av_backend *be, av_data *data, int64_t max_rows, av_batch **batch);
  void (*batch_free)(av_backend *be, av_batch *batch);
  /* Points `batch` at n local rows (numbers within the slab, host memory), none of them twice;
   * n <= max_rows, may be 0. */
  void (*batch_select)(av_backend *be, av_batch *batch, int64_t n, const int64_t *rows);

  /* REQUIRED: encoder */
  /* y (B, n) = f(counts) w + bias, f = log1p or identity; w (G, n), bias (n). With `covariates`
   * the cell's covariates follow its counts: y = [f(counts), continuous, one-hot] w + bias,
   * w (G + C + O, n). */
  void (*sparse_linear)(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                        int64_t n, const av_real *w, const av_real *bias, av_real *y);
  /* [sum] dw += [f(counts), covariates]^T dy, dbias (n) += column sums of dy (B, n). */
  void (*sparse_linear_grad)(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                             int64_t n, const av_real *dy, av_grad *dw, av_grad *dbias);
  /* sparse_linear_grad and adam's step in one, for the rows of counts of w, m and v (., n), whose
   * gradients need not go through memory: those rows of dw must be 0 and stay so; its rows of
   * covariates, and dbias, are added to as there. To the bits of both apart. For a rank that is
   * alone, without adam->clip. False, and nothing done, where the backend does better, or can only
   * do, without. */
  bool (*sparse_linear_step)(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                             int64_t n, const av_real *dy, const av_adam *adam, av_real *w,
                             av_real *m, av_real *v, av_grad *dw, av_grad *dbias);
  /* y (B, n) = [x (B, m; row stride x_stride), one-hot if n_onehot = O > 0] w + bias;
   * w (m + n_onehot, n); bias (n) or NULL. */
  void (*linear)(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                 const av_real *x, int64_t x_stride, const av_real *w, const av_real *bias,
                 av_real *y);
  /* [sum] dx (B, m; row stride dx_stride) = dy w^T (skipped if NULL); dw += [x, one-hot]^T dy;
   * dbias += column sums of dy (skipped if NULL). */
  void (*linear_grad)(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                      const av_real *x, int64_t x_stride, const av_real *w, const av_real *dy,
                      av_real *dx, int64_t dx_stride, av_grad *dw, av_grad *dbias);
  /* [sum] moments (2, n) = column sums of x (B, n) and of its squares (overwritten). */
  void (*moments)(av_backend *be, const av_batch *batch, int64_t n, const av_real *x,
                  av_sum *moments);
  /* y (B, n) = dropout(relu(LayerNorm(v))), v = gamma (x - mean) / sqrt(var + 1e-3) + beta with
   * batch_norm, else x; LayerNorm as av_norm says. Training: mean and biased
   * var from the global moments over norm->n_cells, and running (2, n) moves by 0.01 towards mean
   * and the unbiased variance; else from running. A kept unit is scaled by 1/(1 - p). */
  void (*norm_act)(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x,
                   const av_sum *moments, const av_real *gamma, const av_real *beta,
                   av_real *running, av_real *y);
  /* Where norm->layer_norm: d (B, n) in place from the gradient on y to that on v, through dropout,
   * ReLU and LayerNorm. norm_act_sums and norm_act_grad are then called with relu false and dropout
   * 0. (moments, gamma, beta as norm_act had them in training.) */
  void (*layer_norm_grad)(av_backend *be, const av_batch *batch, const av_norm *norm,
                          const av_real *x, const av_sum *moments, const av_real *gamma,
                          const av_real *beta, const av_real *y, av_real *d);
  /* [sum] With d the gradient on v (dy through dropout and ReLU, whose mask is y > 0): back (2, n)
   * = column sums of d and of d * xhat (overwritten); dgamma += sum d xhat, dbeta += sum d. Not
   * called without batch_norm. */
  void (*norm_act_sums)(av_backend *be, const av_batch *batch, const av_norm *norm,
                        const av_real *x, const av_sum *moments, const av_real *gamma,
                        const av_real *y, const av_real *dy, av_sum *back, av_grad *dgamma,
                        av_grad *dbeta);
  /* dx (B, n) from dy, with `back` made global; dx may be dy. Without batch_norm dx = d. */
  void (*norm_act_grad)(av_backend *be, const av_batch *batch, const av_norm *norm,
                        const av_real *x, const av_sum *moments, const av_real *gamma,
                        const av_real *y, const av_real *dy, const av_sum *back, av_real *dx);

  /* REQUIRED: latent variables */
  /* z_head (B, 2K): mean, log(variance - 1e-4) of q(z); l_head (B, 2): the same of q(l), NULL with
   * an observed library or size factor; prior (S, 2): mean and variance of log library in each
   * batch. z (B, stride) receives the draw (or mean), softmaxed if `simplex`, and the continuous
   * covariates; l (B) the log library; losses (3) += {0, sum KL(z), sum KL(l)}. */
  void (*latent_draw)(av_backend *be, const av_batch *batch, const av_latent *latent,
                      const av_real *z_head, const av_real *l_head, const av_sum *prior, av_real *z,
                      av_real *l, av_sum *losses);
  /* From gradients on z (B, stride; columns K on are ignored) and l: those on the heads, KL terms
   * (kl_weight KL(z) + KL(l)) included. z as latent_draw left it. The draw is made again from its
   * counters. */
  void (*latent_grad)(av_backend *be, const av_batch *batch, const av_latent *latent,
                      const av_real *z_head, const av_real *l_head, const av_sum *prior,
                      const av_real *z, const av_real *dz, const av_real *dl, av_real *dz_head,
                      av_real *dl_head);
  /* codes (B, K), overwritten: of each cell the mean of softmax(z) over n_samples >= 1 draws z of
   * q(z), those of simplex.h; z_head (B, 2K) as above. */
  void (*simplex_means)(av_backend *be, const av_batch *batch, int64_t n_latent, uint64_t seed,
                        int64_t n_samples, const av_real *z_head, av_sum *codes);

  /* REQUIRED: linear decoder with BatchNorm, folded */
  /* [sum] stats (av_fold_stats_size) of x (B, n_in), the decoder's dense input (overwritten). */
  void (*fold_sums)(av_backend *be, const av_batch *batch, int64_t n_in, int64_t n_onehot,
                    const av_real *x, av_sum *stats);
  /* a, c, inv_sigma from the global stats (training: running moves as in norm_act) or from running.
   * The bias moves the running mean; in training it cancels. */
  void (*fold)(av_backend *be, const av_fold *fold, const av_sum *stats);
  /* [sum] From p (D, G) = [x, one-hot]^T d and s (G) = column sums of d, d the gradient on the
   * logits: dw (D, G), dgamma, dbeta += ; back (n_in + n_in D) = {A_x s, M_x.} of model.md
   * section 5. Everything here is linear in p and s, so local p, s give local results. (Order-free:
   * what follows the sums rounds, so p and s are made global here, rank 0 contributes the whole and
   * the others nothing.) */
  void (*fold_grad)(av_backend *be, const av_fold *fold, const av_sum *stats, const av_grad *p,
                    const av_grad *s, av_grad *dw, av_grad *dgamma, av_grad *dbeta, av_sum *back);
  /* dx (B, n_in) -= (A_x s) / Bg + M ([x, one-hot] - mean), with `back` and `stats` global. */
  void (*fold_correct)(av_backend *be, const av_batch *batch, const av_fold *fold,
                       const av_sum *stats, const av_sum *back, const av_real *x, av_real *dx);

  /* REQUIRED: decoder */
  /* Negative log-likelihood of the batch's counts: losses (3) += {sum, 0, 0}. [sum] with gradients
   * (scale.dw != NULL): dx (B, n_in) and dl (B) written, head and dispersion gradients added.
   * No (B, G) array need exist. With dispersion by label every cell must have a label. */
  void (*decode_nll)(av_backend *be, const av_batch *batch, const av_decode *decode,
                     const av_real *x, const av_real *l, av_sum *losses, av_real *dx, av_real *dl);
  /* The same log-likelihood per cell, host memory nll (B); no gradients. */
  av_status (*decode_cells)(av_backend *be, const av_batch *batch, const av_decode *decode,
                            const av_real *x, const av_real *l, double *nll);
  /* rho (B, G) and mu = exp(l) rho, host memory; either may be NULL. Labels and px_r are not
   * needed. Both are whole, and lent until then, when output_end has returned for them: any
   * operation but decode_cells may come in between, such as the next decode_output. Of an average,
   * of at most av_backend_average_rows rows, the calls come in their order, for the same rows, with
   * the same of rho and mu NULL, no other output between them, and one output_end for all. */
  av_status (*decode_output)(av_backend *be, const av_batch *batch, const av_decode *decode,
                             const av_real *x, const av_real *l, av_average average, float *rho,
                             float *mu);
  /* Ends the oldest output that has not been ended; each is to be, unless the run ends with an
   * error. Nothing but this and decode_output writes to their memory. */
  av_status (*output_end)(av_backend *be);
  /* For each gene the sum over the batch's cells of scale * rho, by av_wide_add of base/exact.h: it
   * is free of order, and nothing of (B, G) has to reach the host. `sums` are the 2 G words of G
   * av_wide, which other operations copy as they are. */
  av_status (*decode_sums)(av_backend *be, const av_batch *batch, const av_decode *decode,
                           const av_real *x, const av_real *l, double scale, av_sum *sums);

  /* REQUIRED: optimiser. g = scale * grad, times min(1, clip / (|g| + 1e-6)) if clip > 0 (sums of
   * squares in an order given by n alone), + weight_decay * p unless decoupled; moments; update;
   * grad = 0. */
  void (*adam)(av_backend *be, const av_adam *adam, int64_t n, av_real *params, av_grad *grads,
               av_real *m, av_real *v);

  /* REQUIRED: ranks. Collective: all ranks call these in the same order, with the same n. All are
   * counted in comm->traffic. */
  /* In-place global sum, complete on return; also while sums by shares are under way. */
  void (*allreduce)(av_backend *be, av_kind kind, void *array, int64_t n);
  /* Sums by shares: each rank gets the sum of its own share of the array alone (av_share_first),
   * half of what a sum to all ranks costs. share_begin starts one, for n <= AV_SHARE_MOST; several
   * may be under way, beside other operations, which must not write to their arrays. share_end
   * completes all of them: own shares hold global sums, the rest of the arrays is zero. */
  void (*share_begin)(av_backend *be, av_kind kind, void *array, int64_t n);
  void (*share_end)(av_backend *be);
  /* The other half: every rank receives the others' shares of an array. gather_begin starts one,
   * for n <= AV_SHARE_MOST; several may be under way, beside operations on other arrays. gather_end
   * completes all of them. Both belong to one pass, and no sum by shares is under way meanwhile. */
  void (*gather_begin)(av_backend *be, av_kind kind, void *array, int64_t n);
  void (*gather_end)(av_backend *be);

  /* REQUIRED: whole passes. From begin to end the operations, their order, arrays and arguments are
   * those of the last pass of this kind over `batch`, but for `values`; nothing is read in between.
   * A backend may keep them, and queue all at once. So the passes over a batch are of one model,
   * which is there for as long as the batch. batch_select may come in between: it is for the next
   * pass. */
  void (*pass_begin)(av_backend *be, const av_batch *batch, av_pass_kind kind,
                     const av_pass_values *values);
  void (*pass_end)(av_backend *be);
} av_backend_ops;

/* When sums by shares run: beside operations and other sums; beside operations, while a sum waits
 * for all that were begun before it; within share_begin. */
typedef enum av_sums { AV_SUMS_BESIDE, AV_SUMS_IN_TURN, AV_SUMS_AT_ONCE } av_sums;

struct av_backend {
  const av_backend_ops *ops;
  const av_comm *comm;
  int threads;
  bool strict;   /* order-free sums */
  int precision; /* as av_backend_options has it, like the next five */
  bool same_bits;
  bool sums_by_mpi;
  bool keeps_passes;
  int gpu_rows;
  double gpu_timeout;
  size_t bytes[AV_KINDS]; /* of one element of each kind; set by open, as are the next two */
  bool queues;            /* operations return before they are done; who reads waits for all */
  av_sums sums;
  av_listener listener;    /* for the av_comm of all who use these ranks, from when the backend is
                              open on all of them until it is closed; set by open, or zero */
  av_gpu_use gpu;          /* cuda: memory of its device */
  void *state;             /* the backend's own */
  double *reads[AV_READS]; /* av_backend_read_begin's, oldest first; NULL: none */
};

/* AV_OK if the backend `choice` (AV_BACKEND_* of config.h) is in this build, else AV_NODEVICE in
 * one line. Not collective. */
av_status av_backend_available(int choice);

typedef struct av_backend_options {
  int choice; /* AV_BACKEND_* of config.h; auto = cpu */
  int threads;
  bool strict;        /* order-free sums (cpu); fixed orders (cuda has them always) */
  int precision;      /* cuda: AV_PRECISION_* of config.h, of dense products */
  bool same_bits;     /* cuda: in every run on the same GPUs; false: but for rounding */
  bool sums_by_mpi;   /* cuda: sums over ranks through host memory and MPI, not NCCL */
  bool keeps_passes;  /* cuda: passes that come again are kept as CUDA graphs */
  int gpu_rows;       /* cuda: AV_GPU_ROWS_* of config.h: of gradients, of a linear decoder */
  double gpu_timeout; /* cuda: seconds to wait for other ranks through NCCL; 0: for ever */
  int64_t gpu_memory; /* cuda: bytes of one device that may be used; 0: what it has */
} av_backend_options;

/* Opens the backend that is asked for. One that is not in this build or has no device:
 * AV_NODEVICE, in one line. Collective. */
av_status av_backend_open(av_backend *be, const av_backend_options *options, const av_comm *comm);
/* The same with the operations given, whatever options->choice. */
av_status av_backend_open_ops(av_backend *be, const av_backend_ops *ops,
                              const av_backend_options *options, const av_comm *comm);
void av_backend_close(av_backend *be);

/* Element i of an array. */
static inline void *av_backend_at(const av_backend *be, av_kind kind, const void *array,
                                  int64_t i) {
  return (char *)array + (size_t)i * be->bytes[kind];
}

/* pass_begin and pass_end of backends that do operations at once: nothing. */
void av_backend_no_pass_begin(av_backend *be, const av_batch *batch, av_pass_kind kind,
                              const av_pass_values *values);
void av_backend_no_pass_end(av_backend *be);
/* output_end of such backends: outputs are whole at once. */
av_status av_backend_no_output_end(av_backend *be);
/* read_begin and read_end of such backends: read at once, and given later. */
av_status av_backend_read_begin(av_backend *be, av_kind kind, const void *array, int64_t n);
av_status av_backend_read_end(av_backend *be, av_kind kind, int64_t n, double *values);
/* Cells whose outputs may be averaged at a time, at least 32; any number where operations are done
 * at once. */
int64_t av_backend_average_rows(const av_backend *be, int64_t n_genes);
/* decode_sums of the batch's n rows where arrays are the host's own: over decode_output's rho. */
av_status av_backend_sum_rho(av_backend *be, const av_batch *batch, int64_t n,
                             const av_decode *decode, const av_real *x, const av_real *l,
                             double scale, av_sum *sums);

static inline void av_backend_allreduce(av_backend *be, av_kind kind, void *array, int64_t n) {
  be->ops->allreduce(be, kind, array, n);
}

/* Shares of an array of n elements: rank r has [av_share_first(., n, r), av_share_first(., n,
 * r + 1)), which may be empty. They are cut at multiples of 16, so that vectors stay whole. */
enum { AV_SHARE_GRAIN = 16, AV_SHARE_MOST = 1 << 30 };
static inline int64_t av_share_first(const av_comm *comm, int64_t n, int rank) {
  const int64_t units = (n + AV_SHARE_GRAIN - 1) / AV_SHARE_GRAIN;
  const int64_t first = units * rank / comm->size * AV_SHARE_GRAIN;
  return first < n ? first : n;
}

#endif
