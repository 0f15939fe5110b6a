// The three loops that all of the time goes into: 1x1 convolutions, 3x3 depthwise convolutions, the stem's 3x3.
//
// A pixel is eight channels side by side, LANES floats. A map is rows of channel blocks of pixels; kernels are told
// the distance of two blocks, so it may have any order in memory.
#pragma once

#include <cstddef>
#include <vector>

namespace mobilenetv2 {

constexpr int LANES = 8;

struct Clamp {
    float low, high;
};

// What will be read next, from memory far away: fetched into the second cache while multiplications go on, which leave
// memory idle. The processor's own guesses end with each page.
struct Ahead {
    const float* at = nullptr;
    std::ptrdiff_t floats = 0;
};

// Weights of a 1x1 convolution or dense layer, in panels of output blocks: `values` holds, panel by panel, for each input
// channel the weights of the panel's output channels; `bias` one for each output channel. Both have room for whole registers.
struct Panels {
    const float* values;
    const float* bias;
    int in_blocks;   // input channels / 8
    int out_blocks;  // output channels / 8
    Clamp clamp;
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

// Where a run of pixels is read or written: `block` floats from one channel block to the next.
struct Run {
    float* at;
    std::ptrdiff_t block;
};
struct ConstRun {
    const float* at;
    std::ptrdiff_t block;
};

struct Kernels {
    // One panel of a 1x1 convolution on a run of pixels. out_pixels: the place of each pixel behind out.at in floats, or
    // null where they follow each other. shortcut: added to what the clamp leaves, in the order of out; at null
    // nothing is. Not both.
    void (*pointwise)(const Panels&, int panel, ConstRun in, int pixels, Run out, const int* out_pixels,
                      ConstRun shortcut);
    // One channel block of a row of a depthwise convolution: rows[0..2] are the three input rows at the place of the
    // first tap, dilation pixels lie between taps. weights: 9 vectors, then the bias.
    void (*depthwise)(const float* const rows[3], const float* weights, int stride, int dilation, int pixels,
                      float* out, Clamp);
    // One panel of the stem on a row: rows[3 * c + ky] is an input row of channel c, its first tap at [0].
    // Weights are packed as of a 1x1 convolution with 27 input channels in the order c, ky, kx.
    void (*stem)(const Panels&, int panel, const float* const rows[9], int pixels, Run out);
    // One channel block of a row of a map enlarged by lines between its pixels, on another map. above, below: the two rows
    // that the result lies between, `down` of the way to the second; left, right, across: the same of each pixel.
    void (*enlarge)(const float* above, const float* below, float down, const int* left, const int* right,
                    const float* across, int pixels, const float* on, float* out, Clamp);
    // Some input channels of a dense layer: adds their share to the sums of all out_blocks. weights: of eight output blocks
    // together, then of single ones, input channel by input channel.
    void (*dense)(const float* weights, const float* in, int inputs, int out_blocks, float* sums);
    // Mean of a run of pixels of one channel block.
    void (*mean)(const float* in, int pixels, float* out);
    Panelling panelling;
    const char* name;
};

// Those that this processor runs, the fastest first.
std::vector<const Kernels*> all_kernels();

}  // namespace mobilenetv2
