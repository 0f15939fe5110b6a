// Vectors of floats, by the compiler's own vector extension: one source for AVX-512, AVX2, SSE and NEON.
//
// A Block is a pixel's eight channels that lie side by side in every map (see README.md), whatever the width of the
// processor's registers; where they are narrower, the compiler takes two for one. A Vector is what a register holds: a
// block, or two of them.
// Only kernels.cpp reads this, which is compiled once for each kind of processor: hence everything is static.
#pragma once

#include "kernels.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace mobilenetv2 {

typedef float Block __attribute__((vector_size(LANES * sizeof(float)), may_alias));
// The same where the address need not be a multiple of its size.
typedef float UnalignedBlock __attribute__((vector_size(LANES * sizeof(float)), may_alias, aligned(4)));

#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(2 * LANES * sizeof(float)), may_alias));
typedef float UnalignedVector __attribute__((vector_size(2 * LANES * sizeof(float)), may_alias, aligned(4)));
#else
typedef Block Vector;
#endif

// Blocks in a vector.
constexpr int SPAN = sizeof(Vector) / sizeof(Block);

// A block (1) or a vector (SPAN).
template <int BLOCKS>
struct Floats {
    typedef Vector Type;
};
template <>
struct Floats<1> {
    typedef Block Type;
};

// Loops over the registers of a tile must be gone before the compiler chooses registers. Nothing for sanitizers, which would
// take minutes.
#ifndef UNROLL
#define UNROLL _Pragma("GCC unroll 32")
#endif
// Where sums are in registers: a call would have them in memory.
#define ALWAYS_INLINE [[gnu::always_inline]] inline

static inline void store(float* to, Block values) { *reinterpret_cast<UnalignedBlock*>(to) = values; }

static inline Block load_block(const float* from) { return *reinterpret_cast<const UnalignedBlock*>(from); }
static inline Block broadcast_block(float value) {
    return Block{value, value, value, value, value, value, value, value};
}

// True instructions: what compilers make of a < b ? a : b is a comparison and a blend.
static inline Block clamp(Block values, Block low, Block high) {
#if defined(__AVX__)
    return (Block)_mm256_min_ps(_mm256_max_ps((__m256)values, (__m256)low), (__m256)high);
#else
    values = values > low ? values : low;
    return values < high ? values : high;
#endif
}

static inline Block half(Block values, int) { return values; }

// Its addresses are then counted from it, rather than each kept in a register of its own.
static inline void keep_in_register(const float*& pointer) { asm("" : "+r"(pointer)); }

// Tells the compiler that it knows nothing of a value. Without it GCC folds a load that several multiplications share
// into each of them, and then has too few registers.
#if defined(__AVX__)
static inline void keep_in_register(Block& value) { asm("" : "+v"(value)); }
#else
static inline void keep_in_register(Block&) {}
#endif

#if defined(__AVX512F__)
static inline void store(float* to, Vector values) { *reinterpret_cast<UnalignedVector*>(to) = values; }
static inline Vector clamp(Vector values, Vector low, Vector high) {
    return (Vector)_mm512_min_ps(_mm512_max_ps((__m512)values, (__m512)low), (__m512)high);
}
static inline Block half(Vector values, int which) {
    return (Block)(which ? _mm512_extractf32x8_ps((__m512)values, 1) : _mm512_castps512_ps256((__m512)values));
}
static inline void keep_in_register(Vector& value) { asm("" : "+v"(value)); }
#endif

template <int BLOCKS = SPAN>
static inline typename Floats<BLOCKS>::Type load(const float* from) {
    if constexpr (BLOCKS == 1) return load_block(from);
#if defined(__AVX512F__)
    else return *reinterpret_cast<const UnalignedVector*>(from);
#endif
}

template <int BLOCKS = SPAN>
static inline typename Floats<BLOCKS>::Type broadcast(float value) {
    if constexpr (BLOCKS == 1) return broadcast_block(value);
#if defined(__AVX512F__)
    else return (Vector)_mm512_set1_ps(value);
#endif
}

#if defined(__AVX512F__)
// The same block in each half.
static inline Vector repeat(const float* from) { return (Vector)_mm512_broadcast_f32x8((__m256)load_block(from)); }
#endif

}  // namespace mobilenetv2
