#include "network.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace mobilenetv2 {
namespace {

// A 14 x 14 map and its like: the expanded channels of one panel lie in the first cache, 16 x 16 x 16 x 4 B = 16 KB.
constexpr int MOST_PIXELS_OF_AN_IMAGE = 256;
// Bands of two rows share what they read from the second cache, where the rows of a panel still fit the first.
constexpr int WIDEST_OF_TWO_ROWS = 64;
constexpr std::size_t CACHE_LINE = 64;

int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }

std::size_t rounded_up(std::size_t floats) {
    constexpr std::size_t line = CACHE_LINE / sizeof(float);
    return (floats + line - 1) / line * line;
}

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

std::size_t Network::stem_floats(const Step& step) { return 9 * rounded_up(step.stem_geometry.padded_width()); }

int panel_count(int out_blocks) { return out_blocks == 1 ? 1 : out_blocks / 2; }

Panel panel_at(int out_blocks, int index) {
    const bool last = index == panel_count(out_blocks) - 1;
    return {2 * index, last ? out_blocks - 2 * index : 2};
}

int Network::Geometry::padded_width() const {
    // Up to the last tap of the last pixel, and all of the map, which may reach further.
    return std::max((out_width - 1) * stride + 2 * dilation + 1, pad_left + in_width);
}

Network::Network(int height, int width, int threads)
    : height_(height), width_(width), kernels_(kernels()), claims_per_step_(std::max(2, (threads + 1) / 2)),
      team_(threads), barrier_(threads) {
    require(height >= 1 && width >= 1 && height <= 1 << 14 && width <= 1 << 14, "the input has no size, or is too large");
    require(threads >= 1 && threads <= 1024, "1 to 1024 threads are possible");
}

const Network::Map& Network::map(ValueId value) const {
    if (value < 0 || value >= static_cast<int>(maps_.size()))
        throw std::invalid_argument("there is no map " + std::to_string(value));
    return maps_[value];
}

void Network::check_stem(const Stem& stem) const {
    require(stem.weights.in_channels == 3, "the stem reads three colours");
    require(stem.pad_top >= 0 && stem.pad_left >= 0 && stem.pad_top <= 2 && stem.pad_left <= 2,
            "the stem has other padding than 0 to 2");
    require(stem.out_height >= 1 && stem.out_width >= 1 && 2 * (stem.out_height - 1) - stem.pad_top < height_ &&
                2 * (stem.out_width - 1) - stem.pad_left < width_,
            "the stem's result is larger than the pictures allow");
}

ValueId Network::add_map(int channels, int height, int width) {
    require(channels >= 1 && height >= 1 && width >= 1, "a map has no size");
    Map map;
    map.channels = channels;
    map.blocks = blocks_of(channels);
    map.height = height;
    map.width = width;
    map.by_rows = height * width > MOST_PIXELS_OF_AN_IMAGE;
    map.first_step = map.last_step = static_cast<int>(steps_.size());
    maps_.push_back(map);
    return static_cast<ValueId>(maps_.size()) - 1;
}

ValueId Network::add(Step&& step, ValueId in, int channels, int height, int width) {
    require(!finished_, "the network is finished");
    step.in = in;
    step.out = add_map(channels, height, width);
    if (in >= 0) maps_[in].last_step = static_cast<int>(steps_.size());
    steps_.push_back(std::move(step));
    return steps_.back().out;
}

namespace {

// Panel by panel, input channel by input channel, the weights of the panel's output channels; zeros where there is none.
// taps: of each input channel; channels are then filled up to whole blocks only where there is one tap.
void pack(const Weights& from, int taps, std::vector<float>& values, std::vector<float>& bias) {
    const int out_blocks = blocks_of(from.out_channels);
    const int inputs = taps == 1 ? blocks_of(from.in_channels) * LANES : from.in_channels * taps;
    const int known = from.in_channels * taps;
    values.assign(static_cast<std::size_t>(out_blocks) * LANES * inputs, 0.0f);
    bias.assign(static_cast<std::size_t>(out_blocks) * LANES, 0.0f);
    std::copy(from.bias, from.bias + from.out_channels, bias.begin());
    float* to = values.data();
    for (int p = 0; p < panel_count(out_blocks); p++) {
        const auto [first, blocks] = panel_at(out_blocks, p);
        for (int k = 0; k < inputs; k++)
            for (int o = first * LANES; o < (first + blocks) * LANES; o++, to++)
                if (k < known && o < from.out_channels) *to = from.kernel[static_cast<std::size_t>(o) * known + k];
    }
}

}  // namespace

ValueId Network::stem(const Stem& stem) {
    check_stem(stem);
    Step step;
    step.kind = Kind::STEM;
    pack(stem.weights, 9, step.stem.values, step.stem.bias);
    step.stem.out_blocks = blocks_of(stem.weights.out_channels);
    step.stem.clamp = stem.weights.clamp;
    step.stem_geometry = {2, 1, stem.pad_top, stem.pad_left, stem.out_height, stem.out_width, height_, width_};
    step.thread_scratch = stem_floats(step);
    return add(std::move(step), -1, stem.weights.out_channels, stem.out_height, stem.out_width);
}

ValueId Network::block(ValueId in, const std::optional<Weights>& expand, const std::optional<Stem>& stem,
                       const Filter& filter, const Weights& project, bool shortcut) {
    Step step;
    Map before;
    if (stem) {
        require(!expand && !shortcut, "a block on the stem has neither expansion nor shortcut");
        check_stem(*stem);
        step.from_stem = true;
        pack(stem->weights, 9, step.stem.values, step.stem.bias);
        step.stem.out_blocks = blocks_of(stem->weights.out_channels);
        step.stem.clamp = stem->weights.clamp;
        step.stem_geometry = {2, 1, stem->pad_top, stem->pad_left, stem->out_height, stem->out_width, height_, width_};
        before.channels = stem->weights.out_channels;
        before.height = stem->out_height;
        before.width = stem->out_width;
        in = -1;
    } else {
        before = map(in);
    }
    if (expand) {
        require(expand->in_channels == before.channels, "the expansion does not fit the map");
        step.expands = true;
        pack(*expand, 1, step.expand.values, step.expand.bias);
        step.expand.in_blocks = blocks_of(expand->in_channels);
        step.expand.out_blocks = blocks_of(expand->out_channels);
        step.expand.clamp = expand->clamp;
    }
    require(filter.channels == (expand ? expand->out_channels : before.channels), "the filter does not fit the map");
    require(project.in_channels == filter.channels, "the projection does not fit the filter");
    require(filter.stride >= 1 && filter.stride <= 2 && filter.dilation >= 1 && filter.dilation <= 1 << 10 &&
                filter.pad_top >= 0 && filter.pad_left >= 0 && filter.pad_top <= 2 * filter.dilation &&
                filter.pad_left <= 2 * filter.dilation,
            "the filter has a stride, dilation or padding that is not possible");
    require(filter.out_height >= 1 && filter.out_width >= 1 &&
                (filter.out_height - 1) * filter.stride - filter.pad_top < before.height &&
                (filter.out_width - 1) * filter.stride - filter.pad_left < before.width,
            "the filter's result is larger than its map allows");
    require(!shortcut || (filter.out_height == before.height && filter.out_width == before.width &&
                          project.out_channels == before.channels),
            "the shortcut does not fit the result");
    step.shortcut = shortcut;
    step.blocks = blocks_of(filter.channels);
    step.filter.assign(static_cast<std::size_t>(step.blocks) * 10 * LANES, 0.0f);
    for (int c = 0; c < filter.channels; c++) {
        float* to = step.filter.data() + static_cast<std::size_t>(c / LANES) * 10 * LANES + c % LANES;
        for (int k = 0; k < 9; k++) to[k * LANES] = filter.kernel[c * 9 + k];
        to[9 * LANES] = filter.bias[c];
    }
    step.filter_clamp = filter.clamp;
    pack(project, 1, step.project.values, step.project.bias);
    step.project.in_blocks = blocks_of(project.in_channels);
    step.project.out_blocks = blocks_of(project.out_channels);
    step.project.clamp = project.clamp;
    step.geometry = {filter.stride,     filter.dilation,  filter.pad_top, filter.pad_left,
                     filter.out_height, filter.out_width, before.height,  before.width};
    const std::size_t padded = static_cast<std::size_t>(step.geometry.padded_width()) * LANES;
    const std::size_t out_pixels = static_cast<std::size_t>(filter.out_height) * filter.out_width;
    if (!stem && before.height * before.width <= MOST_PIXELS_OF_AN_IMAGE) {
        step.kind = Kind::BLOCK_BY_IMAGE;
        const int rows = std::max((filter.out_height - 1) * filter.stride + 2 * filter.dilation + 1,
                                  filter.pad_top + before.height);
        for (int y = 0; y < before.height; y++)
            for (int x = 0; x < before.width; x++)
                step.padded_pixels.push_back(static_cast<int>((filter.pad_top + y) * padded) +
                                             (filter.pad_left + x) * LANES);
        step.thread_scratch = 3 * rows * padded;
        step.shared_scratch = step.blocks * out_pixels * LANES;
    } else {
        step.kind = Kind::BLOCK_BY_ROWS;
        step.band_rows = before.width > WIDEST_OF_TWO_ROWS ? 1 : 2;
        // The ring of expanded rows, a row of zeros, the filtered rows, and the rows that the stem reads.
        step.thread_scratch = step.ring_rows() * step.blocks * padded + padded +
                              static_cast<std::size_t>(step.band_rows) * step.blocks * filter.out_width * LANES +
                              (stem ? step.ring_rows() * stem_floats(step) : 0);
    }
    step.thread_scratch = rounded_up(step.thread_scratch);
    step.shared_scratch = rounded_up(step.shared_scratch);
    return add(std::move(step), in, project.out_channels, filter.out_height, filter.out_width);
}

ValueId Network::pointwise(ValueId in, const Weights& weights, ValueId bias) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    require(bias == -1 || (map(bias).channels == weights.out_channels && map(bias).height * map(bias).width == 1),
            "the bias does not fit its convolution");
    Step step;
    step.kind = Kind::POINTWISE;
    pack(weights, 1, step.project.values, step.project.bias);
    step.project.in_blocks = blocks_of(weights.in_channels);
    step.project.out_blocks = blocks_of(weights.out_channels);
    step.project.clamp = weights.clamp;
    if (bias != -1) {
        step.other = bias;
        maps_[bias].last_step = static_cast<int>(steps_.size());
    }
    return add(std::move(step), in, weights.out_channels, maps_[in].height, maps_[in].width);
}

ValueId Network::enlarge_on(ValueId in, ValueId on, Clamp clamp) {
    require(map(in).channels == map(on).channels, "the maps have other numbers of channels");
    Step step;
    step.kind = Kind::ENLARGE;
    step.other = on;
    step.project.clamp = clamp;
    const int width = maps_[on].width, from = maps_[in].width;
    for (int x = 0; x < width; x++) {
        const double place = width == 1 ? 0.0 : static_cast<double>(x) * (from - 1) / (width - 1);
        const int left = std::min(static_cast<int>(place), from - 1);
        step.left.push_back(left);
        step.right.push_back(std::min(left + 1, from - 1));
        step.across.push_back(static_cast<float>(place - left));
    }
    maps_[on].last_step = static_cast<int>(steps_.size());
    return add(std::move(step), in, maps_[on].channels, maps_[on].height, width);
}

ValueId Network::pooled(ValueId in, const Weights& weights) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    Step step;
    step.kind = Kind::POOLED;
    pack(weights, 1, step.project.values, step.project.bias);
    step.project.in_blocks = blocks_of(weights.in_channels);
    step.project.out_blocks = blocks_of(weights.out_channels);
    step.project.clamp = weights.clamp;
    step.thread_scratch = rounded_up(static_cast<std::size_t>(3) * maps_[in].height * maps_[in].width * LANES);
    return add(std::move(step), in, weights.out_channels, 1, 1);
}

ValueId Network::mean(ValueId in) {
    Step step;
    step.kind = Kind::MEAN;
    if (map(in).by_rows) step.thread_scratch = rounded_up(static_cast<std::size_t>(maps_[in].height) * LANES);
    return add(std::move(step), in, maps_[in].channels, 1, 1);
}

void Network::output(ValueId value, Order order) {
    require(!finished_, "the network is finished");
    map(value);
    outputs_.emplace_back(value, order);
}

void Network::finish() {
    require(!finished_ && !steps_.empty(), "the network is finished, or empty");
    const int steps = static_cast<int>(steps_.size());
    int most_ring_rows = 1;
    for (const auto& step : steps_) most_ring_rows = std::max(most_ring_rows, step.ring_rows());
    for (const auto& [value, order] : outputs_) maps_[value].last_step = steps;
    // Largest first, each as low as those that live at the same time allow.
    struct Item {
        std::size_t size, offset;
        int first, last;
        std::size_t* to;
    };
    std::vector<Item> items, placed;
    for (auto& map : maps_) items.push_back({rounded_up(map.size()), 0, map.first_step, map.last_step, &map.offset});
    for (int s = 0; s < steps; s++) {
        auto& step = steps_[s];
        items.push_back({step.shared_scratch + team_.size() * step.thread_scratch, 0, s, s, &step.scratch_offset});
    }
    std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.size > b.size; });
    for (auto& item : items) {
        std::vector<const Item*> beside;
        for (const auto& other : placed)
            if (other.first <= item.last && item.first <= other.last) beside.push_back(&other);
        std::sort(beside.begin(), beside.end(), [](const Item* a, const Item* b) { return a->offset < b->offset; });
        for (const Item* other : beside) {
            if (item.offset + item.size <= other->offset) break;
            item.offset = std::max(item.offset, other->offset + other->size);
        }
        *item.to = item.offset;
        arena_floats_ = std::max(arena_floats_, item.offset + item.size);
        placed.push_back(item);
    }
    memory_ = std::make_unique<float[]>(arena_floats_ + CACHE_LINE / sizeof(float));
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    arena_ = memory_.get() + (CACHE_LINE - address % CACHE_LINE) % CACHE_LINE / sizeof(float);
    claims_ = std::make_unique<std::atomic<int>[]>(steps_.size() * claims_per_step_);
    held_.resize(team_.size());
    missing_.resize(team_.size());
    for (auto& rows : held_) rows.resize(most_ring_rows);
    for (auto& rows : missing_) rows.resize(most_ring_rows);
    finished_ = true;
}

std::size_t Network::arena_bytes() const { return arena_floats_ * sizeof(float); }

std::size_t Network::weight_bytes() const {
    std::size_t floats = 0;
    for (const auto& step : steps_) {
        floats += step.filter.size();
        for (const Packed* packed : {&step.stem, &step.expand, &step.project})
            floats += packed->values.size() + packed->bias.size();
    }
    return floats * sizeof(float);
}

void Network::run(const float* pictures, int count, float* const* outputs) {
    require(finished_, "the network is not finished");
    const std::lock_guard<std::mutex> guard(running_);
    for (int i = 0; i < count; i++) {
        const float* picture = pictures + static_cast<std::size_t>(i) * 3 * height_ * width_;
        for (std::size_t c = 0; c < steps_.size() * claims_per_step_; c++) claims_[c].store(0, std::memory_order_relaxed);
        team_.run([this, picture](int thread) { work(thread, picture); });
        for (std::size_t o = 0; o < outputs_.size(); o++) {
            const Map& map = maps_[outputs_[o].first];
            const auto size = static_cast<std::size_t>(map.channels) * map.height * map.width;
            write(map, outputs_[o].second, outputs[o] + i * size);
        }
    }
}

void Network::work(int thread, const float* picture) {
    for (int s = 0; s < static_cast<int>(steps_.size()); s++) {
        const Step& step = steps_[s];
        switch (step.kind) {
            case Kind::STEM:
            case Kind::BLOCK_BY_ROWS: run_by_rows(step, s, thread, picture); break;
            case Kind::BLOCK_BY_IMAGE: run_by_image(step, s, thread); break;
            case Kind::POINTWISE: run_pointwise(step, s); break;
            case Kind::ENLARGE: run_enlarge(step, s); break;
            case Kind::MEAN: run_mean(step, s, thread); break;
            case Kind::POOLED: run_pooled(step, s, thread); break;
        }
        // The last one is Team::run's own.
        if (s + 1 < static_cast<int>(steps_.size())) barrier_.wait();
    }
}

void Network::read_stem_rows(const Step& step, const float* picture, int row, float* to) const {
    const Geometry& g = step.stem_geometry;
    const std::ptrdiff_t width = g.padded_width(), row_floats = stem_floats(step) / 9;
    for (int c = 0; c < 3; c++)
        for (int ky = 0; ky < 3; ky++, to += row_floats) {
            const int y = row * 2 - g.pad_top + ky;
            std::fill(to, to + width, 0.0f);
            if (y < 0 || y >= height_) continue;
            const float* from = picture + (static_cast<std::ptrdiff_t>(c) * height_ + y) * width_;
            std::copy(from, from + width_, to + g.pad_left);
        }
}

void Network::run_stem_row(const Step& step, int panel, const float* read, Run out) const {
    const float* rows[9];
    for (int r = 0; r < 9; r++) rows[r] = read + r * (stem_floats(step) / 9);
    kernels_.stem(step.stem.view(), panel, rows, step.stem_geometry.out_width, out);
}

void Network::run_by_rows(const Step& step, int index, int thread, const float* picture) {
    const Map& out = maps_[step.out];
    const Map* in = step.in >= 0 ? &maps_[step.in] : nullptr;
    const Geometry& g = step.geometry;
    float* scratch = arena_ + step.scratch_offset + thread * step.thread_scratch;
    const int rows = out.height;
    if (step.kind == Kind::STEM) {
        for (int y; (y = claim(index, 0)) < rows;) {
            read_stem_rows(step, picture, y, scratch);
            for (int p = 0; p < panel_count(step.stem.out_blocks); p++)
                run_stem_row(step, p, scratch, {at(out) + y * out.row(), out.block()});
        }
        return;
    }
    const int ring_rows = step.ring_rows();
    const std::ptrdiff_t padded = static_cast<std::ptrdiff_t>(g.padded_width()) * LANES;
    const std::ptrdiff_t ring_block = ring_rows * padded, filtered_block = static_cast<std::ptrdiff_t>(g.out_width) * LANES;
    float* ring = scratch;
    float* zeros = ring + step.blocks * ring_block;
    float* filtered = zeros + padded;
    float* stem_rows = filtered + step.band_rows * step.blocks * filtered_block;
    std::fill(zeros, zeros + padded, 0.0f);
    for (int r = 0; r < ring_rows * step.blocks; r++) {
        float* row = ring + r * padded;
        std::fill(row, row + g.pad_left * LANES, 0.0f);
        std::fill(row + (g.pad_left + g.in_width) * LANES, row + padded, 0.0f);
    }
    std::vector<int>&held = held_[thread], &missing = missing_[thread];
    std::fill(held.begin(), held.begin() + ring_rows, -1);

    // Two threads share a range of bands and come from both ends of it, so that they finish together and expand only the
    // rows at one border twice. Which rows a thread takes does not change them.
    const int threads = team_.size(), pair = thread / 2, bands = (rows + step.band_rows - 1) / step.band_rows;
    const int low = bands * (2 * pair) / threads, high = bands * std::min(2 * pair + 2, threads) / threads;
    for (int n = 0; claim(index, pair) < high - low; n++) {
        const int first_row = (thread % 2 ? high - 1 - n : low + n) * step.band_rows;
        const int last_row = std::min(first_row + step.band_rows, rows) - 1;
        const int first_read = std::max(first_row * g.stride - g.pad_top, 0);
        const int last_read = std::min(last_row * g.stride - g.pad_top + 2 * g.dilation, g.in_height - 1);
        int count = 0;
        for (int y = first_read; y <= last_read; y++)
            if (held[y % ring_rows] != y) missing[count++] = held[y % ring_rows] = y;
        if (step.from_stem)
            for (int m = 0; m < count; m++) read_stem_rows(step, picture, missing[m], stem_rows + m * stem_floats(step));

        for (int p = 0; p < panel_count(step.blocks); p++) {
            // What a panel expands is filtered while it is in the first cache; the rows before come from the second.
            const auto [first, blocks] = panel_at(step.blocks, p);
            for (int m = 0; m < count; m++) {
                const int y = missing[m];
                const Run to{ring + y % ring_rows * padded + g.pad_left * LANES, ring_block};
                if (step.from_stem) {
                    run_stem_row(step, p, stem_rows + m * stem_floats(step), to);
                } else if (step.expands) {
                    kernels_.pointwise(step.expand.view(), p, {at(*in) + y * in->row(), in->block()}, g.in_width, to,
                                       nullptr, {nullptr, 0});
                } else {
                    for (int b = first; b < first + blocks; b++) {
                        const float* from = at(*in) + y * in->row() + b * in->block();
                        std::copy(from, from + g.in_width * LANES, to.at + b * to.block);
                    }
                }
            }
            for (int b = first; b < first + blocks; b++)
                for (int y = first_row; y <= last_row; y++) {
                    const float* taps[3];
                    for (int ky = 0; ky < 3; ky++) {
                        const int from = y * g.stride - g.pad_top + ky * g.dilation;
                        taps[ky] = from < 0 || from >= g.in_height ? zeros
                                                                   : ring + b * ring_block + from % ring_rows * padded;
                    }
                    kernels_.depthwise(taps, step.filter.data() + b * 10 * LANES, g.stride, g.dilation, g.out_width,
                                       filtered + ((y - first_row) * step.blocks + b) * filtered_block,
                                       step.filter_clamp);
                }
        }
        for (int y = first_row; y <= last_row; y++) {
            const ConstRun shortcut =
                step.shortcut ? ConstRun{at(*in) + y * in->row(), in->block()} : ConstRun{nullptr, 0};
            const ConstRun from{filtered + (y - first_row) * step.blocks * filtered_block, filtered_block};
            for (int p = 0; p < panel_count(step.project.out_blocks); p++)
                kernels_.pointwise(step.project.view(), p, from, g.out_width, {at(out) + y * out.row(), out.block()},
                                   nullptr, shortcut);
        }
    }
}

void Network::run_by_image(const Step& step, int index, int thread) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const Geometry& g = step.geometry;
    const std::ptrdiff_t padded = static_cast<std::ptrdiff_t>(g.padded_width()) * LANES;
    const std::ptrdiff_t out_pixels = static_cast<std::ptrdiff_t>(g.out_height) * g.out_width;
    float* filtered = arena_ + step.scratch_offset;
    float* image = filtered + step.shared_scratch + thread * step.thread_scratch;
    // All threads know all filtered channels before any projects them.
    const std::ptrdiff_t image_block = static_cast<std::ptrdiff_t>(step.thread_scratch) / 3 / LANES * LANES;
    std::fill(image, image + step.thread_scratch, 0.0f);
    const int panels = panel_count(step.blocks);
    for (int p; (p = claim(index, 0)) < panels;) {
        const auto [first, blocks] = panel_at(step.blocks, p);
        if (step.expands) {
            // The kernel steps to the panel's first block itself.
            const Run to{image - first * image_block, image_block};
            if (in.by_rows) {
                for (int y = 0; y < g.in_height; y++)
                    kernels_.pointwise(step.expand.view(), p, {at(in) + y * in.row(), in.block()}, g.in_width, to,
                                       step.padded_pixels.data() + y * g.in_width, {nullptr, 0});
            } else {
                kernels_.pointwise(step.expand.view(), p, {at(in), in.block()}, g.in_height * g.in_width, to,
                                   step.padded_pixels.data(), {nullptr, 0});
            }
        } else {
            for (int b = 0; b < blocks; b++)
                for (int y = 0; y < g.in_height; y++) {
                    const float* from = at(in) + y * in.row() + (first + b) * in.block();
                    std::copy(from, from + g.in_width * LANES,
                              image + b * image_block + step.padded_pixels[static_cast<std::size_t>(y) * g.in_width]);
                }
        }
        for (int b = 0; b < blocks; b++)
            for (int y = 0; y < g.out_height; y++) {
                const float* taps[3];
                for (int ky = 0; ky < 3; ky++)
                    taps[ky] = image + b * image_block + (y * g.stride + ky * g.dilation) * padded;
                kernels_.depthwise(taps, step.filter.data() + (first + b) * 10 * LANES, g.stride, g.dilation,
                                   g.out_width, filtered + ((first + b) * out_pixels + y * g.out_width) * LANES,
                                   step.filter_clamp);
            }
    }
    barrier_.wait();
    const ConstRun shortcut = step.shortcut ? ConstRun{at(in), in.block()} : ConstRun{nullptr, 0};
    const int out_panels = panel_count(step.project.out_blocks), parts = parts_of(out_panels, out_pixels);
    for (int unit; (unit = claim(index, 1)) < out_panels * parts;) {
        const std::ptrdiff_t first = out_pixels * (unit % parts) / parts, last = out_pixels * (unit % parts + 1) / parts;
        kernels_.pointwise(step.project.view(), unit / parts, {filtered + first * LANES, out_pixels * LANES},
                           static_cast<int>(last - first), {at(out) + first * LANES, out.block()}, nullptr,
                           {shortcut.at ? shortcut.at + first * LANES : nullptr, shortcut.block});
    }
}

int Network::parts_of(int panels, std::ptrdiff_t pixels) const {
    // So many that threads do not wait long for the last, and not so many that tiles get small.
    if (team_.size() == 1 || panels % team_.size() == 0) return 1;
    return static_cast<int>(std::clamp<std::ptrdiff_t>(pixels / 12, 1, team_.size()));
}

void Network::run_pointwise(const Step& step, int index) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    Panels weights = step.project.view();
    if (step.other != -1) weights.bias = at(maps_[step.other]);
    const int panels = panel_count(weights.out_blocks);
    if (in.by_rows) {
        for (int y; (y = claim(index, 0)) < in.height;)
            for (int p = 0; p < panels; p++)
                kernels_.pointwise(weights, p, {at(in) + y * in.row(), in.block()}, in.width,
                                   {at(out) + y * out.row(), out.block()}, nullptr, {nullptr, 0});
        return;
    }
    for (int p; (p = claim(index, 0)) < panels;)
        kernels_.pointwise(weights, p, {at(in), in.block()}, in.height * in.width, {at(out), out.block()}, nullptr,
                           {nullptr, 0});
}

void Network::run_enlarge(const Step& step, int index) {
    const Map &in = maps_[step.in], &on = maps_[step.other], &out = maps_[step.out];
    for (int y; (y = claim(index, 0)) < out.height;) {
        const double place = out.height == 1 ? 0.0 : static_cast<double>(y) * (in.height - 1) / (out.height - 1);
        const int above = std::min(static_cast<int>(place), in.height - 1), below = std::min(above + 1, in.height - 1);
        for (int b = 0; b < in.blocks; b++) {
            const float* from = at(in) + b * in.block();
            kernels_.enlarge(from + above * in.row(), from + below * in.row(), static_cast<float>(place - above),
                             step.left.data(), step.right.data(), step.across.data(), out.width,
                             at(on) + y * on.row() + b * on.block(), at(out) + y * out.row() + b * out.block(),
                             step.project.clamp);
        }
    }
}

void Network::run_pooled(const Step& step, int index, int thread) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(in.height) * in.width;
    float* panel = arena_ + step.scratch_offset + thread * step.thread_scratch;
    for (int p; (p = claim(index, 0)) < panel_count(step.project.out_blocks);) {
        const auto [first, blocks] = panel_at(step.project.out_blocks, p);
        const Run to{panel - first * pixels * LANES, pixels * LANES};
        if (in.by_rows) {
            for (int y = 0; y < in.height; y++)
                kernels_.pointwise(step.project.view(), p, {at(in) + y * in.row(), in.block()}, in.width,
                                   {to.at + y * in.width * LANES, to.block}, nullptr, {nullptr, 0});
        } else {
            kernels_.pointwise(step.project.view(), p, {at(in), in.block()}, static_cast<int>(pixels), to, nullptr,
                               {nullptr, 0});
        }
        for (int b = 0; b < blocks; b++)
            kernels_.mean(panel + b * pixels * LANES, static_cast<int>(pixels), at(out) + (first + b) * LANES);
    }
}

void Network::run_mean(const Step& step, int index, int thread) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    float* rows = arena_ + step.scratch_offset + thread * step.thread_scratch;
    for (int b; (b = claim(index, 0)) < in.blocks;) {
        const float* from = at(in) + b * in.block();
        if (in.by_rows) {
            for (int y = 0; y < in.height; y++) kernels_.mean(from + y * in.row(), in.width, rows + y * LANES);
            kernels_.mean(rows, in.height, at(out) + b * LANES);
        } else {
            kernels_.mean(from, in.height * in.width, at(out) + b * LANES);
        }
    }
}

void Network::write(const Map& map, Order order, float* to) const {
    const float* from = arena_ + map.offset;
    for (int y = 0; y < map.height; y++)
        for (int c = 0; c < map.channels; c++) {
            const float* row = from + y * map.row() + (c / LANES) * map.block() + c % LANES;
            const std::ptrdiff_t step = order == Order::PIXELS ? map.channels : 1;
            float* out = order == Order::PIXELS
                             ? to + static_cast<std::ptrdiff_t>(y) * map.width * map.channels + c
                             : to + (static_cast<std::ptrdiff_t>(c) * map.height + y) * map.width;
            for (int x = 0; x < map.width; x++) out[x * step] = row[x * LANES];
        }
}

}  // namespace mobilenetv2
