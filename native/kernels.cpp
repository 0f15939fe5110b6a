// Kernels for maps of floats.
// Compiled once for each kind of processor; KERNELS_NAME is what it is called, KERNELS_TABLE the table's own name.
#include "kernels.h"

#include "tiles.h"

namespace mobilenetv2 {
namespace {

// Where a tile's results go: into a map, there after the shortcut is added to them, or to what is to be filtered, in a row
// or to places. Known when this is compiled, as with few input channels it takes a fifth of the time.
enum class Result { TO_MAP, ADDED, WIDE, SCATTERED };
constexpr Result IN_A_WIDE_ROW = SPAN == 1 ? Result::TO_MAP : Result::WIDE;

// out and shortcut: at the tile's first pixel and block; out_pixels: of its first pixel. blocks: that there are, as the last
// vector may hold fewer.
template <Result RESULT, int PIXELS, int VECTORS>
ALWAYS_INLINE void finish_sums(const Vector (&sums)[PIXELS][VECTORS], int blocks, Clamp to, Run<float> out,
                               const int* out_pixels, Run<const float> shortcut) {
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        UNROLL
        for (int n = 0; n < VECTORS; n++) {
            const Vector values = clamp(sums[p][n], low, high);
            if constexpr (RESULT == Result::WIDE || RESULT == Result::SCATTERED) {
                store(out.at + (RESULT == Result::WIDE ? p * WIDTH : out_pixels[p]) + n * out.block, values);
            } else {
                UNROLL
                for (int h = 0; h < SPAN; h++) {
                    const int b = n * SPAN + h;
                    if (h > 0 && n == VECTORS - 1 && b >= blocks) break;
                    Block value = half(values, h);
                    if (RESULT == Result::ADDED) value += load<1>(shortcut.at + p * LANES + b * shortcut.block);
                    store(out.at + p * LANES + b * out.block, value);
                }
            }
        }
    }
}

// STEP: floats from one pixel that is read to the next.
template <Result RESULT, int STEP, int VECTORS>
void pointwise_panel(const Panels<float>& panels, Panel at, Run<const float> in, int pixels, Run<float> out,
                     const int* out_pixels, Run<const float> shortcut) {
    constexpr int OUT_STEP = RESULT == Result::SCATTERED ? 0 : RESULT == Result::WIDE ? WIDTH : LANES;
    const float* panel = panels.values + static_cast<std::ptrdiff_t>(at.first) * panels.in_blocks * LANES * LANES;
    Fetch fetch(panels.ahead, (pixels + most_pixels(VECTORS) - 1) / most_pixels(VECTORS) * panels.in_blocks);
    in_tiles<most_pixels(VECTORS)>(pixels, [&](auto size, int x) {
        Vector sums[size.value][VECTORS];
        start_sums(sums, panels.bias + at.first * LANES);
        const float *from = in.at + x * STEP, *weights = panel;
        for (int block = 1; block <= panels.in_blocks; block++) {
            fetch.step();
            UNROLL
            for (int k = 0; k < LANES; k++, weights += VECTORS * WIDTH) {
                fetch.share<LANES>(k);
                multiply_channel<size.value, VECTORS, STEP>(sums, from + k, weights);
            }
            from += block % (STEP / LANES) == 0 ? in.block - (STEP - LANES) : LANES;
        }
        finish_sums<RESULT>(sums, at.blocks, panels.clamp, {out.at + x * OUT_STEP, out.block},
                            RESULT == Result::SCATTERED ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

void pointwise(const Panels<float>& panels, int panel, Run<const float> in, int pixels, Run<float> out) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        pointwise_panel<Result::TO_MAP, LANES, vectors.value>(panels, at, in, pixels, of_panel(out, at), nullptr,
                                                              {nullptr, 0});
    });
}

void expand(const Panels<float>& panels, int panel, Run<const float> in, int pixels, Run<float> out,
            const int* out_pixels) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        auto run = pointwise_panel<IN_A_WIDE_ROW, LANES, vectors.value>;
        if (out_pixels) run = pointwise_panel<Result::SCATTERED, LANES, vectors.value>;
        run(panels, at, in, pixels, {out.at + at.first / SPAN * out.block, out.block}, out_pixels, {nullptr, 0});
    });
}

void project(const Panels<float>& panels, int panel, Run<const float> in, int pixels, Run<float> out,
             Run<const float> shortcut) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        auto run = pointwise_panel<Result::TO_MAP, WIDTH, vectors.value>;
        if (shortcut.at) run = pointwise_panel<Result::ADDED, WIDTH, vectors.value>;
        run(panels, at, in, pixels, of_panel(out, at), nullptr, of_panel(shortcut, at));
    });
}

// Only 32 registers have room for nine taps and a bias beside a tile.
constexpr bool HOLDS_TAPS = SPAN > 1;

// The results of some pixels. STRIDE 0: any stride and dilation, as they are given; else that stride, and DILATION.
template <int PIXELS, int STRIDE, int DILATION>
ALWAYS_INLINE void depthwise_tile(const float* const rows[3], std::ptrdiff_t at, const float* filter,
                                  const Vector (&held)[10], int stride, int dilation, float* out, Clamp to) {
    Vector sums[PIXELS];
    const Vector bias = HOLDS_TAPS ? held[9] : load(filter + 9 * WIDTH);
    UNROLL
    for (int p = 0; p < PIXELS; p++) sums[p] = bias;
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        const float* row = rows[ky] + at;
        Vector w[3];
        UNROLL
        for (int kx = 0; kx < 3; kx++) w[kx] = HOLDS_TAPS ? held[3 * ky + kx] : load(filter + (3 * ky + kx) * WIDTH);
        if constexpr (STRIDE != 0) {
            // Each input is loaded once for all results that it is part of.
            UNROLL
            for (int i = 0; i < (PIXELS - 1) * STRIDE + 2 * DILATION + 1; i++) {
                Vector value = load(row + i * WIDTH);
                keep_in_register(value);
                UNROLL
                for (int kx = 0; kx < 3; kx++) {
                    const int first = i - kx * DILATION, p = first / STRIDE;
                    if (first >= 0 && first % STRIDE == 0 && p < PIXELS) sums[p] += value * w[kx];
                }
            }
        } else {
            UNROLL
            for (int kx = 0; kx < 3; kx++)
                UNROLL
                for (int p = 0; p < PIXELS; p++) sums[p] += w[kx] * load(row + (p * stride + kx * dilation) * WIDTH);
        }
    }
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) store(out + p * WIDTH, clamp(sums[p], low, high));
}

template <int STRIDE, int DILATION>
void depthwise_rows(const float* const rows[3], std::ptrdiff_t in_row, const FilterBlock<float>* filter, int stride,
                    int dilation, int pixels, int count, float* out, std::ptrdiff_t out_row, Clamp to) {
    in_tiles<HOLDS_TAPS ? 14 : 8>(pixels, [=](auto size, int x) {
        Vector held[10];
        if constexpr (HOLDS_TAPS) {
            UNROLL
            for (int k = 0; k < 10; k++) {
                held[k] = load(filter->values + k * WIDTH);
                keep_in_register(held[k]);
            }
        }
        for (int y = 0; y < count; y++)
            depthwise_tile<size.value, STRIDE, DILATION>(rows, y * in_row + x * stride * WIDTH, filter->values, held, stride,
                                                         dilation, out + y * out_row + x * WIDTH, to);
    });
}

void depthwise(const float* const rows[3], std::ptrdiff_t in_row, const FilterBlock<float>* filter, int stride,
               int dilation, int pixels, int count, float* out, std::ptrdiff_t out_row, Clamp to) {
    auto run = depthwise_rows<0, 0>;
    if (dilation == 1 && stride == 1) run = depthwise_rows<1, 1>;
    if (dilation == 1 && stride == 2) run = depthwise_rows<2, 1>;
    if (dilation == 2 && stride == 1) run = depthwise_rows<1, 2>;
    run(rows, in_row, filter, stride, dilation, pixels, count, out, out_row, to);
}

// Not inlined: with its tile inside, GCC keeps the panel's loop variables in registers rather than sums.
template <Result RESULT, int PIXELS, int VECTORS>
[[gnu::noinline]] void stem_tile(const Panels<float>& panels, Panel at, const float* const rows[9], int x, Run<float> out) {
    Vector sums[PIXELS][VECTORS];
    multiply_stem(sums, panels, at, rows, x);
    finish_sums<RESULT>(sums, at.blocks, panels.clamp, out, nullptr, {nullptr, 0});
}

template <Result RESULT>
void stem_panel(const Panels<float>& panels, int panel, const float* const rows[9], int pixels, Run<float> out) {
    constexpr int STEP = RESULT == Result::WIDE ? WIDTH : LANES;
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        in_tiles<stem_pixels(vectors.value)>(pixels, [&](auto size, int x) {
            stem_tile<RESULT, size.value, vectors.value>(
                panels, at, rows, x, {out.at + at.first * LANES / STEP * out.block + x * STEP, out.block});
        });
    });
}

void stem(const Panels<float>& panels, int panel, const float* const rows[9], int pixels, Run<float> out, bool wide) {
    (wide ? stem_panel<IN_A_WIDE_ROW> : stem_panel<Result::TO_MAP>)(panels, panel, rows, pixels, out);
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

}  // namespace

extern const Kernels<float> KERNELS_TABLE;
const Kernels<float> KERNELS_TABLE = {pointwise, expand, project, nullptr, nullptr, depthwise, stem, enlarge, dense, sum,
                                      PANELLING, WIDTH, KERNELS_NAME, burst};

}  // namespace mobilenetv2
