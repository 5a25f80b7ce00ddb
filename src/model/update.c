/* The gradient's way to the other ranks, in parts that start as soon as they are complete, and the
 * optimiser's step. Where sums take turns, the decoder's part starts after the last sum of
 * BatchNorm's moments, which would wait for it: beside the first layer's gradient, the longest
 * operation left. Where nothing runs beside them all parts are one.
 *
 * Each rank receives the sum of its share of every part, updates those parameters, and passes them
 * on: the bytes of a sum to all ranks, 1/ranks of the optimiser's work, the same bits. */
#include "base/memory.h"
#include "model/vae_parts.h"

static void add_parts(av_vae *vae, int64_t first, int64_t end) {
  while (first < end) {
    const int64_t n = end - first < AV_SHARE_MOST ? end - first : AV_SHARE_MOST;
    vae->part[vae->n_parts++] = (av_part){.first = first, .n = n};
    first += n;
  }
}

/* A small part is not worth an exchange of its own. */
static void cut_parts(av_vae *vae) {
  const int64_t decoder = vae->layout.decoder_begin;
  const int64_t n = vae->layout.n_params;
  vae->n_parts = 0;
  vae->n_early = 0;
  if (vae->frozen_encoder) {
    add_parts(vae, decoder, n);
  } else if (n - decoder < vae->least_part || decoder < vae->least_part) {
    add_parts(vae, 0, n);
  } else {
    add_parts(vae, decoder, n);
    vae->n_early = vae->n_parts;
    add_parts(vae, 0, decoder);
  }
}

/* Messages: 256 KB take about 20 us on a link of 12 GB/s, ten times the latency of two more. On
 * GPUs, whose sums take turns, those of a part are one operation beside the first layer's gradient;
 * what a part costs after it, one more launch of the optimiser, is assumed to be the 2 us that 32
 * KB take on such a link: not measured. */
static int64_t least_part(av_sums sums) {
  switch (sums) {
    case AV_SUMS_BESIDE:
      return 1 << 16;
    case AV_SUMS_IN_TURN:
      return 1 << 13;
    case AV_SUMS_AT_ONCE:
      break;
  }
  return INT64_MAX;
}

av_status av_take_parts(av_vae *vae) {
  vae->least_part = least_part(vae->be->sums);
  vae->part = av_calloc((size_t)(vae->layout.n_params / AV_SHARE_MOST + 3), sizeof *vae->part);
  AV_TRY_ALLOC(vae->part);
  cut_parts(vae);
  return AV_OK;
}

void av_vae_set_least_part(av_vae *vae, int64_t n) {
  vae->least_part = n;
  cut_parts(vae);
}

void av_vae_freeze_encoder(av_vae *vae) {
  vae->frozen_encoder = true;
  cut_parts(vae);
}

void av_begin_parts(av_vae *vae, int n) {
  av_backend *be = vae->be;
  for (; vae->n_begun < n; ++vae->n_begun) {
    const av_part part = vae->part[vae->n_begun];
    be->ops->share_begin(be, AV_GRAD, av_grad_at(vae, part.first), part.n);
  }
}

static void adam_over(av_vae *vae, const av_adam *adam, int64_t first, int64_t n) {
  av_backend *be = vae->be;
  be->ops->adam(be, adam, n, av_param(vae, first), av_grad_at(vae, first),
                av_backend_at(be, AV_REAL, vae->m, first),
                av_backend_at(be, AV_REAL, vae->v, first));
}

/* The length of the gradient is that of all parameters: every rank needs all of it, and updates
 * everything. So does a rank that is alone. */
static void update_everything(av_vae *vae, const av_adam *adam) {
  av_backend *be = vae->be;
  const int64_t first = vae->frozen_encoder ? vae->layout.decoder_begin : 0;
  for (int i = 0; i < vae->n_parts; ++i) {
    const av_part part = vae->part[i];
    be->ops->gather_begin(be, AV_GRAD, av_grad_at(vae, part.first), part.n);
  }
  be->ops->gather_end(be);
  if (vae->first_updated) { /* the rows of counts, which come first of all */
    const av_layout *layout = &vae->layout;
    const int64_t end = layout->first.w + layout->spec.n_genes * layout->first.n_out;
    adam_over(vae, adam, end, layout->n_params - end);
    vae->first_updated = false;
  } else {
    adam_over(vae, adam, first, vae->layout.n_params - first);
  }
}

/* Each rank updates its share, with its share of Adam's moments, and passes on the result. */
static void update_shares(av_vae *vae, const av_adam *adam) {
  av_backend *be = vae->be;
  const int rank = be->comm->rank;
  for (int i = 0; i < vae->n_parts; ++i) {
    const av_part part = vae->part[i];
    const int64_t first = av_share_first(be->comm, part.n, rank);
    const int64_t n = av_share_first(be->comm, part.n, rank + 1) - first;
    adam_over(vae, adam, part.first + first, n);
    be->ops->gather_begin(be, AV_REAL, av_param(vae, part.first), part.n);
  }
  be->ops->gather_end(be);
}

void av_vae_update(av_vae *vae, const av_adam *adam) {
  av_begin_parts(vae, vae->n_parts);
  vae->be->ops->share_end(vae->be);
  vae->n_begun = 0;
  if (vae->be->comm->size == 1 || adam->clip > 0.0) {
    update_everything(vae, adam);
  } else {
    update_shares(vae, adam);
  }
  if (vae->in_step) {
    vae->be->ops->pass_end(vae->be);
    vae->in_step = false;
  }
}
