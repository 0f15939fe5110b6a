// Compiled once for each kind of processor; KERNELS_NAME is what it is called, KERNELS_TABLE the table's own name.
#include "kernels.h"

#include "vectors.h"

namespace mobilenetv2 {
namespace {

// Pixels and output blocks of a tile are chosen for 16 registers: 6 x 2 and 4 x 3 accumulators are 12, beside which the
// weights of one input channel and one broadcast value stay in registers too. All do 12 multiply-adds of 8 lanes per input
// channel with 8 or 7 loads, so the multipliers are the limit. Down to 4 pixels of 2 blocks there are the 8 sums that
// two multipliers with 4 cycles of latency need; so a run is cut into tiles of nearly the same size.
constexpr int most_pixels(int blocks) { return blocks == 3 ? 4 : blocks == 2 ? 6 : 8; }

// One input channel of a tile: STEP floats lie between its values of two pixels.
template <int PIXELS, int BLOCKS, int STEP>
inline void multiply_channel(Vector (&sums)[PIXELS][BLOCKS], const float* in, const float* weights) {
    Vector w[BLOCKS];
    UNROLL
    for (int n = 0; n < BLOCKS; n++) {
        w[n] = load(weights + n * LANES);
        keep_in_register(w[n]);
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        Vector value = broadcast(in[p * STEP]);
        // With three blocks there are four pixels, and the values may be folded.
        if (BLOCKS == 2) keep_in_register(value);
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            sums[p][n] += value * w[n];
            if (BLOCKS == 2) keep_in_register(sums[p][n]);
        }
    }
}

// What becomes of a tile's results. Known when this is compiled, as with few input channels it takes a fifth of the time.
enum class Result { IN_A_ROW, SCATTERED, ADDED };

template <int PIXELS, int BLOCKS, Result RESULT>
inline void pointwise_tile(const Panels& panels, const float* weights, int first, ConstRun in, Run out,
                           const int* out_pixels, ConstRun shortcut) {
    Vector sums[PIXELS][BLOCKS];
    UNROLL
    for (int n = 0; n < BLOCKS; n++) {
        const Vector bias = load(panels.bias + (first + n) * LANES);
        UNROLL
        for (int p = 0; p < PIXELS; p++) sums[p][n] = bias;
    }
    const float* from = in.at;
    for (int block = 0; block < panels.in_blocks; block++, from += in.block) {
        UNROLL
        for (int k = 0; k < LANES; k++, weights += BLOCKS * LANES)
            multiply_channel<PIXELS, BLOCKS, LANES>(sums, from + k, weights);
    }
    const Vector low = broadcast(panels.clamp.low), high = broadcast(panels.clamp.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        float* to = out.at + (RESULT == Result::SCATTERED ? out_pixels[p] : p * LANES);
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            Vector value = clamp(sums[p][n], low, high);
            if (RESULT == Result::ADDED) value += load(shortcut.at + p * LANES + n * shortcut.block);
            store(to + n * out.block, value);
        }
    }
}

// `count` tiles of a size one after the other, then those of one pixel less.
template <int PIXELS, int BLOCKS, Result RESULT>
void pointwise_tiles(int pixels, int count, int less, const Panels& panels, const float* weights, int first,
                     ConstRun in, Run out, const int* out_pixels, ConstRun shortcut) {
    if constexpr (PIXELS > 0) {
        if (pixels != PIXELS)
            return pointwise_tiles<PIXELS - 1, BLOCKS, RESULT>(pixels, count, less, panels, weights, first, in, out,
                                                               out_pixels, shortcut);
        for (; count > 0; count--) {
            pointwise_tile<PIXELS, BLOCKS, RESULT>(panels, weights, first, in, out, out_pixels, shortcut);
            in.at += PIXELS * LANES;
            if (RESULT == Result::SCATTERED) out_pixels += PIXELS; else out.at += PIXELS * LANES;
            if (RESULT == Result::ADDED) shortcut.at += PIXELS * LANES;
        }
        if (less > 0)
            pointwise_tiles<PIXELS - 1, BLOCKS, RESULT>(PIXELS - 1, less, 0, panels, weights, first, in, out, out_pixels,
                                                        shortcut);
    }
}

template <int BLOCKS>
void pointwise_panel(const Panels& panels, int first, ConstRun in, int pixels, Run out, const int* out_pixels,
                     ConstRun shortcut) {
    const float* weights = panels.values + static_cast<std::ptrdiff_t>(first) * panels.in_blocks * LANES * LANES;
    constexpr int most = most_pixels(BLOCKS);
    const int tiles = (pixels + most - 1) / most, size = (pixels + tiles - 1) / tiles;
    const int less = size * tiles - pixels, full = tiles - less;
    auto run = pointwise_tiles<most, BLOCKS, Result::IN_A_ROW>;
    if (out_pixels) run = pointwise_tiles<most, BLOCKS, Result::SCATTERED>;
    if (shortcut.at) run = pointwise_tiles<most, BLOCKS, Result::ADDED>;
    run(size, full, less, panels, weights, first, in, out, out_pixels, shortcut);
}

void pointwise(const Panels& panels, int panel, ConstRun in, int pixels, Run out, const int* out_pixels,
               ConstRun shortcut) {
    const auto [first, blocks] = panel_at(panels.out_blocks, panel);
    out.at += first * out.block;
    if (shortcut.at) shortcut.at += first * shortcut.block;
    switch (blocks) {
        case 1: return pointwise_panel<1>(panels, first, in, pixels, out, out_pixels, shortcut);
        case 2: return pointwise_panel<2>(panels, first, in, pixels, out, out_pixels, shortcut);
        case 3: return pointwise_panel<3>(panels, first, in, pixels, out, out_pixels, shortcut);
    }
}

// STRIDE and DILATION 0: any, as they are given.
template <int PIXELS, int STRIDE, int DILATION>
void depthwise_tile(const float* const rows[3], const float* weights, int stride, int dilation, float* out, Clamp to) {
    Vector sums[PIXELS];
    const Vector bias = load(weights + 9 * LANES);
    UNROLL
    for (int p = 0; p < PIXELS; p++) sums[p] = bias;
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        Vector w[3];
        UNROLL
        for (int kx = 0; kx < 3; kx++) w[kx] = load(weights + (3 * ky + kx) * LANES);
        if constexpr (STRIDE != 0) {
            // Each input is loaded once for all results that it is part of.
            constexpr int inputs = (PIXELS - 1) * STRIDE + 2 * DILATION + 1;
            UNROLL
            for (int i = 0; i < inputs; i++) {
                Vector value = load(rows[ky] + i * LANES);
                keep_in_register(value);
                UNROLL
                for (int kx = 0; kx < 3; kx++) {
                    const int p = (i - kx * DILATION) / STRIDE;
                    if (i >= kx * DILATION && (i - kx * DILATION) % STRIDE == 0 && p < PIXELS) sums[p] += value * w[kx];
                }
            }
        } else {
            UNROLL
            for (int kx = 0; kx < 3; kx++)
                UNROLL
                for (int p = 0; p < PIXELS; p++)
                    sums[p] += w[kx] * load(rows[ky] + (p * stride + kx * dilation) * LANES);
        }
    }
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) store(out + p * LANES, clamp(sums[p], low, high));
}

constexpr int MOST_FILTERED = 8;

template <int PIXELS>
void depthwise_of(int pixels, const float* const rows[3], const float* weights, int stride, int dilation, float* out,
                  Clamp to) {
    if constexpr (PIXELS > 0) {
        if (pixels != PIXELS) return depthwise_of<PIXELS - 1>(pixels, rows, weights, stride, dilation, out, to);
        if (stride == 1 && dilation == 1) return depthwise_tile<PIXELS, 1, 1>(rows, weights, 1, 1, out, to);
        if (stride == 2 && dilation == 1) return depthwise_tile<PIXELS, 2, 1>(rows, weights, 2, 1, out, to);
        depthwise_tile<PIXELS, 0, 0>(rows, weights, stride, dilation, out, to);
    }
}

void depthwise(const float* const rows[3], const float* weights, int stride, int dilation, int pixels, float* out,
               Clamp to) {
    const float* at[3] = {rows[0], rows[1], rows[2]};
    for (int tiles = (pixels + MOST_FILTERED - 1) / MOST_FILTERED; tiles > 0; tiles--) {
        const int some = (pixels + tiles - 1) / tiles;
        depthwise_of<MOST_FILTERED>(some, at, weights, stride, dilation, out, to);
        pixels -= some;
        out += some * LANES;
        for (auto& row : at) row += some * stride * LANES;
    }
}

template <int PIXELS, int BLOCKS>
void stem_tile(const Panels& panels, const float* weights, int first, const float* const rows[9], int x, Run out) {
    Vector sums[PIXELS][BLOCKS];
    UNROLL
    for (int n = 0; n < BLOCKS; n++) {
        const Vector bias = load(panels.bias + (first + n) * LANES);
        UNROLL
        for (int p = 0; p < PIXELS; p++) sums[p][n] = bias;
    }
    for (int row = 0; row < 9; row++) {
        const float* from = rows[row] + 2 * x;
        UNROLL
        for (int kx = 0; kx < 3; kx++, weights += BLOCKS * LANES)
            multiply_channel<PIXELS, BLOCKS, 2>(sums, from + kx, weights);
    }
    const Vector low = broadcast(panels.clamp.low), high = broadcast(panels.clamp.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        UNROLL
        for (int n = 0; n < BLOCKS; n++)
            store(out.at + (x + p) * LANES + n * out.block, clamp(sums[p][n], low, high));
}

template <int BLOCKS, int PIXELS>
void stem_of(int pixels, const Panels& panels, const float* weights, int first, const float* const rows[9], int x,
             Run out) {
    if constexpr (PIXELS > 0) {
        if (pixels == PIXELS) return stem_tile<PIXELS, BLOCKS>(panels, weights, first, rows, x, out);
        stem_of<BLOCKS, PIXELS - 1>(pixels, panels, weights, first, rows, x, out);
    }
}

template <int BLOCKS>
void stem_panel(const Panels& panels, int first, const float* const rows[9], int pixels, Run out) {
    const float* weights = panels.values + static_cast<std::ptrdiff_t>(first) * 27 * LANES;
    constexpr int most = most_pixels(BLOCKS);
    int x = 0;
    for (int tiles = (pixels + most - 1) / most; tiles > 0; tiles--) {
        const int some = (pixels - x + tiles - 1) / tiles;
        stem_of<BLOCKS, most>(some, panels, weights, first, rows, x, out);
        x += some;
    }
}

void stem(const Panels& panels, int panel, const float* const rows[9], int pixels, Run out) {
    const auto [first, blocks] = panel_at(panels.out_blocks, panel);
    out.at += first * out.block;
    switch (blocks) {
        case 1: return stem_panel<1>(panels, first, rows, pixels, out);
        case 2: return stem_panel<2>(panels, first, rows, pixels, out);
        case 3: return stem_panel<3>(panels, first, rows, pixels, out);
    }
}

void enlarge(const float* above, const float* below, float down, const int* left, const int* right,
             const float* across, int pixels, const float* on, float* out, Clamp to) {
    const Vector low = broadcast(to.low), high = broadcast(to.high), share = broadcast(down);
    for (int p = 0; p < pixels; p++) {
        const Vector l = load(above + left[p] * LANES), r = load(above + right[p] * LANES);
        const Vector below_l = load(below + left[p] * LANES), below_r = load(below + right[p] * LANES);
        const Vector first = l + (below_l - l) * share, second = r + (below_r - r) * share;
        const Vector value = first + (second - first) * broadcast(across[p]) + load(on + p * LANES);
        store(out + p * LANES, clamp(value, low, high));
    }
}

void mean(const float* in, int pixels, float* out) {
    Vector sum[4] = {};
    int p = 0;
    for (; p + 4 <= pixels; p += 4)
        for (int i = 0; i < 4; i++) sum[i] += load(in + (p + i) * LANES);
    for (; p < pixels; p++) sum[0] += load(in + p * LANES);
    store(out, ((sum[0] + sum[1]) + (sum[2] + sum[3])) * broadcast(1.0f / static_cast<float>(pixels)));
}

}  // namespace

extern const Kernels KERNELS_TABLE;
const Kernels KERNELS_TABLE = {pointwise, depthwise, stem, enlarge, mean, KERNELS_NAME};

}  // namespace mobilenetv2
