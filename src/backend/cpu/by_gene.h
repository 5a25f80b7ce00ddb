/* Some rows of the minibatch by gene: what the first layer's weight gradient walks through.
 * Internal.
 *
 * A thread takes its own range of genes, in tiles of AV_TILE_ROWS rows: 64 columns of a tile's
 * gradients stay in its first-level cache, its sorted entries in the second. */
#ifndef AV_BACKEND_CPU_BY_GENE_H
#define AV_BACKEND_CPU_BY_GENE_H

#include "backend/cpu/state.h"

enum { AV_TILE_ROWS = 128 };

/* Bytes of working space for the entries and genes of any tile of the batch. */
int64_t av_by_gene_bytes(const av_batch *batch);

/* Entries of genes [gene_begin, gene_end) in rows [begin, end) of the batch, at most AV_TILE_ROWS,
 * with f(count) from value (the batch's counts or log1p of them). The result lives in `space`
 * (av_by_gene_bytes, 64-byte aligned). Bound: two passes over the entries, a store to a random
 * place of the second-level cache in each. */
av_sparse_part av_by_gene(const av_batch *batch, const float *value, int64_t begin, int64_t end,
                          int64_t gene_begin, int64_t gene_end, void *space);

/* bounds (threads + 1): ranges of genes of about equal work, for their non-zeros, from a sample of
 * the rows, and for their weights; false without memory. */
bool av_gene_bounds(const av_counts *counts, int threads, int32_t *bounds);

#endif
