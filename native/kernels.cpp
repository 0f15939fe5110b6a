// Compiled once for each kind of processor; KERNELS_NAME is what it is called, KERNELS_TABLE the table's own name.
#include "kernels.h"

#include "vectors.h"

namespace mobilenetv2 {
namespace {

// Pixels and vectors of outputs of a tile are chosen for 16 registers: 6 x 2 and 4 x 3 accumulators are 12, beside which
// the weights of one input channel and one broadcast value stay in registers too. All do 12 multiply-adds per input channel
// with 8 or 7 loads, so the multipliers are the limit. Down to 4 pixels of 2 vectors there are the 8 sums that two
// multipliers with 4 cycles of latency need; so a run is cut into tiles of nearly the same size.
// AVX-512 has 32 registers: 14 x 2 accumulators, as widths of maps of 224 pixels are multiples of 7.
#if defined(__AVX512F__)
constexpr Panelling PANELLING{4, 0, 2};
constexpr int most_pixels(int) { return 14; }
// GCC 12 has too few registers for 14 here.
constexpr int stem_pixels(int) { return 8; }
#else
constexpr Panelling PANELLING{2, 1, 1};
constexpr int most_pixels(int vectors) { return vectors == 3 ? 4 : vectors == 2 ? 6 : 8; }
constexpr int stem_pixels(int vectors) { return most_pixels(vectors); }
#endif
constexpr int MOST_VECTORS = (PANELLING.widest() + PANELLING.together - 1) / PANELLING.together;
// Floats in a vector.
constexpr int WIDTH = SPAN * LANES;

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
    if (pixels == 0) return;
    const int tiles = (pixels + MOST - 1) / MOST, size = (pixels + tiles - 1) / tiles, less = size * tiles - pixels;
    int first = 0;
    tiles_of<MOST>(size, first, pixels - less * (size - 1), tile);
    tiles_of<MOST>(size - 1, first, pixels, tile);
}

// panel(Constant<vectors>, the panel).
template <int VECTORS = MOST_VECTORS, typename Function>
inline void on_panel(Panel at, const Function& panel) {
    if constexpr (VECTORS > 0) {
        if (PANELLING.room(at.blocks) == VECTORS * PANELLING.together) return panel(Constant<VECTORS>{}, at);
        return on_panel<VECTORS - 1>(at, panel);
    }
}

template <int PIXELS, int VECTORS>
ALWAYS_INLINE void start_sums(Vector (&sums)[PIXELS][VECTORS], const float* bias) {
    UNROLL
    for (int n = 0; n < VECTORS; n++) {
        const Vector value = load(bias + n * WIDTH);
        UNROLL
        for (int p = 0; p < PIXELS; p++) sums[p][n] = value;
    }
}

// One input channel of a tile: STEP floats lie between its values of two pixels.
template <int PIXELS, int VECTORS, int STEP>
ALWAYS_INLINE void multiply_channel(Vector (&sums)[PIXELS][VECTORS], const float* in, const float* weights) {
    Vector w[VECTORS];
    UNROLL
    for (int n = 0; n < VECTORS; n++) {
        w[n] = load(weights + n * WIDTH);
        keep_in_register(w[n]);
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        Vector value = broadcast(in[p * STEP]);
        // With three vectors there are four pixels, and the values may be folded.
        if (VECTORS == 2) keep_in_register(value);
        UNROLL
        for (int n = 0; n < VECTORS; n++) {
            sums[p][n] += value * w[n];
            if (VECTORS == 2) keep_in_register(sums[p][n]);
        }
    }
}

// Spreads what is to be fetched evenly over the input channels of all tiles, as a processor waits when too many lines are
// on their way at once.
class Fetch {
  public:
    // steps: of LANES input channels each.
    Fetch(const Ahead (&parts)[2], int steps) : at_(parts[0].at), end_(at_ + parts[0].floats), then_(parts[1]) {
        lines_ = static_cast<int>(((parts[0].floats + parts[1].floats) / LINE + steps) / steps);
    }
    // The next step begins.
    ALWAYS_INLINE void step() {
        from_ = at_;
        at_ += lines_ * LINE;
        if (at_ >= end_ && then_.at) {
            at_ = then_.at;
            end_ = at_ + then_.floats;
            then_ = {};
        }
    }
    // Its share of one channel. What lies behind the end is fetched in vain, at most a step once.
    ALWAYS_INLINE void channel(int k) const {
        for (int line = k; line < lines_; line += LANES) __builtin_prefetch(from_ + line * LINE, 0, 2);
    }

  private:
    static constexpr int LINE = 16;  // floats
    const float *at_, *end_, *from_ = nullptr;
    Ahead then_;
    int lines_;
};

// What becomes of a tile's results. Known when this is compiled, as with few input channels it takes a fifth of the time.
enum class Result { IN_A_ROW, SCATTERED, ADDED };

// out and shortcut: at the tile's first pixel and block; out_pixels: of its first pixel. blocks: that there are, as the last
// vector may hold fewer.
template <Result RESULT, int PIXELS, int VECTORS>
ALWAYS_INLINE void finish_sums(const Vector (&sums)[PIXELS][VECTORS], int blocks, Clamp to, Run out, const int* out_pixels,
                        ConstRun shortcut) {
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

template <Result RESULT, bool FETCHES, int VECTORS>
void pointwise_panel(const Panels& panels, Panel at, ConstRun in, int pixels, Run out, const int* out_pixels,
                     ConstRun shortcut) {
    const float* panel = panels.values + static_cast<std::ptrdiff_t>(at.first) * panels.in_blocks * LANES * LANES;
    Fetch fetch(panels.ahead, (pixels + most_pixels(VECTORS) - 1) / most_pixels(VECTORS) * panels.in_blocks);
    in_tiles<most_pixels(VECTORS)>(pixels, [&](auto size, int x) {
        Vector sums[size.value][VECTORS];
        start_sums(sums, panels.bias + at.first * LANES);
        const float *from = in.at + x * LANES, *weights = panel;
        for (int block = 0; block < panels.in_blocks; block++, from += in.block) {
            if constexpr (FETCHES) fetch.step();
            UNROLL
            for (int k = 0; k < LANES; k++, weights += VECTORS * WIDTH) {
                if constexpr (FETCHES) fetch.channel(k);
                multiply_channel<size.value, VECTORS, LANES>(sums, from + k, weights);
            }
        }
        const bool scattered = RESULT == Result::SCATTERED;
        finish_sums<RESULT>(sums, at.blocks, panels.clamp, {scattered ? out.at : out.at + x * LANES, out.block},
                            scattered ? out_pixels + x : nullptr,
                            {RESULT == Result::ADDED ? shortcut.at + x * LANES : nullptr, shortcut.block});
    });
}

template <Result RESULT, int VECTORS>
auto pointwise_on(const Panels& panels) {
    return panels.ahead[0].at ? pointwise_panel<RESULT, true, VECTORS> : pointwise_panel<RESULT, false, VECTORS>;
}

void pointwise(const Panels& panels, int panel, ConstRun in, int pixels, Run out, const int* out_pixels,
               ConstRun shortcut) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        auto run = pointwise_on<Result::IN_A_ROW, vectors.value>(panels);
        if (out_pixels) run = pointwise_on<Result::SCATTERED, vectors.value>(panels);
        if (shortcut.at) run = pointwise_on<Result::ADDED, vectors.value>(panels);
        run(panels, at, in, pixels, {out.at + at.first * out.block, out.block}, out_pixels,
            {shortcut.at ? shortcut.at + at.first * shortcut.block : nullptr, shortcut.block});
    });
}

// The results of some pixels, a block or two neighbours of them in each vector.
// STRIDE 0: any stride and dilation, as they are given; else that stride, and no dilation.
template <int BLOCKS, int VECTORS, int STRIDE>
ALWAYS_INLINE void depthwise_tile(const float* const rows[3], std::ptrdiff_t at, const float* weights, int stride, int dilation,
                           float* out, Clamp to) {
    constexpr int STEP = STRIDE * BLOCKS;
    using V = typename Floats<BLOCKS>::Type;
    V sums[VECTORS];
    const V bias = repeat<BLOCKS>(weights + 9 * LANES);
    UNROLL
    for (int p = 0; p < VECTORS; p++) sums[p] = bias;
    UNROLL
    for (int ky = 0; ky < 3; ky++) {
        const float* row = rows[ky] + at;
        V w[3];
        UNROLL
        for (int kx = 0; kx < 3; kx++) w[kx] = repeat<BLOCKS>(weights + (3 * ky + kx) * LANES);
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
void depthwise_row(const float* const rows[3], const float* weights, int stride, int dilation, int pixels, float* out,
                   Clamp to) {
    in_tiles<8>(pixels / BLOCKS, [&](auto size, int x) {
        depthwise_tile<BLOCKS, size.value, STRIDE>(rows, x * BLOCKS * stride * LANES, weights, stride, dilation,
                                              out + x * BLOCKS * LANES, to);
    });
    if (const int rest = pixels - pixels % BLOCKS; rest < pixels)
        depthwise_tile<1, 1, STRIDE>(rows, rest * stride * LANES, weights, stride, dilation, out + rest * LANES, to);
}

void depthwise(const float* const rows[3], const float* weights, int stride, int dilation, int pixels, float* out,
               Clamp to) {
    auto run = stride == 1 ? depthwise_row<SPAN, 0> : depthwise_row<1, 0>;
    if (dilation == 1 && stride == 1) run = depthwise_row<SPAN, 1>;
    if (dilation == 1 && stride == 2) run = depthwise_row<1, 2>;
    run(rows, weights, stride, dilation, pixels, out, to);
}

// Not inlined: with its tile inside, GCC keeps the panel's loop variables in registers rather than sums.
template <int PIXELS, int VECTORS>
[[gnu::noinline]] void stem_tile(const Panels& panels, Panel at, const float* const rows[9], int x, Run out) {
    Vector sums[PIXELS][VECTORS];
    start_sums(sums, panels.bias + at.first * LANES);
    const float* weights = panels.values + static_cast<std::ptrdiff_t>(at.first) * 27 * LANES;
    for (int row = 0; row < 9; row++) {
        const float* from = rows[row] + 2 * x;
        keep_in_register(from);
        UNROLL
        for (int kx = 0; kx < 3; kx++, weights += VECTORS * WIDTH)
            multiply_channel<PIXELS, VECTORS, 2>(sums, from + kx, weights);
    }
    finish_sums<Result::IN_A_ROW>(sums, at.blocks, panels.clamp, out, nullptr, {nullptr, 0});
}

void stem(const Panels& panels, int panel, const float* const rows[9], int pixels, Run out) {
    on_panel(PANELLING.at(panels.out_blocks, panel), [&](auto vectors, Panel at) {
        in_tiles<stem_pixels(vectors.value)>(pixels, [&](auto size, int x) {
            stem_tile<size.value, vectors.value>(panels, at, rows, x,
                                                 {out.at + at.first * out.block + x * LANES, out.block});
        });
    });
}

void enlarge(const float* above, const float* below, float down, const int* left, const int* right,
             const float* across, int pixels, const float* on, float* out, Clamp to) {
    const Block low = broadcast<1>(to.low), high = broadcast<1>(to.high), share = broadcast<1>(down);
    for (int p = 0; p < pixels; p++) {
        const Block l = load<1>(above + left[p] * LANES), r = load<1>(above + right[p] * LANES);
        const Block below_l = load<1>(below + left[p] * LANES), below_r = load<1>(below + right[p] * LANES);
        const Block first = l + (below_l - l) * share, second = r + (below_r - r) * share;
        const Block value = first + (second - first) * broadcast<1>(across[p]) + load<1>(on + p * LANES);
        store(out + p * LANES, clamp(value, low, high));
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

void mean(const float* in, int pixels, float* out) {
    Block sum[4] = {};
    int p = 0;
    for (; p + 4 <= pixels; p += 4)
        for (int i = 0; i < 4; i++) sum[i] += load<1>(in + (p + i) * LANES);
    for (; p < pixels; p++) sum[0] += load<1>(in + p * LANES);
    store(out, ((sum[0] + sum[1]) + (sum[2] + sum[3])) * broadcast<1>(1.0f / static_cast<float>(pixels)));
}

}  // namespace

extern const Kernels KERNELS_TABLE;
const Kernels KERNELS_TABLE = {pointwise, depthwise, stem, enlarge, dense, mean, PANELLING, KERNELS_NAME};

}  // namespace mobilenetv2
