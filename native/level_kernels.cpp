// Kernels for maps of levels of 8 bits; kernels.cpp tells how they cut their work, levels.h what they compute with.
// Compiled once for each kind of processor; KERNELS_NAME is what it is called, KERNELS_TABLE the table's own name.
#include "levels.h"
#include "tiles.h"

namespace mobilenetv2 {
namespace {

using Weight = std::int8_t;
constexpr int TOGETHER = Numbers<Level>::TOGETHER;
// Where there are 16 registers, `dot` needs two of them beside weights and levels.
constexpr int most_pixels_of_levels(int vectors) { return SPAN == 2 ? 14 : vectors == 3 ? 3 : vectors == 2 ? 5 : 8; }

// TOGETHER input channels of a tile.
template <int PIXELS, int VECTORS>
ALWAYS_INLINE void multiply_together(Sums (&sums)[PIXELS][VECTORS], const Level* in, const Weight* weights) {
    Sums w[VECTORS];
    UNROLL
    for (int n = 0; n < VECTORS; n++) {
        w[n] = load_bytes(weights + n * WIDTH * TOGETHER, Sums{});
        keep_in_register(w[n]);
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        Sums levels = broadcast_four(in + p * LANES, Sums{});
        keep_in_register(levels);
        UNROLL
        for (int n = 0; n < VECTORS; n++) {
            sums[p][n] = dot(sums[p][n], levels, w[n]);
            keep_in_register(sums[p][n]);
        }
    }
}

enum class Result { IN_A_ROW, SCATTERED, ADDED, RAW };

// Up to four pixels of one vector, `count` of them, to the places that they have behind `to` (null: in a row).
ALWAYS_INLINE void put_pixels(const Vector (&values)[4], int count, Clamp clamp, Level* to, std::ptrdiff_t block, bool both,
                              const int* places) {
    alignas(64) Level levels[4 * WIDTH];
    four_pixels(values, clamp, levels);
    constexpr std::size_t ALL = 4 * LANES;
    if (count == 4 && (!places || places[3] - places[0] == 3 * LANES)) {
        if (places) to += places[0];
        std::memcpy(to, levels, ALL);
        if (both) std::memcpy(to + block, levels + ALL, ALL);
        return;
    }
    for (int p = 0; p < count; p++) {
        const std::ptrdiff_t place = places ? places[p] : p * LANES;
        std::memcpy(to + place, levels + p * LANES, LANES);
        if (both) std::memcpy(to + block + place, levels + ALL + p * LANES, LANES);
    }
}

// As in kernels.cpp.
template <Result RESULT, int PIXELS, int VECTORS, typename T>
ALWAYS_INLINE void finish_sums(const Sums (&sums)[PIXELS][VECTORS], const Panels<Level>& panels, Panel at, Run<T> out,
                               const int* out_pixels, Run<const Level> shortcut) {
    const Vector of_shortcut = broadcast(panels.shortcut);
    UNROLL
    for (int n = 0; n < VECTORS; n++) {
        const Vector scale = load(panels.scale + at.first * LANES + n * WIDTH);
        const Vector bias = load(panels.bias + at.first * LANES + n * WIDTH);
        // The last vector may hold one block only.
        const bool both = SPAN == 2 && n * SPAN + 1 < at.blocks;
        T* block = out.at + n * SPAN * out.block;
        const Level* on = RESULT == Result::ADDED ? shortcut.at + n * SPAN * shortcut.block : nullptr;
        UNROLL
        for (int first = 0; first < PIXELS; first += 4) {
            Vector values[4] = {};
            UNROLL
            for (int i = 0; i < 4; i++) {
                if (first + i >= PIXELS) continue;
                values[i] = to_floats(sums[first + i][n]) * scale + bias;
                if constexpr (RESULT == Result::ADDED) {
                    const Level* pixel = on + (first + i) * LANES;
                    values[i] += load_levels(pixel, both ? pixel + shortcut.block : nullptr) * of_shortcut;
                }
            }
            const int count = PIXELS - first < 4 ? PIXELS - first : 4;
            if constexpr (RESULT == Result::RAW) {
                const Vector low = broadcast(panels.clamp.low), high = broadcast(panels.clamp.high);
                UNROLL
                for (int i = 0; i < 4; i++) {
                    if (first + i >= PIXELS) continue;
                    const Vector value = clamp(values[i], low, high);
                    store(block + (first + i) * LANES, half(value, 0));
                    if (both) store(block + out.block + (first + i) * LANES, half(value, 1));
                }
            } else if constexpr (RESULT == Result::SCATTERED) {
                put_pixels(values, count, panels.clamp, block, out.block, both, out_pixels + first);
            } else {
                put_pixels(values, count, panels.clamp, block + first * LANES, out.block, both, nullptr);
            }
        }
    }
}

template <Result RESULT, int VECTORS, typename T>
void pointwise_panel(const Panels<Level>& panels, Panel at, Run<const Level> in, int pixels, Run<T> out,
                     const int* out_pixels, Run<const Level> shortcut) {
    constexpr int MOST = most_pixels_of_levels(VECTORS);
    const Weight* panel = panels.values + static_cast<std::ptrdiff_t>(at.first) * panels.in_blocks * LANES * LANES;
    Fetch fetch(panels.ahead, (pixels + MOST - 1) / MOST * panels.in_blocks);
    in_tiles<MOST>(pixels, [&](auto size, int x) {
        Sums sums[size.value][VECTORS] = {};
        const Level* from = in.at + x * LANES;
        const Weight* weights = panel;
        for (int block = 0; block < panels.in_blocks; block++, from += in.block) {
            fetch.step();
            UNROLL
            for (int k = 0; k < LANES / TOGETHER; k++, weights += VECTORS * WIDTH * TOGETHER) {
                fetch.share<LANES / TOGETHER>(k);
                multiply_together<size.value, VECTORS>(sums, from + k * TOGETHER, weights);
            }
        }
        const bool scattered = RESULT == Result::SCATTERED;
        finish_sums<RESULT>(sums, panels, at, Run<T>{scattered ? out.at : out.at + x * LANES, out.block},
                            scattered ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

template <Result RESULT, typename T>
void on_pixels(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<T> out, const int* out_pixels,
               Run<const Level> shortcut) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        pointwise_panel<RESULT, vectors.value>(panels, at, in, pixels, of_panel(out, at), out_pixels,
                                               of_panel(shortcut, at));
    });
}

void pointwise(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<Level> out) {
    on_pixels<Result::IN_A_ROW>(panels, panel, in, pixels, out, nullptr, {nullptr, 0});
}

void expand(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<Level> out,
            const int* out_pixels) {
    (out_pixels ? on_pixels<Result::SCATTERED, Level> : on_pixels<Result::IN_A_ROW, Level>)(panels, panel, in, pixels, out,
                                                                                            out_pixels, {nullptr, 0});
}

void project(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<Level> out,
             Run<const Level> shortcut) {
    (shortcut.at ? on_pixels<Result::ADDED, Level> : on_pixels<Result::IN_A_ROW, Level>)(panels, panel, in, pixels, out,
                                                                                         nullptr, shortcut);
}

void pointwise_raw(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<float> out) {
    on_pixels<Result::RAW>(panels, panel, in, pixels, out, nullptr, {nullptr, 0});
}

// Some pixels, one at a time.
template <int PIXELS>
ALWAYS_INLINE void depthwise_tile(const Level* const rows[3], std::ptrdiff_t at, const FilterBlock<Level>& filter,
                                  int stride, int dilation, Level* out, Clamp to) {
    BlockSums sums[PIXELS] = {};
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        const BlockSums w = load_bytes(filter.taps[ky], BlockSums{});
        UNROLL
        for (int p = 0; p < PIXELS; p++)
            sums[p] = dot(sums[p], taps_of(rows[ky] + at + p * stride * LANES, dilation), w);
    }
    const Block scale = load<1>(filter.scale), bias = load<1>(filter.bias);
    const Block low = broadcast<1>(to.low), high = broadcast<1>(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        store_levels(out + p * LANES, clamp(to_floats(sums[p]) * scale + bias, low, high));
}

#if defined(__AVX512VBMI__)

// Two pixels to a vector: one permutation takes their taps out of eight neighbours.
template <int STRIDE, int DILATION>
struct Places {
    alignas(64) Level of[64]{};
    constexpr Places() {
        static_assert(STRIDE + 2 * DILATION < 8);
        for (int p = 0; p < 2; p++)
            for (int lane = 0; lane < LANES; lane++)
                for (int tap = 0; tap < 4; tap++)
                    of[(p * LANES + lane) * 4 + tap] = (p * STRIDE + tap % 3 * DILATION) * LANES + lane;
    }
};

// Eight pixels at a time, of which the last may be fewer.
template <int STRIDE, int DILATION>
void depthwise_pairs(const Level* const rows[3], const FilterBlock<Level>& filter, int pixels, Level* out, Clamp to) {
    static constexpr Places<STRIDE, DILATION> PLACES;
    const Sums places = load_bytes(PLACES.of, Sums{});
    Sums weights[3];
    for (int ky = 0; ky < 3; ky++) weights[ky] = _mm512_broadcast_i64x4(load_bytes(filter.taps[ky], BlockSums{}));
    const Vector scale = repeat(filter.scale), bias = repeat(filter.bias);
    for (int first = 0; first < pixels; first += 8) {
        Sums sums[4] = {};
        const int pairs = pixels - first < 8 ? (pixels - first + 1) / 2 : 4;
        const auto pair = [&](int p) __attribute__((always_inline)) {
            UNROLL
            for (int ky = 0; ky < 3; ky++) {
                const Level* at = rows[ky] + (first + 2 * p) * STRIDE * LANES;
                sums[p] = dot(sums[p], _mm512_permutexvar_epi8(places, load_bytes(at, Sums{})), weights[ky]);
            }
        };
        if (pairs == 4) {
            UNROLL
            for (int p = 0; p < 4; p++) pair(p);
        } else {
            for (int p = 0; p < pairs; p++) pair(p);
        }
        Vector values[4];
        UNROLL
        for (int p = 0; p < 4; p++) values[p] = to_floats(sums[p]) * scale + bias;
        if (pixels - first >= 8) {
            eight_neighbours(values, to, out + first * LANES);
        } else {
            alignas(64) Level levels[8 * LANES];
            eight_neighbours(values, to, levels);
            std::memcpy(out + first * LANES, levels, (pixels - first) * LANES);
        }
    }
}

#endif

void depthwise_row(const Level* const rows[3], const FilterBlock<Level>& filter, int stride, int dilation, int pixels,
                   Level* out, Clamp to) {
#if defined(__AVX512VBMI__)
    if (dilation == 1 && stride == 1) return depthwise_pairs<1, 1>(rows, filter, pixels, out, to);
    if (dilation == 1 && stride == 2) return depthwise_pairs<2, 1>(rows, filter, pixels, out, to);
    if (dilation == 2 && stride == 1) return depthwise_pairs<1, 2>(rows, filter, pixels, out, to);
#endif
    in_tiles<4>(pixels, [&](auto size, int x) {
        depthwise_tile<size.value>(rows, x * stride * LANES, filter, stride, dilation, out + x * LANES, to);
    });
}

void depthwise(const Level* const rows[3], std::ptrdiff_t in_row, const FilterBlock<Level>* filter, int stride,
               int dilation, int pixels, int count, Level* out, std::ptrdiff_t out_row, Clamp to) {
    for (int y = 0; y < count; y++) {
        const Level* const of_row[3] = {rows[0] + y * in_row, rows[1] + y * in_row, rows[2] + y * in_row};
        depthwise_row(of_row, *filter, stride, dilation, pixels, out + y * out_row, to);
    }
}

template <int PIXELS, int VECTORS>
[[gnu::noinline]] void stem_tile(const Panels<float>& panels, Panel at, const float* const rows[9], int x, Run<Level> out) {
    Vector sums[PIXELS][VECTORS];
    multiply_stem(sums, panels, at, rows, x);
    UNROLL
    for (int n = 0; n < VECTORS; n++) {
        const bool both = SPAN == 2 && n * SPAN + 1 < at.blocks;
        UNROLL
        for (int first = 0; first < PIXELS; first += 4) {
            Vector values[4] = {};
            UNROLL
            for (int i = 0; i < 4; i++)
                if (first + i < PIXELS) values[i] = sums[first + i][n];
            put_pixels(values, PIXELS - first < 4 ? PIXELS - first : 4, panels.clamp,
                       out.at + n * SPAN * out.block + first * LANES, out.block, both, nullptr);
        }
    }
}

void stem(const Panels<float>& panels, int panel, const float* const rows[9], int pixels, Run<Level> out, bool) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        in_tiles<stem_pixels(vectors.value)>(pixels, [&](auto size, int x) {
            stem_tile<size.value, vectors.value>(panels, at, rows, x,
                                                 {out.at + at.first * out.block + x * LANES, out.block});
        });
    });
}

void enlarge(const float* above, const float* below, float down, const int* left, const int* right,
             const float* across, int pixels, const float* on, Level* out, float scale, float offset, Clamp to) {
    const Block low = broadcast<1>(to.low), high = broadcast<1>(to.high);
    for (int p = 0; p < pixels; p++) {
        const Block value = enlarged_pixel(above, below, down, left[p], right[p], across[p]) + load<1>(on + p * LANES);
        store_levels(out + p * LANES, clamp(value * broadcast<1>(scale) + broadcast<1>(offset), low, high));
    }
}

// Of eight output blocks or of one.
template <typename S, int VECTORS>
void dense_tile(const Weight* weights, const Level* in, int inputs, std::int32_t* to) {
    constexpr int SIZE = sizeof(S);
    S sums[VECTORS];
    UNROLL
    for (int n = 0; n < VECTORS; n++) sums[n] = load_bytes(to + n * SIZE / TOGETHER, S{});
    for (int k = 0; k < inputs; k += TOGETHER, weights += VECTORS * SIZE) {
        const S levels = broadcast_four(in + k, S{});
        UNROLL
        for (int n = 0; n < VECTORS; n++) sums[n] = dot(sums[n], levels, load_bytes(weights + n * SIZE, S{}));
    }
    std::memcpy(to, sums, sizeof sums);
}

void dense(const Weight* weights, const Level* in, int inputs, int out_blocks, std::int32_t* sums) {
    int first = 0;
    for (; first + 8 <= out_blocks; first += 8)
        dense_tile<Sums, 8 / SPAN>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs,
                                   sums + first * LANES);
    for (; first < out_blocks; first++)
        dense_tile<BlockSums, 1>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs,
                                 sums + first * LANES);
}

void sum(const Level* in, int pixels, std::int32_t* sums) {
    for (int p = 0; p < pixels; p++)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += in[p * LANES + lane];
}

}  // namespace

extern const Kernels<Level> KERNELS_TABLE;
const Kernels<Level> KERNELS_TABLE = {pointwise, expand, project, pointwise_raw, pointwise_raw, depthwise, stem, enlarge, dense,
                                      sum, PANELLING, LANES, KERNELS_NAME, nullptr};

}  // namespace mobilenetv2
