// How weights are packed for the kernels, and checked first. Only plan.cpp reads this.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "network.h"

namespace mobilenetv2 {
namespace {

int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// Zeros for so many inputs of each output.
template <typename Packed, typename T>
Packed with_room(Pages& pages, const Weights<T>& from, int inputs, const Panelling& panelling) {
    Packed packed;
    packed.in_blocks = blocks_of(from.in_channels);
    packed.out_blocks = blocks_of(from.out_channels);
    const auto room = static_cast<std::size_t>(panelling.room(packed.out_blocks)) * LANES;
    packed.values = pages.take<typename Numbers<T>::Weight>(room * inputs);
    std::fill(packed.values.begin(), packed.values.end(), typename Numbers<T>::Weight{});
    packed.bias.assign(room, 0.0f);
    packed.scale.assign(room, 0.0f);
    return packed;
}

// Input by input (or TOGETHER of them), the weights of some output blocks; nothing where there is none. known: inputs
// that there are. Returns the place behind them.
template <typename T, typename Weight>
Weight* lay(Weight* to, const Weights<T>& from, int known, int first_input, int inputs, int first_block, int blocks) {
    constexpr int TOGETHER = Numbers<T>::TOGETHER;
    for (int first = first_input; first < first_input + inputs; first += TOGETHER)
        for (int o = first_block * LANES; o < (first_block + blocks) * LANES; o++)
            for (int k = first; k < first + TOGETHER; k++, to++)
                if (k < known && o < from.out_channels) *to = from.kernel[static_cast<std::size_t>(o) * known + k];
    return to;
}

// Of levels: what each result is of its sum of products, as a level.
struct Line {
    float scale, bias;
};
Line line_of(const Weights<Level>& from, int channel, int products, Levels in) {
    const std::int8_t* kernel = from.kernel + static_cast<std::size_t>(channel) * products;
    std::int64_t sum = 0;
    for (int k = 0; k < products; k++) sum += kernel[k];
    const double to = from.to.raw() ? 1 : from.to.scale;
    const double scale = static_cast<double>(in.scale) * from.steps[channel] / to;
    const double bias = from.bias[channel] / to + from.to.zero - in.zero * scale * static_cast<double>(sum);
    return {static_cast<float>(scale), static_cast<float>(bias)};
}

// In levels, which end themselves: whole ones, as results are rounded before they are clamped.
Clamp in_levels(Clamp clamp, Levels to) {
    if (to.raw()) return clamp;
    const auto level = [to](float value) {
        return std::rint(std::clamp(value / to.scale + static_cast<float>(to.zero), 0.0f, 255.0f));
    };
    return {level(clamp.low), level(clamp.high)};
}

template <typename Packed>
void set_results(Packed& packed, const Weights<float>& from, int, Levels) {
    std::copy(from.bias, from.bias + from.out_channels, packed.bias.begin());
    packed.clamp = from.clamp;
}
template <typename Packed>
void set_results(Packed& packed, const Weights<Level>& from, int products, Levels in) {
    for (int o = 0; o < from.out_channels; o++) {
        const Line line = line_of(from, o, products, in);
        packed.scale[o] = line.scale;
        packed.bias[o] = line.bias;
    }
    packed.clamp = in_levels(from.clamp, from.to);
}

// Panel by panel, input channel by input channel, the weights of the panel's output channels.
// taps: of each input channel; channels are filled up to whole blocks, or to `inputs`, only where there is one tap. in:
// levels that are read.
template <typename Packed, typename T>
Packed pack(Pages& pages, const Weights<T>& from, int taps, const Panelling& panelling, Levels in = {}, int inputs = 0) {
    const int known = from.in_channels * taps;
    if (inputs == 0) inputs = taps == 1 ? blocks_of(known) * LANES : known;
    Packed packed = with_room<Packed>(pages, from, inputs, panelling);
    packed.in_blocks = blocks_of(inputs);
    auto* to = packed.values.data();
    for (int p = 0; p < panelling.count(packed.out_blocks); p++) {
        const auto [first, blocks] = panelling.at(packed.out_blocks, p);
        to = lay(to, from, known, 0, inputs, first, panelling.room(blocks));
    }
    set_results(packed, from, known, in);
    return packed;
}

// For each panel of inputs: for eight output blocks together, and then for single ones, input by input, their weights.
template <typename Packed, typename T>
Packed pack_dense(Pages& pages, const Weights<T>& from, const Panelling& panelling, Levels in) {
    Packed packed = with_room<Packed>(pages, from, blocks_of(from.in_channels) * LANES, panelling);
    auto* to = packed.values.data();
    for (int p = 0; p < panelling.count(packed.in_blocks); p++) {
        const auto [first, blocks] = panelling.at(packed.in_blocks, p);
        for (int out = 0, together; out < packed.out_blocks; out += together) {
            together = out + 8 <= packed.out_blocks ? 8 : 1;
            to = lay(to, from, from.in_channels, first * LANES, blocks * LANES, out, together);
        }
    }
    set_results(packed, from, from.in_channels, in);
    return packed;
}

void set_filter(std::vector<FilterBlock<float>>& blocks, int lanes, Clamp& clamp, const Weights<float>& from, Levels) {
    for (int c = 0; c < from.out_channels; c++) {
        float* to = blocks[c / lanes * (lanes / LANES)].values + c % lanes;
        for (int k = 0; k < 9; k++) to[k * lanes] = from.kernel[c * 9 + k];
        to[9 * lanes] = from.bias[c];
    }
    clamp = from.clamp;
}
void set_filter(std::vector<FilterBlock<Level>>& blocks, int, Clamp& clamp, const Weights<Level>& from, Levels in) {
    for (int c = 0; c < from.out_channels; c++) {
        FilterBlock<Level>& to = blocks[c / LANES];
        for (int k = 0; k < 9; k++) to.taps[k / 3][c % LANES][k % 3] = from.kernel[c * 9 + k];
        const Line line = line_of(from, c, 9, in);
        to.scale[c % LANES] = line.scale;
        to.bias[c % LANES] = line.bias;
    }
    clamp = in_levels(from.clamp, from.to);
}

// Weights of one sign of each two that are summed in 16 bits (levels.h) must not be more together than those can hold.
// row: weights that are paired among themselves.
void require_pairs(const Weights<float>&, int, int) {}
void require_pairs(const Weights<Level>& from, int products, int row) {
    const std::ptrdiff_t all = static_cast<std::ptrdiff_t>(from.out_channels) * products;
    for (const std::int8_t* at = from.kernel; at < from.kernel + all; at += row)
        for (int k = 0; k < row; k += 2) {
            const int one = at[k], other = k + 1 < row ? at[k + 1] : 0;
            require(std::max(one, 0) + std::max(other, 0) <= 128 && std::min(one, 0) + std::min(other, 0) >= -128,
                    "two weights side by side are too large together; use 63 steps to each side");
        }
}

// Steps must have a width, and results levels or none.
void require_levels(const Levels& levels) {
    require(levels.scale >= 0 && levels.scale < 1e30f && levels.zero >= 0 && levels.zero <= 255,
            "levels have no width, or no zero");
}

}  // namespace
}  // namespace mobilenetv2
