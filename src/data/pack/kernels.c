/* Compiled once for each instruction set; counts_pack.c takes the best that the machine has. */
#include "data/pack/kernels.h"

enum { AT_ONCE = 4096 }; /* entries whose tally fits the narrowest type of an index */

/* Larger values need no code and are left to the slow path. */
static const double largest_fast = 2147483520.0; /* the float below 2^31 */

/* Codes of `type` values: `work` is the type compared in, `integer` the one that holds a whole
 * value. A value outside 0 .. largest, or not a number, becomes another that differs from it. No
 * branch and no bool, so that it becomes vector code. */
#define VALUES(name, type, work, integer, code_type, escape)                    \
  static bool name(int64_t n, const type *restrict value, double largest,       \
                   code_type *restrict code, bool *escapes) {                   \
    const work limit = (work)(largest < largest_fast ? largest : largest_fast); \
    integer wrong = 0;                                                          \
    integer lowest = 1;                                                         \
    integer highest = 0;                                                        \
    for (int64_t i = 0; i < n; ++i) {                                           \
      const work x = (work)value[i];                                            \
      const work below = x < limit ? x : limit; /* of a NaN: limit */           \
      const integer whole = (integer)(below > 0 ? below : 0);                   \
      wrong |= (work)whole != x ? 1 : 0;                                        \
      lowest = whole < lowest ? whole : lowest;                                 \
      highest = whole > highest ? whole : highest;                              \
      code[i] = (code_type)(whole < (escape) ? whole : (escape));               \
    }                                                                           \
    *escapes = highest >= (escape);                                             \
    return wrong == 0 && lowest > 0;                                            \
  }
#define BOTH(name, type, work, integer)                         \
  VALUES(name##_to_u8, type, work, integer, uint8_t, UINT8_MAX) \
  VALUES(name##_to_u16, type, work, integer, uint16_t, UINT16_MAX)

BOTH(f32, float, float, int32_t)
BOTH(f64, double, double, int32_t)
BOTH(i8, int8_t, int32_t, int32_t)
BOTH(u8, uint8_t, int32_t, int32_t)
BOTH(i16, int16_t, int32_t, int32_t)
BOTH(u16, uint16_t, int32_t, int32_t)
BOTH(i32, int32_t, int32_t, int32_t)
BOTH(u32, uint32_t, uint32_t, uint32_t)
BOTH(i64, int64_t, int64_t, int64_t)
BOTH(u64, uint64_t, uint64_t, uint64_t)

#define CHOOSE(name, type)                                                                   \
  return codes == AV_COUNT_U8 ? name##_to_u8(n, (const type *)value, largest, code, escapes) \
                              : name##_to_u16(n, (const type *)value, largest, code, escapes)

bool AV_PACK_NAME(av_pack_values)(av_number kind, int64_t n, const void *value, double largest,
                                  av_count_kind codes, void *code, bool *escapes) {
  *escapes = false;
  if (codes == AV_COUNT_F32) {
    return false;
  }
  switch (kind) {
    case AV_NUMBER_NONE:
      break;
    case AV_NUMBER_F32:
      CHOOSE(f32, float);
    case AV_NUMBER_F64:
      CHOOSE(f64, double);
    case AV_NUMBER_I8:
      CHOOSE(i8, int8_t);
    case AV_NUMBER_U8:
      CHOOSE(u8, uint8_t);
    case AV_NUMBER_I16:
      CHOOSE(i16, int16_t);
    case AV_NUMBER_U16:
      CHOOSE(u16, uint16_t);
    case AV_NUMBER_I32:
      CHOOSE(i32, int32_t);
    case AV_NUMBER_U32:
      CHOOSE(u32, uint32_t);
    case AV_NUMBER_I64:
      CHOOSE(i64, int64_t);
    case AV_NUMBER_U64:
      CHOOSE(u64, uint64_t);
  }
  return false;
}

/* Unsigned types: what would be negative is far too large. */
#define GENES(name, type, gene_type)                                       \
  static bool name(int64_t n, const type *restrict index, int64_t n_genes, \
                   gene_type *restrict gene, int64_t *descents) {          \
    type highest = n > 0 ? index[0] : 0;                                   \
    int64_t down = 0;                                                      \
    if (n > 0) {                                                           \
      gene[0] = (gene_type)index[0];                                       \
    }                                                                      \
    for (int64_t begin = 1; begin < n; begin += AT_ONCE) {                 \
      const int m = (int)(n - begin < AT_ONCE ? n - begin : AT_ONCE);      \
      const type *restrict from = index + begin;                           \
      gene_type *restrict to = gene + begin;                               \
      type some = 0;                                                       \
      for (int i = 0; i < m; ++i) {                                        \
        highest = from[i] > highest ? from[i] : highest;                   \
        some += from[i] <= from[i - 1] ? 1 : 0;                            \
        to[i] = (gene_type)from[i];                                        \
      }                                                                    \
      down += (int64_t)some;                                               \
    }                                                                      \
    *descents = down;                                                      \
    return n == 0 || highest < (type)n_genes;                              \
  }
GENES(genes_32_16, uint32_t, uint16_t)
GENES(genes_32_32, uint32_t, uint32_t)
GENES(genes_64_16, uint64_t, uint16_t)
GENES(genes_64_32, uint64_t, uint32_t)

bool AV_PACK_NAME(av_pack_genes)(av_number kind, int64_t n, const void *index, int64_t n_genes,
                                 bool wide, void *gene, int64_t *descents) {
  *descents = 0;
  switch (kind) {
    case AV_NUMBER_I32:
    case AV_NUMBER_U32:
      return wide ? genes_32_32(n, index, n_genes, gene, descents)
                  : genes_32_16(n, index, n_genes, gene, descents);
    case AV_NUMBER_I64:
    case AV_NUMBER_U64:
      return wide ? genes_64_32(n, index, n_genes, gene, descents)
                  : genes_64_16(n, index, n_genes, gene, descents);
    default:
      return false;
  }
}
