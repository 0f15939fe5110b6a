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

template <int N>
struct Constant {
    static constexpr int value = N;
};

// tile(Constant<pixels>, first pixel) for tiles of at most MOST pixels, all of one size or of one pixel less.
template <int SIZE, typename Tile>
inline void tiles_of(int size, int& first, int end, const Tile& tile) {
    if constexpr (SIZE > 0) {
        if (size != SIZE) return tiles_of<SIZE - 1>(size, first, end, tile);
        for (; first < end; first += SIZE) tile(Constant<SIZE>{}, first);
    }
}
template <int MOST, typename Tile>
inline void in_tiles(int pixels, const Tile& tile) {
    const int tiles = (pixels + MOST - 1) / MOST, size = (pixels + tiles - 1) / tiles, less = size * tiles - pixels;
    int first = 0;
    tiles_of<MOST>(size, first, pixels - less * (size - 1), tile);
    tiles_of<MOST>(size - 1, first, pixels, tile);
}

// panel(Constant<blocks>, first block).
template <typename Function>
inline void on_panel(const Panels& panels, int index, const Function& panel) {
    const auto [first, blocks] = panel_at(panels.out_blocks, index);
    switch (blocks) {
        case 1: return panel(Constant<1>{}, first);
        case 2: return panel(Constant<2>{}, first);
        case 3: return panel(Constant<3>{}, first);
    }
}

template <int PIXELS, int BLOCKS>
inline void start_sums(Vector (&sums)[PIXELS][BLOCKS], const float* bias) {
    UNROLL
    for (int n = 0; n < BLOCKS; n++) {
        const Vector value = load(bias + n * LANES);
        UNROLL
        for (int p = 0; p < PIXELS; p++) sums[p][n] = value;
    }
}

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

// Spreads what is to be fetched evenly over some steps, since a processor waits when too many lines are on their way.
class Fetch {
  public:
    Fetch(const Ahead (&parts)[2], int steps) : at_(parts[0].at), end_(at_ + parts[0].floats), then_(parts[1]) {
        step_ = ((parts[0].floats + parts[1].floats) / LINE + steps) / steps * LINE;
    }
    void some() {
        if (at_ == end_) {
            at_ = then_.at;
            end_ = at_ + then_.floats;
            then_ = {end_, 0};
        }
        for (const float* stop = end_ - at_ < step_ ? end_ : at_ + step_; at_ < stop; at_ += LINE)
            __builtin_prefetch(at_, 0, 2);
    }

  private:
    static constexpr int LINE = 16;  // floats
    const float *at_, *end_;
    Ahead then_;
    std::ptrdiff_t step_;
};

// What becomes of a tile's results. Known when this is compiled, as with few input channels it takes a fifth of the time.
enum class Result { IN_A_ROW, SCATTERED, ADDED };

// out and shortcut: at the tile's first pixel and block; out_pixels: of its first pixel.
template <Result RESULT, int PIXELS, int BLOCKS>
inline void finish_sums(const Vector (&sums)[PIXELS][BLOCKS], Clamp to, Run out, const int* out_pixels,
                        ConstRun shortcut) {
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        float* pixel = out.at + (RESULT == Result::SCATTERED ? out_pixels[p] : p * LANES);
        UNROLL
        for (int n = 0; n < BLOCKS; n++) {
            Vector value = clamp(sums[p][n], low, high);
            if (RESULT == Result::ADDED) value += load(shortcut.at + p * LANES + n * shortcut.block);
            store(pixel + n * out.block, value);
        }
    }
}

template <Result RESULT, bool FETCHES, int BLOCKS>
void pointwise_panel(const Panels& panels, int first, ConstRun in, int pixels, Run out, const int* out_pixels,
                     ConstRun shortcut) {
    const float* panel = panels.values + static_cast<std::ptrdiff_t>(first) * panels.in_blocks * LANES * LANES;
    Fetch fetch(panels.ahead, (pixels + most_pixels(BLOCKS) - 1) / most_pixels(BLOCKS) * panels.in_blocks);
    in_tiles<most_pixels(BLOCKS)>(pixels, [&](auto size, int x) {
        Vector sums[size.value][BLOCKS];
        start_sums(sums, panels.bias + first * LANES);
        const float *from = in.at + x * LANES, *weights = panel;
        for (int block = 0; block < panels.in_blocks; block++, from += in.block) {
            if constexpr (FETCHES) fetch.some();
            UNROLL
            for (int k = 0; k < LANES; k++, weights += BLOCKS * LANES)
                multiply_channel<size.value, BLOCKS, LANES>(sums, from + k, weights);
        }
        const bool scattered = RESULT == Result::SCATTERED;
        finish_sums<RESULT>(sums, panels.clamp, {scattered ? out.at : out.at + x * LANES, out.block},
                            scattered ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

template <Result RESULT, int BLOCKS>
auto pointwise_on(const Panels& panels) {
    return panels.ahead[0].at ? pointwise_panel<RESULT, true, BLOCKS> : pointwise_panel<RESULT, false, BLOCKS>;
}

void pointwise(const Panels& panels, int panel, ConstRun in, int pixels, Run out, const int* out_pixels,
               ConstRun shortcut) {
    on_panel(panels, panel, [&](auto blocks, int first) {
        auto run = pointwise_on<Result::IN_A_ROW, blocks.value>(panels);
        if (out_pixels) run = pointwise_on<Result::SCATTERED, blocks.value>(panels);
        if (shortcut.at) run = pointwise_on<Result::ADDED, blocks.value>(panels);
        run(panels, first, in, pixels, {out.at + first * out.block, out.block}, out_pixels,
            {shortcut.at ? shortcut.at + first * shortcut.block : nullptr, shortcut.block});
    });
}

// STRIDE 0: any stride and dilation, as they are given; else that stride, and no dilation.
template <int PIXELS, int STRIDE>
inline void depthwise_tile(const float* const rows[3], std::ptrdiff_t at, const float* weights, int stride, int dilation,
                           float* out, Clamp to) {
    Vector sums[PIXELS];
    const Vector bias = load(weights + 9 * LANES);
    UNROLL
    for (int p = 0; p < PIXELS; p++) sums[p] = bias;
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        const float* row = rows[ky] + at;
        Vector w[3];
        UNROLL
        for (int kx = 0; kx < 3; kx++) w[kx] = load(weights + (3 * ky + kx) * LANES);
        if constexpr (STRIDE != 0) {
            // Each input is loaded once for all results that it is part of.
            UNROLL
            for (int i = 0; i < (PIXELS - 1) * STRIDE + 3; i++) {
                Vector value = load(row + i * LANES);
                keep_in_register(value);
                UNROLL
                for (int kx = 0; kx < 3; kx++) {
                    const int p = (i - kx) / STRIDE;
                    if (i >= kx && (i - kx) % STRIDE == 0 && p < PIXELS) sums[p] += value * w[kx];
                }
            }
        } else {
            UNROLL
            for (int kx = 0; kx < 3; kx++)
                UNROLL
                for (int p = 0; p < PIXELS; p++)
                    sums[p] += w[kx] * load(row + (p * stride + kx * dilation) * LANES);
        }
    }
    const Vector low = broadcast(to.low), high = broadcast(to.high);
    UNROLL
    for (int p = 0; p < PIXELS; p++) store(out + p * LANES, clamp(sums[p], low, high));
}

template <int STRIDE>
void depthwise_row(const float* const rows[3], const float* weights, int stride, int dilation, int pixels, float* out,
                   Clamp to) {
    in_tiles<8>(pixels, [&](auto size, int x) {
        depthwise_tile<size.value, STRIDE>(rows, x * stride * LANES, weights, stride, dilation, out + x * LANES, to);
    });
}

void depthwise(const float* const rows[3], const float* weights, int stride, int dilation, int pixels, float* out,
               Clamp to) {
    auto run = depthwise_row<0>;
    if (dilation == 1 && stride == 1) run = depthwise_row<1>;
    if (dilation == 1 && stride == 2) run = depthwise_row<2>;
    run(rows, weights, stride, dilation, pixels, out, to);
}

// Not inlined: with its tile inside, GCC keeps the panel's loop variables in registers rather than sums.
template <int PIXELS, int BLOCKS>
[[gnu::noinline]] void stem_tile(const Panels& panels, int first, const float* const rows[9], int x, Run out) {
    Vector sums[PIXELS][BLOCKS];
    start_sums(sums, panels.bias + first * LANES);
    const float* weights = panels.values + static_cast<std::ptrdiff_t>(first) * 27 * LANES;
    for (int row = 0; row < 9; row++) {
        const float* from = rows[row] + 2 * x;
        UNROLL
        for (int kx = 0; kx < 3; kx++, weights += BLOCKS * LANES)
            multiply_channel<PIXELS, BLOCKS, 2>(sums, from + kx, weights);
    }
    finish_sums<Result::IN_A_ROW>(sums, panels.clamp, out, nullptr, {nullptr, 0});
}

void stem(const Panels& panels, int panel, const float* const rows[9], int pixels, Run out) {
    on_panel(panels, panel, [&](auto blocks, int first) {
        in_tiles<most_pixels(blocks.value)>(pixels, [&](auto size, int x) {
            stem_tile<size.value, blocks.value>(panels, first, rows, x,
                                                {out.at + first * out.block + x * LANES, out.block});
        });
    });
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

template <int BLOCKS>
void dense_tile(const float* weights, const float* in, int inputs, float* to) {
    Vector sums[BLOCKS];
    UNROLL
    for (int n = 0; n < BLOCKS; n++) sums[n] = load(to + n * LANES);
    for (int k = 0; k < inputs; k++, weights += BLOCKS * LANES) {
        const Vector value = broadcast(in[k]);
        UNROLL
        for (int n = 0; n < BLOCKS; n++) sums[n] += value * load(weights + n * LANES);
    }
    UNROLL
    for (int n = 0; n < BLOCKS; n++) store(to + n * LANES, sums[n]);
}

void dense(const float* weights, const float* in, int inputs, int out_blocks, float* sums) {
    int first = 0;
    for (; first + 8 <= out_blocks; first += 8)
        dense_tile<8>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs, sums + first * LANES);
    for (; first < out_blocks; first++)
        dense_tile<1>(weights + static_cast<std::ptrdiff_t>(first) * inputs * LANES, in, inputs, sums + first * LANES);
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
const Kernels KERNELS_TABLE = {pointwise, depthwise, stem, enlarge, dense, mean, KERNELS_NAME};

}  // namespace mobilenetv2
