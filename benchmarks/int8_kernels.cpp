// Kernels in 8 bits for AVX2 without VNNI, beside the float32 ones of native/kernels.cpp: would the fused engine gain?
// int8_kernels.py compiles this, times it, and says what is compared.
//
// Activations are unsigned, weights signed with a scale for each output channel; results go back to 8 bits at once.
// Maps lie as in native/README.md: blocks of eight channels of a pixel.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "../native/kernels.h"
#include "../native/vectors.h"

namespace mobilenetv2 {

extern const Kernels KERNELS_AVX2;
const Kernels& kernels() { return KERNELS_AVX2; }

namespace {

// WIDE: products of 16 bits, summed in 32 (vpmaddwd); activations lie in 16 bits, so that nothing is widened in the
//   loop. Exact for weights of 8 bits.
// PAIRS: two products of 8 bits summed in 16 (vpmaddubsw), then in 32. Exact where of the weights w[k], w[k + 1] of an
//   output channel those of one sign sum to at most 128: 255 x 128 = 32640 < 2^15. Levels -63..63 always do.
// SUMS2, SUMS4: two and four such pairs summed in 16 bits first. Exact where of these 4 or 8 weights those of one sign
//   sum to at most 128, or 258 if activations have 7 bits (127 x 258 = 32766).
enum class Way { WIDE, PAIRS, SUMS2, SUMS4 };

template <Way WAY>
using Activation = std::conditional_t<WAY == Way::WIDE, std::uint16_t, std::uint8_t>;
template <Way WAY>
using Weight = std::conditional_t<WAY == Way::WIDE, std::int16_t, std::int8_t>;
template <Way WAY>
constexpr int TOGETHER = WAY == Way::WIDE ? 2 : 4;  // input channels side by side in 32 bits

inline __m256i broadcast_32_bits(const void* from) {
    std::int32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return _mm256_set1_epi32(bits);
}
inline __m256i load_256(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline __m128i load_128(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
inline void keep_in_register(__m256i& value) { asm("" : "+x"(value)); }
inline __m128i load_64(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

// result = sum x scale + bias, by output channel in the order of a panel's registers. Rounding to 8 bits saturates,
// which is also the ReLU6.
template <Way WAY>
struct Panels8 {
    std::vector<Weight<WAY>> values;
    std::vector<float> scale, bias;
    int in_blocks, out_blocks;
    float shortcut_scale;
    int panels() const { return (out_blocks + 1) / 2; }
};

// Of two blocks, a panel's registers hold channels 0-3 and 8-11, and 4-7 and 12-15: packing to 8 bits, which goes by
// halves of registers, then leaves them in order.
inline int channel_of(int blocks, int vector, int lane) {
    return blocks == 2 ? 4 * vector + (lane < 4 ? lane : 4 + lane) : lane;
}

inline void add(__m256i& sum, __m256i value) { sum = _mm256_add_epi32(sum, value); }

// One register of weights is input channels side by side of eight outputs.
template <typename Value>
constexpr int REGISTER = 32 / sizeof(Value);

// One input channel block.
template <int PIXELS, int BLOCKS>
inline void multiply_wide(__m256i (&sums)[PIXELS][BLOCKS], const std::uint16_t* in, const std::int16_t* weights) {
    UNROLL
    for (int k = 0; k < LANES; k += 2, weights += BLOCKS * REGISTER<std::int16_t>) {
        __m256i w[BLOCKS];
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            w[n] = load_256(weights + n * REGISTER<std::int16_t>);
            keep_in_register(w[n]);
        }
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            __m256i value = broadcast_32_bits(in + p * LANES + k);
            keep_in_register(value);
            UNROLL
            for (int n = 0; n < BLOCKS; n++) {
                add(sums[p][n], _mm256_madd_epi16(value, w[n]));
                // GCC otherwise adds products of several input channels first, for which it has no registers.
                keep_in_register(sums[p][n]);
            }
        }
    }
}

// Four input channels.
template <int PIXELS, int BLOCKS>
inline void multiply_pairs(__m256i (&sums)[PIXELS][BLOCKS], const std::uint8_t* in, const std::int8_t* weights) {
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        const __m256i value = broadcast_32_bits(in + p * LANES);
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            const __m256i products = _mm256_maddubs_epi16(value, load_256(weights + n * REGISTER<std::int8_t>));
            add(sums[p][n], _mm256_madd_epi16(products, ones));
        }
    }
}

// Four input channels from each of these places, summed in 16 bits. The sums in 32 bits have no registers meanwhile.
template <int FROM, int PIXELS, int BLOCKS>
inline void multiply_sums(__m256i (&sums)[PIXELS][BLOCKS], const std::uint8_t* const (&from)[FROM],
                          const std::int8_t* weights) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i totals[PIXELS][BLOCKS];
    UNROLL
    for (int f = 0; f < FROM; f++) {
        __m256i w[BLOCKS];
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            w[n] = load_256(weights + (f * BLOCKS + n) * REGISTER<std::int8_t>);
            keep_in_register(w[n]);
        }
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            const __m256i value = broadcast_32_bits(from[f] + p * LANES);
            UNROLL
            for (int n = 0; n < BLOCKS; n++) {
                const __m256i products = _mm256_maddubs_epi16(value, w[n]);
                totals[p][n] = f ? _mm256_add_epi16(totals[p][n], products) : products;
                keep_in_register(totals[p][n]);
            }
        }
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int n = 0; n < BLOCKS; n++) add(sums[p][n], _mm256_madd_epi16(totals[p][n], ones));
}

template <Way WAY, int PIXELS, int BLOCKS>
inline void multiply(__m256i (&sums)[PIXELS][BLOCKS], const Activation<WAY>* in, std::ptrdiff_t in_block, int in_blocks,
                     const Weight<WAY>* weights) {
    constexpr int OF_A_BLOCK = LANES * LANES * BLOCKS;
    int block = 0;
    if constexpr (WAY == Way::SUMS4)
        for (; block + 2 <= in_blocks; block += 2, in += 2 * in_block, weights += 2 * OF_A_BLOCK)
            multiply_sums<4>(sums, {in, in + 4, in + in_block, in + in_block + 4}, weights);
    for (; block < in_blocks; block++, in += in_block, weights += OF_A_BLOCK) {
        if constexpr (WAY == Way::WIDE) {
            multiply_wide(sums, in, weights);
        } else if constexpr (WAY == Way::PAIRS) {
            multiply_pairs(sums, in, weights);
            multiply_pairs(sums, in + 4, weights + OF_A_BLOCK / 2);
        } else {
            multiply_sums<2>(sums, {in, in + 4}, weights);
        }
    }
}

inline __m256i rounded(__m256i sums, __m256 scale, __m256 bias) {
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, bias));
}

inline void store_pixels(std::uint8_t* to, __m128i two, int pixels) {
    if (pixels == 2)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), two);
    else
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), two);
}
inline void store_pixel(std::uint16_t* to, __m128i one) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), one); }

// Four channels of a pixel of two blocks, or eight of one.
template <int BLOCKS>
inline __m256 shortcut_values(const std::uint8_t* from, std::ptrdiff_t block, int vector) {
    if constexpr (BLOCKS == 1) return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(from)));
    std::int32_t first, second;
    std::memcpy(&first, from + 4 * vector, 4);
    std::memcpy(&second, from + block + 4 * vector, 4);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(first), second, 1)));
}
template <int BLOCKS>
inline __m256 shortcut_values(const std::uint16_t* from, std::ptrdiff_t block, int vector) {
    if constexpr (BLOCKS == 1) return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load_128(from)));
    const __m128i both = _mm_unpacklo_epi64(load_64(from + 4 * vector), load_64(from + block + 4 * vector));
    return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(both));
}

template <typename Value>
struct Run8 {
    Value* at;
    std::ptrdiff_t block;
};

template <Way WAY, int PIXELS, int BLOCKS, bool ADDS>
inline void tile(const Panels8<WAY>& panels, int first, Run8<const Activation<WAY>> in, Run8<Activation<WAY>> out,
                 Run8<const Activation<WAY>> shortcut) {
    __m256i sums[PIXELS][BLOCKS];
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int n = 0; n < BLOCKS; n++) sums[p][n] = _mm256_setzero_si256();
    multiply<WAY>(sums, in.at, in.block, panels.in_blocks,
                  panels.values.data() + static_cast<std::ptrdiff_t>(first) * panels.in_blocks * LANES * LANES);
    __m256i whole[PIXELS][BLOCKS];
    const __m256 shortcut_scale = _mm256_set1_ps(panels.shortcut_scale);
    UNROLL
    for (int n = 0; n < BLOCKS; n++) {
        const __m256 scale = _mm256_loadu_ps(panels.scale.data() + (first + n) * LANES);
        const __m256 bias = _mm256_loadu_ps(panels.bias.data() + (first + n) * LANES);
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            __m256 start = bias;
            if constexpr (ADDS)
                start = _mm256_fmadd_ps(shortcut_values<BLOCKS>(shortcut.at + p * LANES, shortcut.block, n),
                                        shortcut_scale, bias);
            whole[p][n] = rounded(sums[p][n], scale, start);
        }
    }
    UNROLL
    for (int p = 0; p < PIXELS; p += 2) {
        const int q = p + 1 < PIXELS ? p + 1 : p, pixels = q - p + 1;
        Activation<WAY>* to = out.at + p * LANES;
        if constexpr (WAY == Way::WIDE) {
            const __m256i most = _mm256_set1_epi16(255);
            for (int i = p; i <= q; i++, to += LANES) {
                const __m256i both =
                    _mm256_min_epu16(_mm256_packus_epi32(whole[i][0], whole[i][BLOCKS - 1]), most);
                if constexpr (BLOCKS == 2) {
                    store_pixel(to, _mm256_castsi256_si128(both));
                    store_pixel(to + out.block, _mm256_extracti128_si256(both, 1));
                } else {
                    store_pixel(to, _mm_unpacklo_epi64(_mm256_castsi256_si128(both),
                                                       _mm256_extracti128_si256(both, 1)));
                }
            }
        } else if constexpr (BLOCKS == 2) {
            const __m256i both = _mm256_packus_epi16(_mm256_packs_epi32(whole[p][0], whole[p][1]),
                                                     _mm256_packs_epi32(whole[q][0], whole[q][1]));
            store_pixels(to, _mm256_castsi256_si128(both), pixels);
            store_pixels(to + out.block, _mm256_extracti128_si256(both, 1), pixels);
        } else {
            __m256i both = _mm256_packs_epi32(whole[p][0], whole[q][0]);
            both = _mm256_packus_epi16(both, both);
            store_pixels(to, _mm_unpacklo_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)),
                         pixels);
        }
    }
}

constexpr int MOST_PIXELS = 6;

template <Way WAY, int BLOCKS, bool ADDS, int SIZE>
inline void tiles(const Panels8<WAY>& panels, int first, Run8<const Activation<WAY>> in, int from, int end, int size,
                  Run8<Activation<WAY>> out, Run8<const Activation<WAY>> shortcut) {
    if constexpr (SIZE > 0) {
        if (size != SIZE)
            return tiles<WAY, BLOCKS, ADDS, SIZE - 1>(panels, first, in, from, end, size, out, shortcut);
        for (int x = from; x < end; x += SIZE)
            tile<WAY, SIZE, BLOCKS, ADDS>(panels, first, {in.at + x * LANES, in.block},
                                          {out.at + x * LANES, out.block},
                                          {ADDS ? shortcut.at + x * LANES : nullptr, shortcut.block});
    }
}

template <Way WAY, int BLOCKS, bool ADDS>
void panel_of(const Panels8<WAY>& panels, int first, Run8<const Activation<WAY>> in, int pixels,
              Run8<Activation<WAY>> out, Run8<const Activation<WAY>> shortcut) {
    const int count = (pixels + MOST_PIXELS - 1) / MOST_PIXELS, size = (pixels + count - 1) / count;
    const int less = size * count - pixels, middle = pixels - less * (size - 1);
    tiles<WAY, BLOCKS, ADDS, MOST_PIXELS>(panels, first, in, 0, middle, size, out, shortcut);
    tiles<WAY, BLOCKS, ADDS, MOST_PIXELS>(panels, first, in, middle, pixels, size - 1, out, shortcut);
}

template <Way WAY>
void pointwise(const Panels8<WAY>& panels, int panel, Run8<const Activation<WAY>> in, int pixels,
               Run8<Activation<WAY>> out, Run8<const Activation<WAY>> shortcut) {
    const int first = 2 * panel;
    const bool pair = first + 1 < panels.out_blocks;
    auto run = pair ? panel_of<WAY, 2, false> : panel_of<WAY, 1, false>;
    if (shortcut.at) run = pair ? panel_of<WAY, 2, true> : panel_of<WAY, 1, true>;
    run(panels, first, in, pixels, {out.at + first * out.block, out.block},
        {shortcut.at ? shortcut.at + first * shortcut.block : nullptr, shortcut.block});
}

// Weights of one channel block of a depthwise convolution, tap beside tap as the pixels of two rows or columns are:
// rows 0 and 1 at the three columns, row 2 at columns 0 and 1, row 2 at column 2 beside a zero.
template <Way WAY>
struct Filter8 {
    Weight<WAY> pairs[5][2 * LANES];
    float scale[LANES], bias[LANES];
};

template <typename Value>
using Rows8 = const Value* const[3];

inline __m256i twice(const void* from) { return _mm256_broadcastsi128_si256(load_128(from)); }
inline __m256 twice_4(const float* from) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)); }

// In 8 bits: products of taps that lie side by side are summed in 16 bits, rows 0 and 1 apart from row 2. Exact where
// of the six weights, and of the three, those of one sign sum to at most 128.
// Reads up to two pixels behind the last tap.
template <int STRIDE>
void depthwise_row(const Filter8<Way::PAIRS>& filter, Rows8<std::uint8_t>& rows, int pixels, std::uint8_t* out) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i w[5];
    for (int i = 0; i < 5; i++) w[i] = twice(filter.pairs[i]);
    const __m256 low_scale = twice_4(filter.scale), high_scale = twice_4(filter.scale + 4);
    const __m256 low_bias = twice_4(filter.bias), high_bias = twice_4(filter.bias + 4);
    // Two pixels, one in each half of the registers.
    const auto two = [&](__m256i e0, __m256i e1, __m256i e2, __m256i f0, __m256i f2) {
        const __m256i above = _mm256_add_epi16(
            _mm256_add_epi16(_mm256_maddubs_epi16(e0, w[0]), _mm256_maddubs_epi16(e1, w[1])),
            _mm256_maddubs_epi16(e2, w[2]));
        const __m256i below = _mm256_add_epi16(_mm256_maddubs_epi16(f0, w[3]), _mm256_maddubs_epi16(f2, w[4]));
        const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(above, below), ones);
        const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(above, below), ones);
        return _mm256_packs_epi32(rounded(low, low_scale, low_bias), rounded(high, high_scale, high_bias));
    };
    const auto four = [&](int x) {
        __m256i result;
        if constexpr (STRIDE == 1) {
            const std::uint8_t *r0 = rows[0] + x * LANES, *r1 = rows[1] + x * LANES, *r2 = rows[2] + x * LANES;
            const __m256i a0 = load_256(r0), a1 = load_256(r1), b0 = load_256(r0 + 16), b1 = load_256(r1 + 16);
            const __m256i c0 = load_256(r2), c1 = load_256(r2 + 8), d0 = load_256(r2 + 16), d1 = load_256(r2 + 24);
            const __m256i e0 = _mm256_unpacklo_epi8(a0, a1), e1 = _mm256_unpackhi_epi8(a0, a1);
            const __m256i e2 = _mm256_unpacklo_epi8(b0, b1), e3 = _mm256_unpackhi_epi8(b0, b1);
            const __m256i even = two(e0, e1, e2, _mm256_unpacklo_epi8(c0, c1), _mm256_unpacklo_epi8(d0, d1));
            const __m256i odd = two(e1, e2, e3, _mm256_unpackhi_epi8(c0, c1), _mm256_unpackhi_epi8(d0, d1));
            result = _mm256_packus_epi16(even, odd);
        } else {
            const auto at = [&](int p) {
                const std::ptrdiff_t from = (2 * x + p) * LANES;
                const std::uint8_t *r0 = rows[0] + from, *r1 = rows[1] + from, *r2 = rows[2] + from;
                const __m256i a0 = load_256(r0), a1 = load_256(r1), b0 = load_256(r0 + 16), b1 = load_256(r1 + 16);
                const __m256i c0 = load_256(r2), c1 = load_256(r2 + 8), d0 = load_256(r2 + 16), d1 = load_256(r2 + 24);
                return two(_mm256_unpacklo_epi8(a0, a1), _mm256_unpackhi_epi8(a0, a1), _mm256_unpacklo_epi8(b0, b1),
                           _mm256_unpacklo_epi8(c0, c1), _mm256_unpacklo_epi8(d0, d1));
            };
            result = _mm256_permute4x64_epi64(_mm256_packus_epi16(at(0), at(4)), 0xd8);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x * LANES), result);
    };
    int x = 0;
    for (; x + 4 <= pixels; x += 4) four(x);
    // Some of these were done already.
    if (x < pixels) four(pixels - 4);
}

// In 16 bits, summed in 32.
template <int STRIDE>
void depthwise_row(const Filter8<Way::WIDE>& filter, Rows8<std::uint16_t>& rows, int pixels, std::uint16_t* out) {
    const __m256 low_scale = twice_4(filter.scale), high_scale = twice_4(filter.scale + 4);
    const __m256 low_bias = twice_4(filter.bias), high_bias = twice_4(filter.bias + 4);
    const __m256i most = _mm256_set1_epi16(255);
    __m256i low_w[5], high_w[5];
    for (int i = 0; i < 5; i++) {
        low_w[i] = twice(filter.pairs[i]);
        high_w[i] = twice(filter.pairs[i] + LANES);
    }
    // Pixels p and p + STRIDE, one in each half.
    const auto from = [](const std::uint16_t* row, int p) {
        row += p * LANES;
        if constexpr (STRIDE == 1) return load_256(row);
        return _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(row)), load_128(row + 2 * LANES), 1);
    };
    const auto two = [&](int x) {
        const int p = x * STRIDE;
        __m256i low = _mm256_setzero_si256(), high = low;
        const auto add = [&](int i, __m256i first, __m256i second) {
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), low_w[i]));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), high_w[i]));
        };
        for (int kx = 0; kx < 3; kx++) add(kx, from(rows[0], p + kx), from(rows[1], p + kx));
        add(3, from(rows[2], p), from(rows[2], p + 1));
        add(4, from(rows[2], p + 2), from(rows[2], p + 3));
        const __m256i both =
            _mm256_packus_epi32(rounded(low, low_scale, low_bias), rounded(high, high_scale, high_bias));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x * LANES), _mm256_min_epu16(both, most));
    };
    int x = 0;
    for (; x + 4 <= pixels; x += 4) {
        two(x);
        two(x + 2);
    }
    for (; x + 2 <= pixels; x += 2) two(x);
    if (x < pixels) two(pixels - 2);
}

// The stem stays float32, as its input does; its rows are rounded.
template <typename Value>
void round_row(const float* in, int pixels, float scale, Value* out) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (int p = 0; p < pixels; p += 4) {
        __m256i whole[4];
        UNROLL
        for (int i = 0; i < 4; i++)
            whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + (p + i) * LANES), factor));
        const __m256i first = _mm256_packs_epi32(whole[0], whole[1]), second = _mm256_packs_epi32(whole[2], whole[3]);
        if constexpr (sizeof(Value) == 1) {
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            const __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + p * LANES), all);
        } else {
            auto* to = reinterpret_cast<__m256i*>(out + p * LANES);
            _mm256_storeu_si256(to, _mm256_permute4x64_epi64(first, 0xd8));
            _mm256_storeu_si256(to + 1, _mm256_permute4x64_epi64(second, 0xd8));
        }
    }
}

// --- The layers of a network, each at its size ---

enum Kind { STEM, POINTWISE, DEPTHWISE };
struct Layer {
    int kind, in_channels, out_channels, height, width, stride, shortcut;
    int out_height() const { return (height + stride - 1) / stride; }
    int out_width() const { return (width + stride - 1) / stride; }
    // As in native/plan.cpp: what is made image by image, not row by row.
    bool small() const { return height * width <= 256; }
    bool expands() const { return kind == POINTWISE && out_channels > in_channels; }
    // Which row is one of a block's that is filtered: in a ring of four rows, or in a small map's image of two blocks.
    std::ptrdiff_t row_to_filter(std::ptrdiff_t block, int row) const {
        return small() ? block % 2 * (height + 2) + row : block * 4 + row % 4;
    }
    // And which its result, of which rows that are not a small map's overwrite each other.
    std::ptrdiff_t filtered_row(std::ptrdiff_t block, int y) const { return small() ? block * out_height() + y : block; }
};

template <typename Value>
struct Buffers {
    // All layers share them, as they share the engine's arena. What is expanded never lies there as a whole.
    std::vector<Value> in, out, shortcut;
    explicit Buffers(std::size_t size) : in(size), out(size), shortcut(size) {}
};

// How a 1x1 convolution is run: by rows, or a small map at once. What is expanded is never whole, as in the engine:
// rows go to a ring, panels of a small map to one place.
struct Shape {
    int rows, pixels;  // how often, and of how many pixels each is
    std::ptrdiff_t in_row, out_row, in_block, out_block;
};
Shape shape_of(const Layer& layer) {
    const int in_blocks = (layer.in_channels + 7) / 8, out_blocks = (layer.out_channels + 7) / 8;
    if (layer.small()) {
        const int pixels = layer.height * layer.width;
        return {1, pixels, 0, 0, pixels * LANES, pixels * LANES};
    }
    const std::ptrdiff_t block = layer.width * LANES;
    return {layer.height, layer.width, in_blocks * block, out_blocks * block, block, block};
}
std::ptrdiff_t in_place(const Layer& layer, const Shape& shape, int row) {
    return (layer.expands() ? row : row % 4) * shape.in_row;
}
std::ptrdiff_t out_place(const Layer& layer, const Shape& shape, int row) {
    return (layer.expands() ? row % 4 : row) * shape.out_row;
}

template <Way WAY>
struct Quantised {
    using Value = Activation<WAY>;
    // The depthwise kernel of 8 bits is the same for all ways but WIDE.
    static constexpr Way FILTER = WAY == Way::WIDE ? Way::WIDE : Way::PAIRS;
    Layer layer;
    std::vector<std::int8_t> weights;  // (out, in) or (channels, 9)
    std::vector<float> scale, bias;    // by channel
    Panels8<WAY> panels;
    std::vector<Filter8<FILTER>> filters;

    Quantised(const Layer& of, std::mt19937& random) : layer(of) {
        const bool depthwise = layer.kind == DEPTHWISE;
        const int in = depthwise ? 9 : layer.in_channels, out = layer.out_channels;
        // The largest that each way is exact for whatever their signs.
        const int together = depthwise ? (WAY == Way::WIDE ? 1 : 6)
                                       : (WAY == Way::WIDE ? 1 : WAY == Way::PAIRS ? 2 : WAY == Way::SUMS2 ? 4 : 8);
        const int levels = std::min(127, 128 / together);
        std::uniform_int_distribution<int> draw(-levels, levels);
        weights.resize(static_cast<std::size_t>(out) * in);
        for (auto& weight : weights) weight = static_cast<std::int8_t>(draw(random));
        // All of one sign, where sums are largest.
        std::fill_n(weights.begin(), in, static_cast<std::int8_t>(levels));
        std::fill_n(weights.begin() + in, in, static_cast<std::int8_t>(-levels));
        const float spread = 60.0f / (levels * 100 * std::sqrt(static_cast<float>(in)));
        std::uniform_real_distribution<float> scales(0.5f * spread, spread), biases(50, 200);
        for (int o = 0; o < out; o++) {
            scale.push_back(scales(random));
            bias.push_back(biases(random));
        }
        if (depthwise)
            pack_filters();
        else if (layer.kind == POINTWISE)
            pack_panels();
    }

    void pack_panels() {
        const int in = layer.in_channels;
        panels.in_blocks = (in + 7) / 8;
        panels.out_blocks = (layer.out_channels + 7) / 8;
        panels.shortcut_scale = 0.4f;
        for (int p = 0; p < panels.panels(); p++) {
            const int blocks = std::min(2, panels.out_blocks - 2 * p);
            for (int k = 0; k < in; k += TOGETHER<WAY>)
                for (int n = 0; n < blocks; n++)
                    for (int lane = 0; lane < LANES; lane++)
                        for (int i = 0; i < TOGETHER<WAY>; i++) {
                            const std::size_t o = 2 * p * LANES + channel_of(blocks, n, lane);
                            panels.values.push_back(weights[o * in + k + i]);
                        }
            for (int n = 0; n < blocks; n++)
                for (int lane = 0; lane < LANES; lane++) {
                    const int o = 2 * p * LANES + channel_of(blocks, n, lane);
                    panels.scale.push_back(scale[o]);
                    panels.bias.push_back(bias[o]);
                }
        }
    }

    void pack_filters() {
        constexpr int TAPS[5][2] = {{0, 3}, {1, 4}, {2, 5}, {6, 7}, {8, -1}};
        for (int first = 0; first < layer.out_channels; first += LANES) {
            Filter8<FILTER> filter;
            for (int c = 0; c < LANES; c++) {
                for (int i = 0; i < 5; i++)
                    for (int j = 0; j < 2; j++)
                        filter.pairs[i][2 * c + j] =
                            TAPS[i][j] < 0 ? Weight<FILTER>{} : Weight<FILTER>{weights[(first + c) * 9 + TAPS[i][j]]};
                filter.scale[c] = scale[first + c];
                filter.bias[c] = bias[first + c];
            }
            filters.push_back(filter);
        }
    }

    void run(Buffers<Value>& buffers) const {
        if (layer.kind == DEPTHWISE) return run_depthwise(buffers);
        const Shape shape = shape_of(layer);
        for (int row = 0; row < shape.rows; row++) {
            const Run8<const Value> in{buffers.in.data() + in_place(layer, shape, row), shape.in_block};
            for (int p = 0; p < panels.panels(); p++) {
                Run8<Value> out{buffers.out.data() + out_place(layer, shape, row), shape.out_block};
                // A panel of a small map is filtered at once, so the next one has its place.
                if (layer.small() && layer.expands()) out.at -= 2 * p * out.block;
                const Run8<const Value> from{
                    layer.shortcut ? buffers.shortcut.data() + row * shape.out_row : nullptr, shape.out_block};
                pointwise<WAY>(panels, p, in, shape.pixels, out, from);
            }
        }
    }

    void run_depthwise(Buffers<Value>& buffers) const {
        const std::ptrdiff_t padded = (layer.width + 2) * LANES, out_width = layer.out_width();
        for (int y = 0; y < layer.out_height(); y++)
            for (std::size_t b = 0; b < filters.size(); b++) {
                Rows8<Value> rows = {filter_row(buffers, b, y, 0, padded), filter_row(buffers, b, y, 1, padded),
                                     filter_row(buffers, b, y, 2, padded)};
                Value* out = buffers.out.data() + layer.filtered_row(b, y) * out_width * LANES;
                if (layer.stride == 1)
                    depthwise_row<1>(filters[b], rows, static_cast<int>(out_width), out);
                else
                    depthwise_row<2>(filters[b], rows, static_cast<int>(out_width), out);
            }
    }

    const Value* filter_row(const Buffers<Value>& buffers, std::size_t b, int y, int ky, std::ptrdiff_t padded) const {
        return buffers.in.data() + layer.row_to_filter(b, y * layer.stride + ky) * padded;
    }

    // How many results differ from plain integer arithmetic.
    long wrong(Buffers<Value>& buffers) const {
        long differ = 0;
        const auto compare = [&](long sum, int channel, float added, Value found) {
            const float value = std::fma(static_cast<float>(sum), scale[channel], added);
            differ += static_cast<long>(std::clamp(std::nearbyint(value), 0.0f, 255.0f)) != found;
        };
        if (layer.kind == DEPTHWISE) {
            const std::ptrdiff_t padded = (layer.width + 2) * LANES;
            run_depthwise(buffers);
            // Of rows, only the last is left.
            for (int y = layer.small() ? 0 : layer.out_height() - 1; y < layer.out_height(); y++)
                for (std::size_t b = 0; b < filters.size(); b++)
                    for (int x = 0; x < layer.out_width(); x++)
                        for (int c = 0; c < LANES; c++) {
                            long sum = 0;
                            for (int k = 0; k < 9; k++)
                                sum += weights[(b * LANES + c) * 9 + k] *
                                       filter_row(buffers, b, y, k / 3, padded)[(x * layer.stride + k % 3) * LANES + c];
                            compare(sum, static_cast<int>(b) * LANES + c, bias[b * LANES + c],
                                    buffers.out[(layer.filtered_row(b, y) * layer.out_width() + x) * LANES + c]);
                        }
            return differ;
        }
        const Shape shape = shape_of(layer);
        const bool last_panel = layer.small() && layer.expands();
        run(buffers);
        for (int o = last_panel ? (panels.panels() - 1) * 2 * LANES : 0; o < layer.out_channels; o++)
            for (int p = 0; p < shape.pixels; p++) {
                long sum = 0;
                const Value* in = buffers.in.data() + in_place(layer, shape, shape.rows - 1) + p * LANES;
                for (int k = 0; k < layer.in_channels; k++)
                    sum += weights[static_cast<std::size_t>(o) * layer.in_channels + k] *
                           in[k / LANES * shape.in_block + k % LANES];
                const int row = shape.rows - 1, block = o / LANES - (last_panel ? (panels.panels() - 1) * 2 : 0);
                const std::ptrdiff_t place = block * shape.out_block + p * LANES + o % LANES;
                float added = bias[o];
                if (layer.shortcut)
                    added = std::fma(static_cast<float>(buffers.shortcut[row * shape.out_row + place]),
                                     panels.shortcut_scale, added);
                compare(sum, o, added, buffers.out[out_place(layer, shape, row) + place]);
            }
        return differ;
    }
};

struct Float {
    Layer layer;
    std::vector<float> values, bias;

    Float(const Layer& of, std::mt19937& random) : layer(of) {
        std::normal_distribution<float> draw(0, 0.1f);
        const int inputs = layer.kind == STEM ? 27 : layer.kind == DEPTHWISE ? 10 : layer.in_channels;
        values.resize(static_cast<std::size_t>(inputs) * layer.out_channels);
        for (auto& value : values) value = draw(random);
        bias.assign(layer.out_channels, 0.1f);
    }
    Panels panels() const {
        return {values.data(), bias.data(), (layer.in_channels + 7) / 8, (layer.out_channels + 7) / 8, {0, 6}};
    }

    void run(Buffers<float>& buffers) const {
        if (layer.kind == STEM) return run_stem(buffers, [](int, const float*, int) {});
        if (layer.kind == DEPTHWISE) return run_depthwise(buffers);
        const Shape shape = shape_of(layer);
        for (int row = 0; row < shape.rows; row++) {
            const ConstRun in{buffers.in.data() + in_place(layer, shape, row), shape.in_block};
            for (int p = 0; p < panel_count(panels().out_blocks); p++) {
                Run out{buffers.out.data() + out_place(layer, shape, row), shape.out_block};
                if (layer.small() && layer.expands()) out.at -= 2 * p * out.block;
                const ConstRun from{layer.shortcut ? buffers.shortcut.data() + row * shape.out_row : nullptr,
                                    shape.out_block};
                KERNELS_AVX2.pointwise(panels(), p, in, shape.pixels, out, nullptr, from);
            }
        }
    }

    void run_depthwise(Buffers<float>& buffers) const {
        const std::ptrdiff_t padded = (layer.width + 2) * LANES, out_width = layer.out_width();
        for (int y = 0; y < layer.out_height(); y++)
            for (int b = 0; b < layer.out_channels / LANES; b++) {
                const float* rows[3];
                for (int ky = 0; ky < 3; ky++)
                    rows[ky] = buffers.in.data() + layer.row_to_filter(b, y * layer.stride + ky) * padded;
                float* out = buffers.out.data() + layer.filtered_row(b, y) * out_width * LANES;
                KERNELS_AVX2.depthwise(rows, values.data() + b * 10 * LANES, layer.stride, 1,
                                       static_cast<int>(out_width), out, {0, 6});
            }
    }

    // then(block, row of that block, pixels).
    template <typename Then>
    void run_stem(Buffers<float>& buffers, const Then& then) const {
        const std::ptrdiff_t row_floats = layer.width + 8, block = layer.out_width() * LANES;
        for (int y = 0; y < layer.out_height(); y++) {
            const float* rows[9];
            for (int r = 0; r < 9; r++) rows[r] = buffers.in.data() + (r / 3 * layer.height + y + r % 3) * row_floats;
            float* ring = buffers.out.data() + y % 4 * (layer.out_channels / LANES) * block;
            for (int p = 0; p < panel_count(panels().out_blocks); p++)
                KERNELS_AVX2.stem(panels(), p, rows, layer.out_width(), {ring, block});
            for (int b = 0; b < layer.out_channels / LANES; b++) then(b, ring + b * block, layer.out_width());
        }
    }
};

std::vector<Layer> layers;
std::vector<Float> in_float;
std::vector<Quantised<Way::WIDE>> in_wide;
std::vector<Quantised<Way::PAIRS>> in_pairs;
std::vector<Quantised<Way::SUMS2>> in_sums2;
std::vector<Quantised<Way::SUMS4>> in_sums4;
// The largest is the input of the stem, three planes of 224 x 232, or 112 x 112 x 16.
constexpr std::size_t LARGEST = 1 << 19;
Buffers<float> float_buffers(LARGEST);
Buffers<std::uint8_t> buffers_8(LARGEST);
Buffers<std::uint16_t> buffers_16(LARGEST);

double now() {
    using Clock = std::chrono::steady_clock;
    return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

template <typename Layers, typename Values>
void time_layers(const Layers& all, Buffers<Values>& buffers, double* seconds) {
    for (std::size_t i = 0; i < all.size(); i++) {
        const double began = now();
        if constexpr (!std::is_same_v<Values, float>) {
            if (layers[i].kind == STEM) {
                Values* out = buffers.out.data();
                in_float[i].run_stem(float_buffers, [out](int block, const float* row, int pixels) {
                    round_row(row, pixels, 42.5f, out + block * pixels * LANES);
                });
                seconds[i] = now() - began;
                continue;
            }
        }
        all[i].run(buffers);
        seconds[i] = now() - began;
    }
}

template <typename Layers, typename Values>
long wrong_results(const Layers& all, Buffers<Values>& buffers) {
    long differ = 0;
    for (const auto& each : all)
        if (each.layer.kind != STEM) differ += each.wrong(buffers);
    return differ;
}

}  // namespace
}  // namespace mobilenetv2

using namespace mobilenetv2;

extern "C" {

// count layers of seven numbers each, as in Layer.
void prepare(const int* numbers, int count) {
    std::mt19937 random(0);
    for (int i = 0; i < count; i++) {
        Layer layer;
        std::memcpy(&layer, numbers + 7 * i, sizeof layer);
        layers.push_back(layer);
        in_float.emplace_back(layer, random);
        in_wide.emplace_back(layer, random);
        in_pairs.emplace_back(layer, random);
        in_sums2.emplace_back(layer, random);
        in_sums4.emplace_back(layer, random);
    }
    std::uniform_int_distribution<int> draw(0, 255);
    for (std::size_t i = 0; i < LARGEST; i++) {
        float_buffers.in[i] = static_cast<float>(draw(random)) / 42.5f;
        // Some runs at the top, where sums are largest.
        buffers_8.in[i] = static_cast<std::uint8_t>(i / 4096 % 2 ? 255 : draw(random));
        buffers_16.in[i] = buffers_8.in[i];
        buffers_8.shortcut[i] = static_cast<std::uint8_t>(draw(random));
        buffers_16.shortcut[i] = buffers_8.shortcut[i];
    }
}

// How many results of a way, 1 to 4 in the order of Way, are not those of plain integers.
long wrong(int way) {
    switch (way) {
        case 1: return wrong_results(in_wide, buffers_16);
        case 2: return wrong_results(in_pairs, buffers_8);
        case 3: return wrong_results(in_sums2, buffers_8);
        default: return wrong_results(in_sums4, buffers_8);
    }
}

// Seconds of every layer in one run through all of them; way 0 is float32.
void run(int way, double* seconds) {
    switch (way) {
        case 0: return time_layers(in_float, float_buffers, seconds);
        case 1: return time_layers(in_wide, buffers_16, seconds);
        case 2: return time_layers(in_pairs, buffers_8, seconds);
        case 3: return time_layers(in_sums2, buffers_8, seconds);
        default: return time_layers(in_sums4, buffers_8, seconds);
    }
}

// Seconds of 2^20 float32 multiply-adds of 8 lanes: slower where something else holds the processor.
double burst() {
    __m256 sums[10];
    for (auto& sum : sums) sum = _mm256_set1_ps(1);
    __m256 factor = _mm256_set1_ps(0.999f);
    const double began = now();
    for (int i = 0; i < (1 << 20) / 10; i++) {
        UNROLL
        for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, factor, factor);
        asm volatile("" : "+x"(factor));
    }
    const double taken = now() - began;
    for (auto& sum : sums) asm volatile("" : : "x"(sum));
    return taken;
}

}  // extern "C"
