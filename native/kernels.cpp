// Kernels for maps of floats.
// Compiled once for each kind of processor; KERNELS_NAME is what it is called, KERNELS_TABLE the table's own name.
#include "kernels.h"

#include "tiles.h"

namespace mobilenetv2 {
namespace {

// What becomes of a tile's results. Known when this is compiled, as with few input channels it takes a fifth of the time.
enum class Result { IN_A_ROW, SCATTERED, ADDED };

// out and shortcut: at the tile's first pixel and block; out_pixels: of its first pixel. blocks: that there are, as the last
// vector may hold fewer.
template <Result RESULT, int PIXELS, int VECTORS>
ALWAYS_INLINE void finish_sums(const Vector (&sums)[PIXELS][VECTORS], int blocks, Clamp to, Run<float> out,
                               const int* out_pixels, Run<const float> shortcut) {
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        float* pixel = out.at + (RESULT == Result::SCATTERED ? out_pixels[p] : p * LANES);
        UNROLL
        for (int n = 0; n < VECTORS; n++) {
            const Vector values = clamp(sums[p][n], low, high);
            UNROLL
            for (int h = 0; h < SPAN; h++) {
                const int b = n * SPAN + h;
                if (h > 0 && n == VECTORS - 1 && b >= blocks) break;
                Block value = half(values, h);
                if (RESULT == Result::ADDED) value += load<1>(shortcut.at + p * LANES + b * shortcut.block);
                store(pixel + b * out.block, value);
            }
        }
    }
}

template <Result RESULT, int VECTORS>
void pointwise_panel(const Panels<float>& panels, Panel at, Run<const float> in, int pixels, Run<float> out,
                     const int* out_pixels, Run<const float> shortcut) {
    const float* panel = panels.values + static_cast<std::ptrdiff_t>(at.first) * panels.in_blocks * LANES * LANES;
    Fetch fetch(panels.ahead, (pixels + most_pixels(VECTORS) - 1) / most_pixels(VECTORS) * panels.in_blocks);
    in_tiles<most_pixels(VECTORS)>(pixels, [&](auto size, int x) {
        Vector sums[size.value][VECTORS];
        start_sums(sums, panels.bias + at.first * LANES);
        const float *from = in.at + x * LANES, *weights = panel;
        for (int block = 0; block < panels.in_blocks; block++, from += in.block) {
            fetch.step();
            UNROLL
            for (int k = 0; k < LANES; k++, weights += VECTORS * WIDTH) {
                fetch.share<LANES>(k);
                multiply_channel<size.value, VECTORS, LANES>(sums, from + k, weights);
            }
        }
        const bool scattered = RESULT == Result::SCATTERED;
        finish_sums<RESULT>(sums, at.blocks, panels.clamp, {scattered ? out.at : out.at + x * LANES, out.block},
                            scattered ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

void pointwise(const Panels<float>& panels, int panel, Run<const float> in, int pixels, Run<float> out,
               const int* out_pixels, Run<const float> shortcut) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        auto run = pointwise_panel<Result::IN_A_ROW, vectors.value>;
        if (out_pixels) run = pointwise_panel<Result::SCATTERED, vectors.value>;
        if (shortcut.at) run = pointwise_panel<Result::ADDED, vectors.value>;
        run(panels, at, in, pixels, {out.at + at.first * out.block, out.block}, out_pixels,
            {shortcut.at ? shortcut.at + at.first * shortcut.block : nullptr, shortcut.block});
    });
}

// The results of some pixels, a block or two neighbours of them in each vector.
// STRIDE 0: any stride and dilation, as they are given; else that stride, and no dilation.
template <int BLOCKS, int VECTORS, int STRIDE>
ALWAYS_INLINE void depthwise_tile(const float* const rows[3], std::ptrdiff_t at, const FilterBlock<float>& filter,
                                  int stride, int dilation, float* out, Clamp to) {
    constexpr int STEP = STRIDE * BLOCKS;
    using V = typename Floats<BLOCKS>::Type;
    V sums[VECTORS];
    const V bias = repeat<BLOCKS>(filter.bias);
    UNROLL
    for (int p = 0; p < VECTORS; p++) sums[p] = bias;
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        const float* row = rows[ky] + at;
        V w[3];
        UNROLL
        for (int kx = 0; kx < 3; kx++) w[kx] = repeat<BLOCKS>(filter.taps[3 * ky + kx]);
        if constexpr (STRIDE != 0) {
            // Each input is loaded once for all results that it is part of.
            UNROLL
            for (int i = 0; i < (VECTORS - 1) * STEP + 3; i++) {
                V value = load<BLOCKS>(row + i * LANES);
                keep_in_register(value);
                UNROLL
                for (int kx = 0; kx < 3; kx++) {
                    const int p = (i - kx) / STEP;
                    if (i >= kx && (i - kx) % STEP == 0 && p < VECTORS) sums[p] += value * w[kx];
                }
            }
        } else {
            UNROLL
            for (int kx = 0; kx < 3; kx++)
                UNROLL
                for (int p = 0; p < VECTORS; p++)
                    sums[p] += w[kx] * load<BLOCKS>(row + (p * BLOCKS * stride + kx * dilation) * LANES);
        }
    }
    const V low = broadcast<BLOCKS>(to.low), high = broadcast<BLOCKS>(to.high);
    UNROLL
    for (int p = 0; p < VECTORS; p++) store(out + p * BLOCKS * LANES, clamp(sums[p], low, high));
}

// BLOCKS: SPAN takes neighbours together, which are apart where the stride is not 1.
template <int BLOCKS, int STRIDE>
void depthwise_row(const float* const rows[3], const FilterBlock<float>& filter, int stride, int dilation, int pixels,
                   float* out, Clamp to) {
    in_tiles<8>(pixels / BLOCKS, [&](auto size, int x) {
        depthwise_tile<BLOCKS, size.value, STRIDE>(rows, x * BLOCKS * stride * LANES, filter, stride, dilation,
                                              out + x * BLOCKS * LANES, to);
    });
    if (const int rest = pixels - pixels % BLOCKS; rest < pixels)
        depthwise_tile<1, 1, STRIDE>(rows, rest * stride * LANES, filter, stride, dilation, out + rest * LANES, to);
}

void depthwise(const float* const rows[3], const FilterBlock<float>& filter, int stride, int dilation, int pixels,
               float* out, Clamp to) {
    auto run = stride == 1 ? depthwise_row<SPAN, 0> : depthwise_row<1, 0>;
    if (dilation == 1 && stride == 1) run = depthwise_row<SPAN, 1>;
    if (dilation == 1 && stride == 2) run = depthwise_row<1, 2>;
    run(rows, filter, stride, dilation, pixels, out, to);
}

// Not inlined: with its tile inside, GCC keeps the panel's loop variables in registers rather than sums.
template <int PIXELS, int VECTORS>
[[gnu::noinline]] void stem_tile(const Panels<float>& panels, Panel at, const float* const rows[9], int x, Run<float> out) {
    Vector sums[PIXELS][VECTORS];
    multiply_stem(sums, panels, at, rows, x);
    finish_sums<Result::IN_A_ROW>(sums, at.blocks, panels.clamp, out, nullptr, {nullptr, 0});
}

void stem(const Panels<float>& panels, int panel, const float* const rows[9], int pixels, Run<float> out) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        in_tiles<stem_pixels(vectors.value)>(pixels, [&](auto size, int x) {
            stem_tile<size.value, vectors.value>(panels, at, rows, x,
                                                 {out.at + at.first * out.block + x * LANES, out.block});
        });
    });
}

void enlarge(const float* above, const float* below, float down, const int* left, const int* right,
             const float* across, int pixels, const float* on, float* out, float scale, float offset, Clamp to) {
    const Block low = broadcast<1>(to.low), high = broadcast<1>(to.high);
    for (int p = 0; p < pixels; p++) {
        const Block value = enlarged_pixel(above, below, down, left[p], right[p], across[p]) + load<1>(on + p * LANES);
        store(out + p * LANES, clamp(value * broadcast<1>(scale) + broadcast<1>(offset), low, high));
    }
}

template <int BLOCKS, int VECTORS>
void dense_tile(const float* weights, const float* in, int inputs, float* to) {
    constexpr int FLOATS = BLOCKS * LANES;
    typename Floats<BLOCKS>::Type sums[VECTORS];
    UNROLL
    for (int n = 0; n < VECTORS; n++) sums[n] = load<BLOCKS>(to + n * FLOATS);
    for (int k = 0; k < inputs; k++, weights += VECTORS * FLOATS) {
        const auto value = broadcast<BLOCKS>(in[k]);
        UNROLL
        for (int n = 0; n < VECTORS; n++) sums[n] += value * load<BLOCKS>(weights + n * FLOATS);
    }
    UNROLL
    for (int n = 0; n < VECTORS; n++) store(to + n * FLOATS, sums[n]);
}

void dense(const float* weights, const float* in, int inputs, int out_blocks, float* sums) {
    int first = 0;
    for (; first + 8 <= out_blocks; first += 8)
        dense_tile<SPAN, 8 / SPAN>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs,
                                             sums + first * LANES);
    for (; first < out_blocks; first++)
        dense_tile<1, 1>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs,
                             sums + first * LANES);
}

void sum(const float* in, int pixels, float* sums) {
    Block parts[4] = {};
    int p = 0;
    for (; p + 4 <= pixels; p += 4)
        for (int i = 0; i < 4; i++) parts[i] += load<1>(in + (p + i) * LANES);
    for (; p < pixels; p++) parts[0] += load<1>(in + p * LANES);
    store(sums, load<1>(sums) + ((parts[0] + parts[1]) + (parts[2] + parts[3])));
}

// Twelve sums, as two multipliers with 4 cycles of latency need eight.
double burst(int rounds) {
    Vector sums[12], factor = broadcast(0.5f);
    UNROLL
    for (int i = 0; i < 12; i++) sums[i] = factor;
    keep_in_register(factor);
    for (int round = 0; round < rounds; round++) {
        UNROLL
        for (int i = 0; i < 12; i++) {
            sums[i] = sums[i] * factor + factor;
            keep_in_register(sums[i]);
        }
    }
    // Read, so that it is not left out.
    [[maybe_unused]] volatile float last = 0;
    UNROLL
    for (int i = 0; i < 12; i++) last = half(sums[i], 0)[0];
    return 2.0 * 12 * WIDTH * rounds;
}

void pointwise_raw(const Panels<float>& panels, int panel, Run<const float> in, int pixels, Run<float> out) {
    pointwise(panels, panel, in, pixels, out, nullptr, {nullptr, 0});
}

}  // namespace

extern const Kernels<float> KERNELS_TABLE;
const Kernels<float> KERNELS_TABLE = {pointwise, pointwise_raw, depthwise, stem, enlarge, dense, sum, PANELLING,
                                      KERNELS_NAME, burst};

}  // namespace mobilenetv2
