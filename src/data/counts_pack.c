#include "data/pack/kernels.h"

size_t av_number_size(av_number kind) {
  switch (kind) {
    case AV_NUMBER_NONE:
      return 0;
    case AV_NUMBER_I8:
    case AV_NUMBER_U8:
      return 1;
    case AV_NUMBER_I16:
    case AV_NUMBER_U16:
      return 2;
    case AV_NUMBER_F32:
    case AV_NUMBER_I32:
    case AV_NUMBER_U32:
      return 4;
    case AV_NUMBER_F64:
    case AV_NUMBER_I64:
    case AV_NUMBER_U64:
      return 8;
  }
  return 0;
}

double av_number_at(av_number kind, const void *at, int64_t i) {
  switch (kind) {
    case AV_NUMBER_NONE:
      break;
    case AV_NUMBER_F32:
      return (double)((const float *)at)[i];
    case AV_NUMBER_F64:
      return ((const double *)at)[i];
    case AV_NUMBER_I8:
      return ((const int8_t *)at)[i];
    case AV_NUMBER_U8:
      return ((const uint8_t *)at)[i];
    case AV_NUMBER_I16:
      return ((const int16_t *)at)[i];
    case AV_NUMBER_U16:
      return ((const uint16_t *)at)[i];
    case AV_NUMBER_I32:
      return ((const int32_t *)at)[i];
    case AV_NUMBER_U32:
      return ((const uint32_t *)at)[i];
    case AV_NUMBER_I64:
      return (double)((const int64_t *)at)[i];
    case AV_NUMBER_U64:
      return (double)((const uint64_t *)at)[i];
  }
  return 0;
}

/* name_isa(...) of the best instruction set that the machine has. */
#ifdef AV_PACK_X86
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#define BEST(name, ...)                     \
  has_avx512() ? name##_avx512(__VA_ARGS__) \
  : has_avx2() ? name##_avx2(__VA_ARGS__)   \
               : name##_baseline(__VA_ARGS__)
#else
#define BEST(name, ...) name##_baseline(__VA_ARGS__)
#endif

bool av_pack_values(av_number kind, int64_t n, const void *value, double largest,
                    av_count_kind codes, void *code, bool *escapes) {
  return BEST(av_pack_values, kind, n, value, largest, codes, code, escapes);
}

bool av_pack_genes(av_number kind, int64_t n, const void *index, int64_t n_genes, bool wide,
                   void *gene, int64_t *descents) {
  return BEST(av_pack_genes, kind, n, index, n_genes, wide, gene, descents);
}

static int64_t index_at(av_number kind, const void *index, int64_t i) {
  switch (kind) {
    case AV_NUMBER_I32:
      return ((const int32_t *)index)[i];
    case AV_NUMBER_U32:
      return ((const uint32_t *)index)[i];
    default:
      return ((const int64_t *)index)[i]; /* U64: beyond int64 becomes negative, no column either */
  }
}

int64_t av_raw_expand(const av_raw_rows *rows, int64_t first, int64_t n, int64_t n_columns,
                      const int32_t *position, int32_t *gene, double *value) {
  int64_t filled = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t column = index_at(rows->index_kind, rows->index, first + i);
    if (column < 0 || column >= n_columns) {
      return -1 - i;
    }
    gene[filled] = position[column];
    value[filled] = av_number_at(rows->value_kind, rows->value, first + i);
    filled += position[column] >= 0;
  }
  return filled;
}
