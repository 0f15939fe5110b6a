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

// As in kernels.cpp.
template <Result RESULT, int PIXELS, int VECTORS, typename T>
ALWAYS_INLINE void finish_sums(const Sums (&sums)[PIXELS][VECTORS], const Panels<Level>& panels, Panel at, Run<T> out,
                               const int* out_pixels, Run<const Level> shortcut) {
    const Vector low = broadcast(panels.clamp.low), high = broadcast(panels.clamp.high);
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
        for (int p = 0; p < PIXELS; p++) {
            Vector values = to_floats(sums[p][n]) * scale + bias;
            if constexpr (RESULT == Result::ADDED)
                values += load_levels(on + p * LANES, both ? on + shortcut.block + p * LANES : nullptr) * of_shortcut;
            values = clamp(values, low, high);
            T* to = block + (RESULT == Result::SCATTERED ? out_pixels[p] : p * LANES);
            if constexpr (RESULT == Result::RAW) {
                store(to, half(values, 0));
                if (both) store(to + out.block, half(values, 1));
            } else {
                store_levels(to, both ? to + out.block : nullptr, values);
            }
        }
    }
}

template <Result RESULT, bool FETCHES, int VECTORS, typename T>
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
            if constexpr (FETCHES) fetch.step();
            UNROLL
            for (int k = 0; k < LANES / TOGETHER; k++, weights += VECTORS * WIDTH * TOGETHER) {
                if constexpr (FETCHES) fetch.template share<LANES / TOGETHER>(k);
                multiply_together<size.value, VECTORS>(sums, from + k * TOGETHER, weights);
            }
        }
        const bool scattered = RESULT == Result::SCATTERED;
        finish_sums<RESULT>(sums, panels, at, Run<T>{scattered ? out.at : out.at + x * LANES, out.block},
                            scattered ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

template <Result RESULT, int VECTORS, typename T>
auto pointwise_on(const Panels<Level>& panels) {
    return panels.ahead[0].at ? pointwise_panel<RESULT, true, VECTORS, T> : pointwise_panel<RESULT, false, VECTORS, T>;
}

void pointwise(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<Level> out,
               const int* out_pixels, Run<const Level> shortcut) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        auto run = pointwise_on<Result::IN_A_ROW, vectors.value, Level>(panels);
        if (out_pixels) run = pointwise_on<Result::SCATTERED, vectors.value, Level>(panels);
        if (shortcut.at) run = pointwise_on<Result::ADDED, vectors.value, Level>(panels);
        run(panels, at, in, pixels, {out.at + at.first * out.block, out.block}, out_pixels,
            {shortcut.at ? shortcut.at + at.first * shortcut.block : nullptr, shortcut.block});
    });
}

void pointwise_raw(const Panels<Level>& panels, int panel, Run<const Level> in, int pixels, Run<float> out) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        pointwise_on<Result::RAW, vectors.value, float>(panels)(
            panels, at, in, pixels, {out.at + at.first * out.block, out.block}, nullptr, {nullptr, 0});
    });
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
class Pairs {
  public:
    static bool fits(int stride, int dilation) { return stride + 2 * dilation < 8; }
    Pairs(int stride, int dilation) {
        Level places[64];
        for (int p = 0; p < 2; p++)
            for (int lane = 0; lane < LANES; lane++)
                for (int tap = 0; tap < 4; tap++)
                    places[(p * LANES + lane) * 4 + tap] =
                        static_cast<Level>((p * stride + tap % 3 * dilation) * LANES + lane);
        places_ = load_bytes(places, Sums{});
    }
    ALWAYS_INLINE Sums taps_of(const Level* at) const {
        return _mm512_permutexvar_epi8(places_, load_bytes(at, Sums{}));
    }

  private:
    Sums places_;
};

template <int COUNT>
ALWAYS_INLINE void depthwise_pairs(const Level* const rows[3], std::ptrdiff_t at, const Sums (&weights)[3], Vector scale,
                                   Vector bias, const Pairs& pairs, int stride, Level* out, Clamp to) {
    Sums sums[COUNT] = {};
    UNROLL
    for (int ky = 0; ky < 3; ky++)
        UNROLL
        for (int p = 0; p < COUNT; p++)
            sums[p] = dot(sums[p], pairs.taps_of(rows[ky] + at + 2 * p * stride * LANES), weights[ky]);
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < COUNT; p++)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * p * LANES),
                         to_levels(clamp(to_floats(sums[p]) * scale + bias, low, high)));
}

#endif

void depthwise(const Level* const rows[3], const FilterBlock<Level>& filter, int stride, int dilation, int pixels,
               Level* out, Clamp to) {
    int first = 0;
#if defined(__AVX512VBMI__)
    if (Pairs::fits(stride, dilation)) {
        const Pairs pairs(stride, dilation);
        Sums weights[3];
        for (int ky = 0; ky < 3; ky++)
            weights[ky] = _mm512_broadcast_i64x4(load_bytes(filter.taps[ky], BlockSums{}));
        const Vector scale = repeat(filter.scale), bias = repeat(filter.bias);
        in_tiles<4>(pixels / 2, [&](auto count, int x) {
            depthwise_pairs<count.value>(rows, 2 * x * stride * LANES, weights, scale, bias, pairs, stride,
                                         out + 2 * x * LANES, to);
        });
        first = pixels / 2 * 2;
    }
#endif
    in_tiles<4>(pixels - first, [&](auto size, int x) {
        depthwise_tile<size.value>(rows, (first + x) * stride * LANES, filter, stride, dilation,
                                   out + (first + x) * LANES, to);
    });
}

template <int PIXELS, int VECTORS>
[[gnu::noinline]] void stem_tile(const Panels<float>& panels, Panel at, const float* const rows[9], int x, Run<Level> out) {
    Vector sums[PIXELS][VECTORS];
    multiply_stem(sums, panels, at, rows, x);
    const Vector low = broadcast(panels.clamp.low), high = broadcast(panels.clamp.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int n = 0; n < VECTORS; n++) {
            Level* to = out.at + n * SPAN * out.block + p * LANES;
            const bool both = SPAN == 2 && n * SPAN + 1 < at.blocks;
            store_levels(to, both ? to + out.block : nullptr, clamp(sums[p][n], low, high));
        }
}

void stem(const Panels<float>& panels, int panel, const float* const rows[9], int pixels, Run<Level> out) {
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
const Kernels<Level> KERNELS_TABLE = {pointwise, pointwise_raw, depthwise, stem, enlarge, dense, sum, PANELLING,
                                      KERNELS_NAME};

}  // namespace mobilenetv2
