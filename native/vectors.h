// Vectors of eight floats, by the compiler's own vector extension: one source for AVX2, SSE and NEON.
//
// Eight is also the number of channels that lie side by side in every map (see README.md), whatever the width of the
// processor's registers; where they are narrower, the compiler takes two for one.
// Only kernels.cpp reads this, which is compiled once for each kind of processor: hence everything is static.
#pragma once

#include "kernels.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace mobilenetv2 {

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));
// The same where the address need not be a multiple of its size.
typedef float UnalignedVector __attribute__((vector_size(LANES * sizeof(float)), may_alias, aligned(4)));

static inline Vector load(const float* from) { return *reinterpret_cast<const UnalignedVector*>(from); }
static inline void store(float* to, Vector values) { *reinterpret_cast<UnalignedVector*>(to) = values; }
static inline Vector broadcast(float value) {
    return Vector{value, value, value, value, value, value, value, value};
}

// Loops over the registers of a tile must be gone before the compiler chooses registers.
#define UNROLL _Pragma("GCC unroll 32")

// True instructions: what compilers make of a < b ? a : b is a comparison and a blend.
static inline Vector clamp(Vector values, Vector low, Vector high) {
#if defined(__AVX__)
    return (Vector)_mm256_min_ps(_mm256_max_ps((__m256)values, (__m256)low), (__m256)high);
#else
    values = values > low ? values : low;
    return values < high ? values : high;
#endif
}

// Tells the compiler that it knows nothing of a value. Without it GCC folds a load that several multiplications share
// into each of them, and then has too few registers.
#if defined(__AVX__)
static inline void keep_in_register(Vector& value) { asm("" : "+x"(value)); }
#else
static inline void keep_in_register(Vector&) {}
#endif

}  // namespace mobilenetv2
