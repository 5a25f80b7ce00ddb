/* Kernels as nvcc compiled them to PTX, played on the emulated device: what the C++ that ptx.py
 * makes of them is written with. Every thread counts the basic blocks that it enters; a warp issues
 * a block as often as the lane that enters it most often (lanes that part meet again as soon as
 * they can, and those that left a loop wait for the others). played.cpp weighs the blocks with the
 * machine instructions that ptxas made of each.
 *
 * Addresses are the host's; shared, local and parameter memory has generic addresses alone.
 * Functions that a GPU approximates (ex2.approx and such) are the host's, correctly rounded or
 * nearly. */
#ifndef ROOFLINE_PLAYED_H
#define ROOFLINE_PLAYED_H

#include "cuda_runtime.h"

#include <limits>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

/* What a warp that enters a block issues: instructions, from below, likely and from above
 * (play.py); of them those that ask for memory or for other lanes' values. */
typedef struct played_weight {
  float instructions[3];
  int requests;
} played_weight;

/* A kernel by its mangled name. */
typedef struct played_kernel {
  const char *name;
  av_emulated_play play;
  int n_blocks; /* basic blocks, of functions that it may call, too */
  const played_weight *weights;
  int registers, shared; /* of a thread; static bytes of a block */
} played_kernel;

/* Before main; true. */
bool played_add(const played_kernel *kernel);
/* Counts of the thread that begins, of each basic block. */
uint32_t *played_thread(const played_kernel *kernel);

namespace {

/* The same bits; of integers of different sizes the lowest. */
template <typename To, typename From>
inline To as(From value) {
  if constexpr (sizeof(To) == sizeof(From)) {
    To made;
    memcpy(&made, &value, sizeof made);
    return made;
  } else {
    static_assert(std::is_integral<From>::value && std::is_integral<To>::value, "bits");
    return static_cast<To>(value);
  }
}
/* Into a register of another type: its sign is extended. */
template <typename To, typename From>
inline To to(From value) {
  return as<To>(value);
}
template <typename T>
inline uint64_t place(T *at) {
  return reinterpret_cast<uintptr_t>(at);
}
template <typename T>
inline T load(uint64_t at, int i) {
  T value;
  memcpy(&value, reinterpret_cast<const char *>(at) + i * static_cast<int>(sizeof value),
         sizeof value);
  return value;
}
template <typename T>
inline void store(uint64_t at, int i, T value) {
  memcpy(reinterpret_cast<char *>(at) + i * static_cast<int>(sizeof value), &value, sizeof value);
}

/* --- threads */

inline void warp_sync(uint32_t mask) { __syncwarp(mask); }
inline uint32_t vote_ballot(bool value, uint32_t mask) { return __ballot_sync(mask, value); }
inline bool vote_any(bool value, uint32_t mask) { return __any_sync(mask, value) != 0; }
inline bool vote_all(bool value, uint32_t mask) { return __all_sync(mask, value) != 0; }

/* The PTX manual's: c holds a clamp and the mask of a segment. */
inline uint32_t shuffle(uint32_t value, int from, bool inside, uint32_t mask, bool &in_range) {
  in_range = inside;
  return av_emulated_shuffle("shfl.sync", mask, value, inside ? from : av_emulated_lane(), "PTX",
                             0);
}
inline uint32_t shuffle_idx(uint32_t value, uint32_t b, uint32_t c, uint32_t mask, bool &in_range) {
  const int lane = av_emulated_lane(), segment = static_cast<int>(c >> 8 & 31);
  const int most = (lane & segment) | (static_cast<int>(c & 31) & ~segment);
  const int from = (lane & segment) | (static_cast<int>(b & 31) & ~segment);
  return shuffle(value, from, from <= most, mask, in_range);
}
inline uint32_t shuffle_bfly(uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                             bool &in_range) {
  const int lane = av_emulated_lane(), segment = static_cast<int>(c >> 8 & 31);
  const int most = (lane & segment) | (static_cast<int>(c & 31) & ~segment);
  const int from = lane ^ static_cast<int>(b & 31);
  return shuffle(value, from, from <= most, mask, in_range);
}
inline uint32_t shuffle_down(uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                             bool &in_range) {
  const int lane = av_emulated_lane(), segment = static_cast<int>(c >> 8 & 31);
  const int most = (lane & segment) | (static_cast<int>(c & 31) & ~segment);
  const int from = lane + static_cast<int>(b & 31);
  return shuffle(value, from, from <= most, mask, in_range);
}
inline uint32_t shuffle_up(uint32_t value, uint32_t b, uint32_t c, uint32_t mask, bool &in_range) {
  const int lane = av_emulated_lane(), segment = static_cast<int>(c >> 8 & 31);
  const int least = (lane & segment) | (static_cast<int>(c & 31) & ~segment);
  const int from = lane - static_cast<int>(b & 31);
  return shuffle(value, from, from >= least, mask, in_range);
}

#define PLAYED_ATOMIC(name, made)                \
  template <typename T>                          \
  inline T atomic_##name(uint64_t at, T value) { \
    const T old = load<T>(at, 0);                \
    store<T>(at, 0, static_cast<T>(made));       \
    return old;                                  \
  }
PLAYED_ATOMIC(add, old + value)
PLAYED_ATOMIC(min, value < old ? value : old)
PLAYED_ATOMIC(max, value > old ? value : old)
PLAYED_ATOMIC(or, old | value)
PLAYED_ATOMIC(and, old &value)
PLAYED_ATOMIC(exch, value)
#undef PLAYED_ATOMIC

/* --- numbers */

enum class rounding { none, rn, rz, rm, rp, rni, rzi, rmi, rpi };

template <typename T>
inline bool unordered(T a, T b) {
  return a != a || b != b;
}
template <typename T>
inline T saturate(T value) {
  return value > 0 ? (value < 1 ? value : static_cast<T>(1)) : static_cast<T>(0);
}

/* Of an exact or nearly exact double, downwards or towards 0. */
inline float down(double value) {
  const float near = static_cast<float>(value);
  return static_cast<double>(near) > value ? nextafterf(near, -INFINITY) : near;
}
inline float to_zero(double value) {
  const float near = static_cast<float>(value);
  return fabs(static_cast<double>(near)) > fabs(value) ? nextafterf(near, 0.0f) : near;
}

template <typename To, typename From>
inline To convert(From value, rounding how) {
  if constexpr (std::is_floating_point<From>::value) {
    From whole = value;
    switch (how) {
      case rounding::rni:
        whole = rint(value);
        break;
      case rounding::rzi:
        whole = trunc(value);
        break;
      case rounding::rmi:
        whole = floor(value);
        break;
      case rounding::rpi:
        whole = ceil(value);
        break;
      default:
        break;
    }
    if constexpr (std::is_integral<To>::value) {
      typedef std::numeric_limits<To> limits;
      return whole != whole                                 ? static_cast<To>(0)
             : whole <= static_cast<From>(limits::lowest()) ? limits::lowest()
             : whole >= static_cast<From>(limits::max())    ? limits::max()
                                                            : static_cast<To>(whole);
    } else {
      return how == rounding::rz   ? static_cast<To>(to_zero(static_cast<double>(whole)))
             : how == rounding::rm ? static_cast<To>(down(static_cast<double>(whole)))
                                   : static_cast<To>(whole);
    }
  } else {
    return static_cast<To>(value);
  }
}

template <typename T>
inline T shift_left(T a, uint32_t by) {
  return by < 8 * sizeof a ? static_cast<T>(a << by) : static_cast<T>(0);
}
template <typename T>
inline T shift_right(T a, uint32_t by) {
  return by < 8 * sizeof a ? static_cast<T>(a >> by) : static_cast<T>(a < 0 ? -1 : 0);
}

/* Whole numbers wrap around. */
template <typename T>
using wrapping =
    typename std::conditional<std::is_floating_point<T>::value, T,
                              typename std::make_unsigned<typename std::conditional<
                                  std::is_floating_point<T>::value || std::is_same<T, bool>::value,
                                  int, T>::type>::type>::type;

#define PLAYED_1(name, made)       \
  template <typename T>            \
  inline auto played_##name(T a) { \
    return made;                   \
  }
#define PLAYED_2(name, made)            \
  template <typename T>                 \
  inline auto played_##name(T a, T b) { \
    typedef wrapping<T> W;              \
    (void)sizeof(W);                    \
    return made;                        \
  }
PLAYED_2(add, static_cast<T>(static_cast<W>(a) + static_cast<W>(b)))
PLAYED_2(sub, static_cast<T>(static_cast<W>(a) - static_cast<W>(b)))
PLAYED_2(mul, static_cast<T>(static_cast<W>(a) * static_cast<W>(b)))
PLAYED_2(div, b == 0 && std::is_integral<T>::value ? static_cast<T>(-1) : static_cast<T>(a / b))
PLAYED_2(rem, b == 0 ? a : static_cast<T>(a % b))
PLAYED_2(min, static_cast<T>(a < b || b != b ? a : b))
PLAYED_2(max, static_cast<T>(a > b || b != b ? a : b))
PLAYED_2(and, static_cast<T>(a &b))
PLAYED_2(or, static_cast<T>(a | b))
PLAYED_2(xor, static_cast<T>(a ^ b))
PLAYED_2(add_rz, to_zero(static_cast<double>(a) + static_cast<double>(b)))
PLAYED_2(add_rm, down(static_cast<double>(a) + static_cast<double>(b)))
PLAYED_2(mul_rz, to_zero(static_cast<double>(a) * static_cast<double>(b)))
PLAYED_2(mul_hi,
         static_cast<T>((static_cast<__int128>(a) * static_cast<__int128>(b)) >> (8 * sizeof a)))
PLAYED_1(neg, static_cast<T>(-static_cast<wrapping<T>>(a)))
PLAYED_1(abs, static_cast<T>(a < 0 || (std::is_floating_point<T>::value && signbit(a)) ? -a : a))
PLAYED_1(not, static_cast<T>(std::is_same<T, bool>::value ? !a : ~static_cast<int64_t>(a)))
PLAYED_1(rcp, static_cast<T>(1) / a)
PLAYED_1(sqrt, static_cast<T>(::sqrt(a)))
PLAYED_1(rsqrt, static_cast<T>(1) / static_cast<T>(::sqrt(a)))
PLAYED_2(copysign, static_cast<T>(::copysign(b, a)))
PLAYED_1(sin, sinf(a))
PLAYED_1(cos, cosf(a))
PLAYED_1(ex2, exp2f(a))
PLAYED_1(lg2, log2f(a))
PLAYED_1(popc, static_cast<uint32_t>(__builtin_popcountll(a)))
PLAYED_1(clz, static_cast<uint32_t>(a == 0 ? 8 * sizeof a
                                           : static_cast<size_t>(__builtin_clzll(a)) - 64 +
                                                 8 * sizeof a))
#undef PLAYED_1
#undef PLAYED_2

template <typename T>
inline auto played_mul_wide(T a, T b) {
  typedef typename std::conditional<std::is_signed<T>::value, int64_t, uint64_t>::type Wide64;
  typedef typename std::conditional<std::is_signed<T>::value, int32_t, uint32_t>::type Wide32;
  typedef typename std::conditional<sizeof(T) == 4, Wide64, Wide32>::type Wide;
  return static_cast<Wide>(static_cast<Wide>(a) * static_cast<Wide>(b));
}
template <typename T, typename Wide>
inline Wide played_mad_wide(T a, T b, Wide c) {
  return static_cast<Wide>(played_mul_wide<T>(a, b) + c);
}
template <typename T>
inline T played_mad(T a, T b, T c) {
  return played_add<T>(played_mul<T>(a, b), c);
}
template <typename T>
inline T played_mad_hi(T a, T b, T c) {
  return played_add<T>(played_mul_hi<T>(a, b), c);
}
template <typename T>
inline T played_fma(T a, T b, T c) {
  return static_cast<T>(
      std::is_same<T, float>::value
          ? fmaf(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c))
          : fma(static_cast<double>(a), static_cast<double>(b), static_cast<double>(c)));
}
template <typename T>
inline float played_fma_rm(T a, T b, T c) {
  return down(fma(static_cast<double>(a), static_cast<double>(b), static_cast<double>(c)));
}
template <typename T>
inline float played_fma_rz(T a, T b, T c) {
  return to_zero(fma(static_cast<double>(a), static_cast<double>(b), static_cast<double>(c)));
}
template <typename T>
inline T played_brev(T a) {
  T made = 0;
  for (size_t bit = 0; bit < 8 * sizeof a; ++bit) {
    made = static_cast<T>(made << 1 | (a >> bit & 1));
  }
  return made;
}
/* Of the highest bit, by how much it would have to be shifted to be the highest. */
template <typename T>
inline uint32_t played_bfind_shiftamt(T a) {
  return a == 0 ? 0xffffffffu : played_clz<T>(a);
}
template <typename T>
inline uint32_t played_bfind(T a) {
  return a == 0 ? 0xffffffffu : static_cast<uint32_t>(8 * sizeof a) - 1 - played_clz<T>(a);
}
template <typename T>
inline T played_bfe(T a, T at, T length) {
  const uint64_t kept = (static_cast<uint64_t>(static_cast<wrapping<T>>(a)) >> (at & 0xff));
  return static_cast<T>((length & 0xff) > 63 ? kept : kept & ((1ull << (length & 0xff)) - 1));
}
template <typename T>
inline T played_bfi(T a, T b, T at, T length) {
  const uint64_t ones = (length & 0xff) > 63 ? ~0ull : (1ull << (length & 0xff)) - 1;
  const uint64_t mask = (at & 0xff) < 8 * sizeof a ? ones << (at & 0xff) : 0;
  const uint64_t placed = (at & 0xff) < 8 * sizeof a ? uint64_t{a} << (at & 0xff) : 0;
  return static_cast<T>((placed & mask) | (b & ~mask));
}
template <typename T>
inline T played_lop3(T a, T b, T c, T table) {
  T made = 0;
  for (int bit = 0; bit < 8; ++bit) {
    made |= table >> bit & 1 ? (bit & 4 ? a : ~a) & (bit & 2 ? b : ~b) & (bit & 1 ? c : ~c) : 0;
  }
  return made;
}
template <typename T>
inline T played_prmt(T a, T b, T selection) {
  const uint64_t both = uint64_t{b} << 32 | a;
  T made = 0;
  for (int byte = 0; byte < 4; ++byte) {
    const unsigned chosen = selection >> (4 * byte) & 15;
    const uint8_t value = static_cast<uint8_t>(both >> (8 * (chosen & 7)));
    const uint8_t kept = chosen & 8 ? (value & 0x80 ? 0xff : 0) : value;
    made |= static_cast<T>(kept) << (8 * byte);
  }
  return made;
}
template <typename T>
inline T played_shf_l_wrap(T a, T b, T by) {
  return static_cast<T>((uint64_t{b} << 32 | a) << (by & 31) >> 32);
}
template <typename T>
inline T played_shf_r_wrap(T a, T b, T by) {
  return static_cast<T>((uint64_t{b} << 32 | a) >> (by & 31));
}

/* With a carry. */
template <typename T>
inline T with_carry(uint32_t &carry, uint64_t sum) {
  carry = static_cast<uint32_t>(sum >> 32);
  return static_cast<T>(sum);
}
#define PLAYED_CARRY(name, plain, set)                              \
  template <typename T, typename... V>                              \
  inline T played_##name(uint32_t &carry, V... v) {                 \
    static_assert(sizeof(T) == 4, "carries are of 32 bits");        \
    (void)carry;                                                    \
    const uint64_t sum = plain(carry, static_cast<uint32_t>(v)...); \
    return set ? with_carry<T>(carry, sum) : static_cast<T>(sum);   \
  }
inline uint64_t sum_of(uint32_t, uint32_t a, uint32_t b) { return uint64_t{a} + b; }
inline uint64_t sum_and_carry(uint32_t carry, uint32_t a, uint32_t b) {
  return uint64_t{a} + b + carry;
}
inline uint64_t rest_of(uint32_t, uint32_t a, uint32_t b) { /* carry: borrowed */
  return (uint64_t{a} - b) & 0x1ffffffffull;
}
inline uint64_t rest_and_carry(uint32_t carry, uint32_t a, uint32_t b) {
  return (uint64_t{a} - b - carry) & 0x1ffffffffull;
}
inline uint64_t low_and(uint32_t, uint32_t a, uint32_t b, uint32_t c) {
  return uint64_t{static_cast<uint32_t>(a * b)} + c;
}
inline uint64_t high_and(uint32_t, uint32_t a, uint32_t b, uint32_t c) {
  return (uint64_t{a} * b >> 32) + c;
}
inline uint64_t low_and_carry(uint32_t carry, uint32_t a, uint32_t b, uint32_t c) {
  return low_and(0, a, b, c) + carry;
}
inline uint64_t high_and_carry(uint32_t carry, uint32_t a, uint32_t b, uint32_t c) {
  return high_and(0, a, b, c) + carry;
}
PLAYED_CARRY(add_cc, sum_of, true)
PLAYED_CARRY(addc, sum_and_carry, false)
PLAYED_CARRY(addc_cc, sum_and_carry, true)
PLAYED_CARRY(sub_cc, rest_of, true)
PLAYED_CARRY(subc, rest_and_carry, false)
PLAYED_CARRY(subc_cc, rest_and_carry, true)
PLAYED_CARRY(mad_cc, low_and, true)
PLAYED_CARRY(mad_hi_cc, high_and, true)
PLAYED_CARRY(madc, low_and_carry, false)
PLAYED_CARRY(madc_cc, low_and_carry, true)
PLAYED_CARRY(madc_hi, high_and_carry, false)
PLAYED_CARRY(madc_hi_cc, high_and_carry, true)
#undef PLAYED_CARRY

}  // namespace

#endif
