/* The three readers of a rank's slab of counts, one per layout. Internal to src/io. */
#ifndef AV_IO_READ_SLAB_H
#define AV_IO_READ_SLAB_H

#include "config/config.h"
#include "io/stored.h"
#include "io/value_check.h"

/* What they share. dataset: partition, first, n_local, genes and gene_column are set, counts are
 * filled in. */
typedef struct av_slab {
  const av_comm *comm;
  const av_matrix *matrix;
  av_dataset *dataset;
  av_read_limits limits;
  av_stored stored;
  av_value_check check;
  int32_t *position; /* (matrix columns) among the genes used, -1 if not used */
} av_slab;

/* Rows of this rank, read by itself. Not collective, except that rank 0 of a relay waits for the
 * others in av_stored_begin: agree before and after. `status`: success so far; a failed rank must
 * call too. */
av_status av_read_csr(av_slab *slab, av_status status);
av_status av_read_dense(av_slab *slab, av_status status);

/* Each rank reads a share of the columns and the entries travel to the ranks that own the rows, in
 * rounds of bounded size; the file is read once. Collective; agrees by itself; call when all ranks
 * are well. */
av_status av_read_csc(av_slab *slab);

/* The second half of av_h5ad_read, after av_h5ad_read_metadata. Collective. */
av_status av_h5ad_read_slabs(const av_comm *comm, const av_config *config, av_dataset *dataset,
                             const av_input_plan *plan, const av_read_limits *limits);

/* av_h5ad_read with other limits than av_read_limits_default(): for tests. Collective. */
av_status av_h5ad_read_limited(const av_comm *comm, const av_config *config, av_dataset *dataset,
                               const av_read_limits *limits);

/* A builder for this rank's rows with room for about n_stored entries over all genes of the file.
 */
av_status av_slab_builder(const av_slab *slab, int64_t n_stored, av_counts_builder **builder);

#endif
