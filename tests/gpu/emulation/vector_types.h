/* CUDA's vector types, those that kernels use. */
#ifndef AV_EMULATED_VECTOR_TYPES_H
#define AV_EMULATED_VECTOR_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef struct uint3 {
  unsigned int x, y, z;
} uint3;

typedef struct dim3 {
  unsigned int x, y, z;
#ifdef __cplusplus
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
      : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 from) : x(from.x), y(from.y), z(from.z) {}
#endif
} dim3;

#define AV_VECTOR2(type, name, align)              \
  typedef struct name {                            \
    type x, y;                                     \
  } __attribute__((aligned(align))) name;          \
  static inline name make_##name(type x, type y) { \
    name made = {x, y};                            \
    return made;                                   \
  }
#define AV_VECTOR4(type, name, align)                              \
  typedef struct name {                                            \
    type x, y, z, w;                                               \
  } __attribute__((aligned(align))) name;                          \
  static inline name make_##name(type x, type y, type z, type w) { \
    name made = {x, y, z, w};                                      \
    return made;                                                   \
  }

AV_VECTOR2(float, float2, 8)
AV_VECTOR2(double, double2, 16)
AV_VECTOR2(int, int2, 8)
AV_VECTOR2(unsigned int, uint2, 8)
AV_VECTOR2(long long, longlong2, 16)
AV_VECTOR2(unsigned long long, ulonglong2, 16)
AV_VECTOR2(short, short2, 4)
AV_VECTOR2(unsigned short, ushort2, 4)
AV_VECTOR2(unsigned char, uchar2, 2)
AV_VECTOR4(float, float4, 16)
AV_VECTOR4(int, int4, 16)
AV_VECTOR4(unsigned int, uint4, 16)
AV_VECTOR4(short, short4, 8)
AV_VECTOR4(unsigned short, ushort4, 8)
AV_VECTOR4(unsigned char, uchar4, 4)

#undef AV_VECTOR2
#undef AV_VECTOR4

#endif
