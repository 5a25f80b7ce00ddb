/* The operations that every backend has in files of its own, listed once: a backend declares all of
 * them, with the types that backend.h gives them, and fills its table with them, by the prefix of
 * their names. Its life and memory, and what few backends have, are not among them. */
#ifndef AV_BACKEND_OPERATIONS_H
#define AV_BACKEND_OPERATIONS_H

#include "backend/backend.h"

#define AV_EACH_OPERATION(EACH, prefix) \
  EACH(prefix, data_load)               \
  EACH(prefix, data_free)               \
  EACH(prefix, batch_create)            \
  EACH(prefix, batch_free)              \
  EACH(prefix, batch_select)            \
  EACH(prefix, sparse_linear)           \
  EACH(prefix, sparse_linear_grad)      \
  EACH(prefix, sparse_linear_step)      \
  EACH(prefix, linear)                  \
  EACH(prefix, linear_grad)             \
  EACH(prefix, moments)                 \
  EACH(prefix, norm_act)                \
  EACH(prefix, layer_norm_grad)         \
  EACH(prefix, norm_act_sums)           \
  EACH(prefix, norm_act_grad)           \
  EACH(prefix, latent_draw)             \
  EACH(prefix, latent_grad)             \
  EACH(prefix, simplex_means)           \
  EACH(prefix, fold_sums)               \
  EACH(prefix, fold)                    \
  EACH(prefix, fold_grad)               \
  EACH(prefix, fold_correct)            \
  EACH(prefix, decode_nll)              \
  EACH(prefix, decode_cells)            \
  EACH(prefix, decode_output)           \
  EACH(prefix, decode_sums)             \
  EACH(prefix, adam)                    \
  EACH(prefix, allreduce)               \
  EACH(prefix, share_begin)             \
  EACH(prefix, share_end)               \
  EACH(prefix, gather_begin)            \
  EACH(prefix, gather_end)

/* Declares av_cpu_linear and the others: AV_DECLARE_OPERATIONS(av_cpu_) */
#define AV_DECLARE_OPERATIONS(prefix) AV_EACH_OPERATION(AV_DECLARE_OPERATION, prefix)
#define AV_DECLARE_OPERATION(prefix, name) __typeof__(*((av_backend_ops *)0)->name) prefix##name;

/* Their part of a table: {.name = "cpu", AV_TABLE_OPERATIONS(av_cpu_)} */
#define AV_TABLE_OPERATIONS(prefix) AV_EACH_OPERATION(AV_TABLE_OPERATION, prefix)
#define AV_TABLE_OPERATION(prefix, name) .name = prefix##name,

#endif
