// Vectors of levels of 8 bits and of their sums of 32 bits: for AVX-512 with VNNI, for AVX2, and in plain C++.
//
// Everything here turns on one step, `dot`: four levels times four weights, added to a sum of 32 bits. Sums are exact, so
// all of these give the same bits. A Sums has as many sums as a Vector has floats. As vectors.h, only for what is compiled
// once for each kind of processor.
#pragma once

#include <cstring>

#include "vectors.h"

namespace mobilenetv2 {

static inline std::int32_t four(const void* from) {
    std::int32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}

#if defined(__AVX2__)

// Of one channel block.
typedef __m256i BlockSums;

static inline BlockSums add(BlockSums a, BlockSums b) { return _mm256_add_epi32(a, b); }
static inline BlockSums load_bytes(const void* from, BlockSums) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
static inline BlockSums broadcast_four(const void* from, BlockSums) { return _mm256_set1_epi32(four(from)); }
static inline void keep_in_register(BlockSums& value) { asm("" : "+v"(value)); }
static inline Block to_floats(BlockSums sums) { return (Block)_mm256_cvtepi32_ps(sums); }

static inline BlockSums dot(BlockSums sum, BlockSums levels, BlockSums weights) {
#if defined(__AVX512VNNI__)
    return _mm256_dpbusd_epi32(sum, levels, weights);
#else
    // Two products are summed in 16 bits: exact, as the weights of one sign of each two sum to at most 128
    // (`require_pairs` in plan.cpp), and 255 x 128 < 2^15.
    return add(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(levels, weights), _mm256_set1_epi16(1)));
#endif
}

// Rounded, and clamped to what 8 bits hold.
static inline void store_levels(Level* to, Block values) {
    const __m256i whole = _mm256_cvtps_epi32((__m256)values);
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(pairs, pairs));
}
static inline Block load_levels(const Level* from) {
    return (Block)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

// The taps of one row of a filter of one pixel: of each channel three levels side by side, and a fourth.
static inline BlockSums taps_of(const Level* at, std::ptrdiff_t dilation) {
    const auto pixel = [&](int tap) {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + tap * dilation * LANES));
    };
    const __m128i pairs = _mm_unpacklo_epi8(pixel(0), pixel(1)), rest = _mm_unpacklo_epi8(pixel(2), _mm_setzero_si128());
    return _mm256_set_m128i(_mm_unpackhi_epi16(pairs, rest), _mm_unpacklo_epi16(pairs, rest));
}

#else

typedef std::int32_t BlockSums __attribute__((vector_size(32), may_alias));

static inline BlockSums add(BlockSums a, BlockSums b) { return a + b; }
static inline BlockSums load_bytes(const void* from, BlockSums) {
    BlockSums bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return bytes;
}
static inline BlockSums broadcast_four(const void* from, BlockSums) { return BlockSums{} + four(from); }
static inline void keep_in_register(BlockSums&) {}
static inline Block to_floats(BlockSums sums) { return __builtin_convertvector(sums, Block); }

static inline BlockSums dot(BlockSums sum, BlockSums levels, BlockSums weights) {
    Level in[32];
    std::int8_t by[32];
    std::memcpy(in, &levels, 32);
    std::memcpy(by, &weights, 32);
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < 4; k++) sum[lane] += in[4 * lane + k] * by[4 * lane + k];
    return sum;
}

static inline void store_levels(Level* to, Block values) {
    // So large that nothing is left behind the point.
    const Block whole = clamp(values, Block{}, Block{} + 255.0f) + 12582912.0f - 12582912.0f;
    for (int lane = 0; lane < LANES; lane++) to[lane] = static_cast<Level>(whole[lane]);
}
static inline Block load_levels(const Level* from) {
    Block values;
    for (int lane = 0; lane < LANES; lane++) values[lane] = from[lane];
    return values;
}

static inline BlockSums taps_of(const Level* at, std::ptrdiff_t dilation) {
    Level taps[32] = {};
    for (int lane = 0; lane < LANES; lane++)
        for (int tap = 0; tap < 3; tap++) taps[4 * lane + tap] = at[tap * dilation * LANES + lane];
    return load_bytes(taps, BlockSums{});
}

#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

typedef __m512i Sums;

static inline Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
static inline Sums load_bytes(const void* from, Sums) { return _mm512_loadu_si512(from); }
static inline Sums broadcast_four(const void* from, Sums) { return _mm512_set1_epi32(four(from)); }
static inline void keep_in_register(Sums& value) { asm("" : "+v"(value)); }
static inline Vector to_floats(Sums sums) { return (Vector)_mm512_cvtepi32_ps(sums); }
static inline Sums dot(Sums sum, Sums levels, Sums weights) { return _mm512_dpbusd_epi32(sum, levels, weights); }

// Levels of four vectors, of which `order` says where each 32 bits (four of the vectors' lanes) go.
static inline __m512i four_levels(const Vector (&values)[4], Clamp to, __m512i order) {
    __m512i whole[4];
    for (int i = 0; i < 4; i++) whole[i] = _mm512_cvtps_epi32((__m512)values[i]);
    const __m512i levels =
        _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
    const __m512i low = _mm512_set1_epi8(static_cast<char>(to.low)), high = _mm512_set1_epi8(static_cast<char>(to.high));
    return _mm512_permutexvar_epi32(order, _mm512_min_epu8(_mm512_max_epu8(levels, low), high));
}

// Of four pixels: the first block, then the second.
static inline void four_pixels(const Vector (&values)[4], Clamp to, Level (&levels)[64]) {
    const __m512i order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    _mm512_storeu_si512(levels, four_levels(values, to, order));
}
// Of vectors that each hold one block of two neighbours.
static inline void eight_neighbours(const Vector (&values)[4], Clamp to, Level* levels) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(levels, four_levels(values, to, order));
}

static inline Vector load_levels(const Level* first, const Level* second) {
    __m128i levels = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
    if (second)
        levels = _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(levels), reinterpret_cast<const double*>(second)));
    return (Vector)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(levels));
}

#else

typedef BlockSums Sums;

static inline Vector load_levels(const Level* first, const Level*) { return load_levels(first); }

#if defined(__AVX2__)
static inline void four_pixels(const Vector (&values)[4], Clamp to, Level (&levels)[32]) {
    __m256i whole[4];
    for (int i = 0; i < 4; i++) whole[i] = _mm256_cvtps_epi32((__m256)values[i]);
    const __m256i found =
        _mm256_packus_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
    const __m256i low = _mm256_set1_epi8(static_cast<char>(to.low)), high = _mm256_set1_epi8(static_cast<char>(to.high));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(levels), _mm256_permutevar8x32_epi32(
        _mm256_min_epu8(_mm256_max_epu8(found, low), high), order));
}
#else
static inline void four_pixels(const Vector (&values)[4], Clamp to, Level (&levels)[32]) {
    for (int i = 0; i < 4; i++)
        store_levels(levels + i * LANES, clamp(values[i], Block{} + to.low, Block{} + to.high));
}
#endif

#endif

static_assert(sizeof(Sums) == sizeof(Vector));

}  // namespace mobilenetv2
