// The loops that all of the time goes into: 1x1 convolutions, 3x3 depthwise convolutions, the stem's 3x3; for maps of
// floats, and for maps of levels of 8 bits.
//
// A pixel is eight channels side by side, LANES numbers. A map is rows of channel blocks of pixels; kernels are told
// the distance of two blocks, so it may have any order in memory. What a step keeps to itself, which is what is expanded and
// filtered in a block, is alike, but with as many channels side by side as a register holds: `lanes` of the kernels. There the
// last pixels may have channels that the block does not have; they are finite, and their weights are 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mobilenetv2 {

constexpr int LANES = 8;

// What a map holds: floats, or levels, of which `zero` stands for 0 and two neighbours are `scale` apart.
using Level = std::uint8_t;

// The numbers that go with them. TOGETHER: input channels whose weights for one output lie side by side.
template <typename T>
struct Numbers;
template <>
struct Numbers<float> {
    using Weight = float;
    using Sum = float;
    static constexpr int TOGETHER = 1;
};
template <>
struct Numbers<Level> {
    using Weight = std::int8_t;
    using Sum = std::int32_t;
    static constexpr int TOGETHER = 4;
};

struct Clamp {
    float low, high;
};

// What will be read next, from memory far away: fetched into the second cache while multiplications go on, which leave
// memory idle. The processor's own guesses end with each page.
struct Ahead {
    const char* at = nullptr;
    std::ptrdiff_t bytes = 0;
};

// Weights of a 1x1 convolution or dense layer, in panels of output blocks: `values` holds, panel by panel, for each input
// channel (or TOGETHER of them) the weights of the panel's output channels; `bias` and `scale` one for each output channel.
// All have room for whole registers. A result is the sum of products (of levels: times the scale), the bias and the
// shortcut (of levels: times its factor), clamped; of floats the shortcut is added to what the clamp leaves.
template <typename T>
struct Panels {
    const typename Numbers<T>::Weight* values;
    const float* bias;
    const float* scale;  // of levels only
    int in_blocks;       // input channels / 8
    int out_blocks;      // output channels / 8
    Clamp clamp;
    float shortcut = 1;
    Ahead ahead[2]{};
};

// How kernels divide output blocks into panels: `most` each; what is left over is a panel of its own, or up to `joins`
// blocks of it belong to the last one. `together` blocks share a register, so a panel has room for a multiple of them.
struct Panel {
    int first, blocks;
};
struct Panelling {
    int most, joins, together;
    constexpr int count(int out_blocks) const {
        const int rest = out_blocks % most, whole = out_blocks / most;
        return whole + (rest > (whole ? joins : 0));
    }
    constexpr Panel at(int out_blocks, int index) const {
        const bool last = index == count(out_blocks) - 1;
        return {most * index, last ? out_blocks - most * index : most};
    }
    constexpr int widest() const { return most + joins; }
    constexpr int room(int blocks) const { return (blocks + together - 1) / together * together; }
};

// The 3x3 filters of one channel block. Of floats, those of `lanes` channels lie in as many as that takes: one tap of all
// channels after the other, and then the biases.
template <typename T>
struct FilterBlock;
template <>
struct FilterBlock<float> {
    float values[10 * LANES];
};
template <>
struct FilterBlock<Level> {
    // Row by row the taps of each channel side by side, and a 0.
    std::int8_t taps[3][LANES][4];
    float scale[LANES], bias[LANES];
};

// Where a run of pixels is read or written: `block` numbers from one channel block to the next.
template <typename T>
struct Run {
    T* at;
    std::ptrdiff_t block;
};

template <typename T>
struct Kernels {
    // One panel of a 1x1 convolution on a run of pixels of a map.
    void (*pointwise)(const Panels<T>&, int panel, Run<const T> in, int pixels, Run<T> out);
    // The same, from a map to what is to be filtered. out_pixels: the place of each pixel behind out.at in numbers, or null
    // where they follow each other.
    void (*expand)(const Panels<T>&, int panel, Run<const T> in, int pixels, Run<T> out, const int* out_pixels);
    // The same, from what was filtered to a map. shortcut: in the order of out; at null nothing is.
    void (*project)(const Panels<T>&, int panel, Run<const T> in, int pixels, Run<T> out, Run<const T> shortcut);
    // Both with floats as results among levels; null for floats.
    void (*pointwise_raw)(const Panels<T>&, int panel, Run<const T> in, int pixels, Run<float> out);
    void (*project_raw)(const Panels<T>&, int panel, Run<const T> in, int pixels, Run<float> out);
    // `lanes` channels of some rows of a depthwise convolution: rows[0..2] are the three input rows of the first at the place
    // of the first tap, those of the next lie `in_row` behind; dilation pixels lie between taps. Of levels up to 64 bytes
    // behind a row are read, too.
    void (*depthwise)(const T* const rows[3], std::ptrdiff_t in_row, const FilterBlock<T>*, int stride, int dilation,
                      int pixels, int count, T* out, std::ptrdiff_t out_row, Clamp);
    // One panel of the stem on a row: rows[3 * c + ky] is an input row of channel c, its first tap at [0]. wide: to what is to
    // be filtered, not to a map. Weights are packed as of a 1x1 convolution with 27 input channels in the order c, ky, kx.
    void (*stem)(const Panels<float>&, int panel, const float* const rows[9], int pixels, Run<T> out, bool wide);
    // One channel block of a row of a map enlarged by lines between its pixels, on another map. above, below: the two rows
    // that the result lies between, `down` of the way to the second; left, right, across: the same of each pixel.
    // The result, before it is clamped, is multiplied by scale, and offset is added.
    void (*enlarge)(const float* above, const float* below, float down, const int* left, const int* right,
                    const float* across, int pixels, const float* on, T* out, float scale, float offset, Clamp);
    // Some input channels of a dense layer: adds their share to the sums of all out_blocks. weights: of eight output blocks
    // together, then of single ones, input channel by input channel (or TOGETHER of them).
    void (*dense)(const typename Numbers<T>::Weight* weights, const T* in, int inputs, int out_blocks,
                  typename Numbers<T>::Sum* sums);
    // Adds the pixels of one channel block to its eight sums.
    void (*sum)(const T* in, int pixels, typename Numbers<T>::Sum* sums);
    Panelling panelling;
    int lanes;
    const char* name;
    // Multiply-adds of floats as fast as the processor can, for comparison; how many operations that were. Null for levels.
    double (*burst)(int rounds);
};

// Those that this processor runs, the fastest first.
template <typename T>
std::vector<const Kernels<T>*> all_kernels();

}  // namespace mobilenetv2
