/* av_pack_values and av_pack_genes (counts_pack.h), once for each instruction set. */
#ifndef AV_DATA_PACK_KERNELS_H
#define AV_DATA_PACK_KERNELS_H

#include "data/counts_pack.h"

#define AV_PACK_JOIN(name, isa) name##isa
#define AV_PACK_NAMED(name, isa) AV_PACK_JOIN(name, isa)
#define AV_PACK_NAME(name) AV_PACK_NAMED(name, AV_ISA)

#define AV_PACK_DECLARE(isa)                                                              \
  bool AV_PACK_JOIN(av_pack_values, isa)(av_number kind, int64_t n, const void *value,    \
                                         double largest, av_count_kind codes, void *code, \
                                         bool *escapes);                                  \
  bool AV_PACK_JOIN(av_pack_genes, isa)(av_number kind, int64_t n, const void *index,     \
                                        int64_t n_genes, bool wide, void *gene,           \
                                        int64_t *descents);
AV_PACK_DECLARE(_baseline)
AV_PACK_DECLARE(_avx2)
AV_PACK_DECLARE(_avx512)

#endif
