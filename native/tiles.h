// How kernels cut their work into tiles of registers; what those of floats and of levels share.
// As vectors.h, compiled once for each kind of processor.
#pragma once

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

// Where the results of a panel begin in a map; nowhere if that is not given.
template <typename T>
inline Run<T> of_panel(Run<T> map, Panel at) {
    return {map.at ? map.at + at.first * map.block : nullptr, map.block};
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
    Fetch(const Ahead (&parts)[2], int steps) : at_(parts[0].at), end_(at_ + parts[0].bytes), then_(parts[1]) {
        if (at_) lines_ = static_cast<int>(((parts[0].bytes + parts[1].bytes) / LINE + steps) / steps);
    }
    // The next step begins.
    ALWAYS_INLINE void step() {
        from_ = at_;
        at_ += lines_ * LINE;
        if (at_ >= end_ && then_.at) {
            at_ = then_.at;
            end_ = at_ + then_.bytes;
            then_ = {};
        }
    }
    // The share of part k of SHARES of a step. What lies behind the end is fetched in vain, at most a step once.
    template <int SHARES>
    ALWAYS_INLINE void share(int k) const {
        for (int line = k; line < lines_; line += SHARES) __builtin_prefetch(from_ + line * LINE, 0, 2);
    }

  private:
    static constexpr int LINE = 64;
    const char *at_, *end_, *from_ = nullptr;
    Ahead then_;
    int lines_ = 0;
};

// The stem's sums of a tile whose first pixel is x.
template <int PIXELS, int VECTORS>
ALWAYS_INLINE void multiply_stem(Vector (&sums)[PIXELS][VECTORS], const Panels<float>& panels, Panel at,
                                 const float* const rows[9], int x) {
    start_sums(sums, panels.bias + at.first * LANES);
    const float* weights = panels.values + static_cast<std::ptrdiff_t>(at.first) * 27 * LANES;
    for (int row = 0; row < 9; row++) {
        const float* from = rows[row] + 2 * x;
        keep_in_register(from);
        UNROLL
        for (int kx = 0; kx < 3; kx++, weights += VECTORS * WIDTH)
            multiply_channel<PIXELS, VECTORS, 2>(sums, from + kx, weights);
    }
}

// Between four pixels of a map: `down` and `across` of the way.
ALWAYS_INLINE Block enlarged_pixel(const float* above, const float* below, float down, int left, int right, float across) {
    const Block l = load<1>(above + left * LANES), r = load<1>(above + right * LANES);
    const Block below_l = load<1>(below + left * LANES), below_r = load<1>(below + right * LANES);
    const Block first = l + (below_l - l) * broadcast<1>(down), second = r + (below_r - r) * broadcast<1>(down);
    return first + (second - first) * broadcast<1>(across);
}

}  // namespace
}  // namespace mobilenetv2
