// Building a network: checks, packs, joins blocks, plans memory.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "network.h"

namespace mobilenetv2 {
namespace {

// A 14 x 14 map and its like: the expanded channels of one panel lie in the first cache, 16 x 16 x 16 x 4 B = 16 KB.
constexpr int MOST_PIXELS_OF_AN_IMAGE = 256;
// Bands of two rows share what they read from the second cache, where the rows of a panel still fit the first.
constexpr int WIDEST_OF_TWO_ROWS = 64;
// A map between two blocks that would not stay in the second cache is made row by row for the next block.
constexpr std::size_t LARGEST_KEPT = 512 << 10;
// So many sums of a dense layer's outputs are made apart and then added, always in the same order: enough for as many threads
// to share the work evenly, few enough to stay in the first caches.
constexpr int MOST_GROUPS = 16;
constexpr std::size_t CACHE_LINE = 64;

bool is_small(int height, int width) { return height * width <= MOST_PIXELS_OF_AN_IMAGE; }

int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }

std::size_t rounded_up(std::size_t floats) {
    constexpr std::size_t line = CACHE_LINE / sizeof(float);
    return (floats + line - 1) / line * line;
}

// Whether the first tap of every result lies before the end of a map.
bool fits(std::int64_t results, int stride, int pad, int size) {
    return results >= 1 && (results - 1) * stride - pad < size;
}

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// The product of some sizes, in floats. Refuses what cannot be addressed, before 32 bits make something small of it.
template <typename... Sizes>
std::size_t floats_of(Sizes... sizes) {
    std::uint64_t floats = 1;
    for (const std::uint64_t size : {static_cast<std::uint64_t>(sizes)...}) {
        require(size <= PTRDIFF_MAX / sizeof(float) / floats, "the network needs more memory than there can be");
        floats *= std::max<std::uint64_t>(size, 1);
    }
    return static_cast<std::size_t>(floats);
}

// Zeros for so many inputs of each output.
template <typename Packed>
Packed with_room(const Weights& from, int inputs, const Panelling& panelling) {
    Packed packed;
    packed.in_blocks = blocks_of(from.in_channels);
    packed.out_blocks = blocks_of(from.out_channels);
    packed.clamp = from.clamp;
    const auto room = static_cast<std::size_t>(panelling.room(packed.out_blocks)) * LANES;
    packed.values.assign(room * inputs, 0.0f);
    packed.bias.assign(room, 0.0f);
    std::copy(from.bias, from.bias + from.out_channels, packed.bias.begin());
    return packed;
}

// Input by input, the weights of some output blocks; nothing where there is none. known: inputs that there are. Returns
// the place behind them.
float* lay(float* to, const Weights& from, int known, int first_input, int inputs, int first_block, int blocks) {
    for (int k = first_input; k < first_input + inputs; k++)
        for (int o = first_block * LANES; o < (first_block + blocks) * LANES; o++, to++)
            if (k < known && o < from.out_channels) *to = from.kernel[static_cast<std::size_t>(o) * known + k];
    return to;
}

// Panel by panel, input channel by input channel, the weights of the panel's output channels.
// taps: of each input channel; channels are filled up to whole blocks only where there is one tap.
template <typename Packed>
Packed pack(const Weights& from, int taps, const Panelling& panelling) {
    const int known = from.in_channels * taps, inputs = taps == 1 ? blocks_of(known) * LANES : known;
    Packed packed = with_room<Packed>(from, inputs, panelling);
    float* to = packed.values.data();
    for (int p = 0; p < panelling.count(packed.out_blocks); p++) {
        const auto [first, blocks] = panelling.at(packed.out_blocks, p);
        to = lay(to, from, known, 0, inputs, first, panelling.room(blocks));
    }
    return packed;
}

// For each panel of inputs: for eight output blocks together, and then for single ones, input by input, their weights.
template <typename Packed>
Packed pack_dense(const Weights& from, const Panelling& panelling) {
    Packed packed = with_room<Packed>(from, blocks_of(from.in_channels) * LANES, panelling);
    float* to = packed.values.data();
    for (int p = 0; p < panelling.count(packed.in_blocks); p++) {
        const auto [first, blocks] = panelling.at(packed.in_blocks, p);
        for (int out = 0, together; out < packed.out_blocks; out += together) {
            together = out + 8 <= packed.out_blocks ? 8 : 1;
            to = lay(to, from, from.in_channels, first * LANES, blocks * LANES, out, together);
        }
    }
    return packed;
}

}  // namespace

Ahead Network::ahead(const Packed& packed, int panel) const {
    const Panelling& panelling = kernels_.panelling;
    const auto [first, blocks] = panelling.at(packed.out_blocks, panel);
    const std::ptrdiff_t block = packed.values.size() / panelling.room(packed.out_blocks);
    return {packed.values.data() + first * block, blocks * block};
}

int Network::Geometry::padded_width() const {
    // Up to the last tap of the last pixel, and all of the map, which may reach further.
    return std::max((out_width - 1) * stride + 2 * dilation + 1, pad_left + in_width);
}

std::ptrdiff_t Network::Stage::stem_floats() const { return 9 * rounded_up(stem_geometry.padded_width()); }

Network::Network(int height, int width, int threads, const Kernels& kernels)
    : height_(height), width_(width), kernels_(kernels), claims_per_step_(std::max(2, (threads + 1) / 2)),
      team_(threads), barrier_(threads) {
    require(height >= 1 && width >= 1 && height <= 1 << 14 && width <= 1 << 14, "the input has no size, or is too large");
    require(threads >= 1 && threads <= MOST_THREADS,
            MOST_THREADS == 1 ? "one thread is possible" : "1 to 1024 threads are possible");
}

const Network::Map& Network::map(ValueId value) const {
    if (value < 0 || value >= static_cast<int>(maps_.size()))
        throw std::invalid_argument("there is no map " + std::to_string(value));
    return maps_[value];
}

ValueId Network::add(Step&& step, int channels, int height, int width) {
    require(!finished_, "the network is finished");
    Map map;
    map.channels = channels;
    map.blocks = blocks_of(channels);
    map.height = height;
    map.width = width;
    map.by_rows = !is_small(height, width);
    floats_of(map.blocks, height, width, LANES);
    step.out = static_cast<ValueId>(maps_.size());
    maps_.push_back(map);
    steps_.push_back(std::move(step));
    return steps_.back().out;
}

void Network::check_stem(const Stem& stem) const {
    require(stem.weights.in_channels == 3, "the stem reads three colours");
    require(stem.pad_top >= 0 && stem.pad_left >= 0 && stem.pad_top <= 2 && stem.pad_left <= 2,
            "the stem has other padding than 0 to 2");
    require(fits(stem.out_height, 2, stem.pad_top, height_) && fits(stem.out_width, 2, stem.pad_left, width_),
            "the stem's result is larger than the pictures allow");
}

ValueId Network::stem(const Stem& stem) {
    check_stem(stem);
    Stage stage;
    stage.makes = Stage::First::STEM;
    stage.first = pack<Packed>(stem.weights, 9, kernels_.panelling);
    stage.stem_geometry = {2, 1, stem.pad_top, stem.pad_left, stem.out_height, stem.out_width, height_, width_};
    Step step{.kind = Kind::STEM};
    step.stages.push_back(std::move(stage));
    return add(std::move(step), stem.weights.out_channels, stem.out_height, stem.out_width);
}

Network::Stage Network::stage_of(const Map& in, const std::optional<Weights>& expand, const std::optional<Stem>& stem,
                                 const Filter& filter, const Weights& project, bool shortcut) const {
    Stage stage;
    if (stem) {
        stage.makes = Stage::First::STEM;
        stage.first = pack<Packed>(stem->weights, 9, kernels_.panelling);
        stage.stem_geometry = {2, 1, stem->pad_top, stem->pad_left, stem->out_height, stem->out_width, height_, width_};
    } else if (expand) {
        require(expand->in_channels == in.channels, "the expansion does not fit the map");
        stage.makes = Stage::First::EXPAND;
        stage.first = pack<Packed>(*expand, 1, kernels_.panelling);
    }
    require(filter.channels == (expand ? expand->out_channels : in.channels), "the filter does not fit the map");
    require(project.in_channels == filter.channels, "the projection does not fit the filter");
    require(filter.stride >= 1 && filter.stride <= 2 && filter.dilation >= 1 && filter.dilation <= 1 << 10 &&
                filter.pad_top >= 0 && filter.pad_left >= 0 && filter.pad_top <= 2 * filter.dilation &&
                filter.pad_left <= 2 * filter.dilation,
            "the filter has a stride, dilation or padding that is not possible");
    require(fits(filter.out_height, filter.stride, filter.pad_top, in.height) &&
                fits(filter.out_width, filter.stride, filter.pad_left, in.width),
            "the filter's result is larger than its map allows");
    require(!shortcut || (filter.out_height == in.height && filter.out_width == in.width &&
                          project.out_channels == in.channels),
            "the shortcut does not fit the result");
    stage.shortcut = shortcut;
    stage.blocks = blocks_of(filter.channels);
    stage.filter.assign(static_cast<std::size_t>(stage.blocks) * 10 * LANES, 0.0f);
    for (int c = 0; c < filter.channels; c++) {
        float* to = stage.filter.data() + static_cast<std::size_t>(c / LANES) * 10 * LANES + c % LANES;
        for (int k = 0; k < 9; k++) to[k * LANES] = filter.kernel[c * 9 + k];
        to[9 * LANES] = filter.bias[c];
    }
    stage.filter_clamp = filter.clamp;
    stage.project = pack<Packed>(project, 1, kernels_.panelling);
    stage.geometry = {filter.stride,     filter.dilation,  filter.pad_top, filter.pad_left,
                      filter.out_height, filter.out_width, in.height,      in.width};
    stage.band_rows = in.width > WIDEST_OF_TWO_ROWS ? 1 : 2;
    return stage;
}

ValueId Network::block(ValueId in, const std::optional<Weights>& expand, const std::optional<Stem>& stem,
                       const Filter& filter, const Weights& project, bool shortcut) {
    Map before;
    if (stem) {
        require(!expand && !shortcut, "a block on the stem has neither expansion nor shortcut");
        check_stem(*stem);
        before.channels = stem->weights.out_channels;
        before.height = stem->out_height;
        before.width = stem->out_width;
        in = -1;
    } else {
        before = map(in);
    }
    Step step{.kind = !stem && is_small(before.height, before.width) ? Kind::BLOCK_BY_IMAGE : Kind::BLOCKS_BY_ROWS, .in = in};
    step.stages.push_back(stage_of(before, expand, stem, filter, project, shortcut));
    return add(std::move(step), project.out_channels, filter.out_height, filter.out_width);
}

ValueId Network::pointwise(ValueId in, const Weights& weights, ValueId bias) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    require(bias == -1 || (map(bias).channels == weights.out_channels && map(bias).height * map(bias).width == 1),
            "the bias does not fit its convolution");
    Step step{.kind = Kind::POINTWISE, .in = in, .other = bias};
    step.weights = pack<Packed>(weights, 1, kernels_.panelling);
    return add(std::move(step), weights.out_channels, maps_[in].height, maps_[in].width);
}

ValueId Network::enlarge_on(ValueId in, ValueId on, Clamp clamp) {
    require(map(in).channels == map(on).channels, "the maps have other numbers of channels");
    Step step{.kind = Kind::ENLARGE, .in = in, .other = on};
    step.clamp = clamp;
    const int width = maps_[on].width, from = maps_[in].width;
    for (int x = 0; x < width; x++) {
        const double place = width == 1 ? 0.0 : static_cast<double>(x) * (from - 1) / (width - 1);
        const int left = std::min(static_cast<int>(place), from - 1);
        step.left.push_back(left);
        step.right.push_back(std::min(left + 1, from - 1));
        step.across.push_back(static_cast<float>(place - left));
    }
    return add(std::move(step), maps_[on].channels, maps_[on].height, width);
}

ValueId Network::pooled(ValueId in, const Weights& weights, const Weights& dense) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    require(dense.in_channels == weights.out_channels, "the dense layer does not fit the convolution");
    Step step{.kind = Kind::POOLED, .in = in};
    step.weights = pack<Packed>(weights, 1, kernels_.panelling);
    step.dense = pack_dense<Packed>(dense, kernels_.panelling);
    step.groups = std::min(MOST_GROUPS, kernels_.panelling.count(step.weights.out_blocks));
    return add(std::move(step), dense.out_channels, 1, 1);
}

ValueId Network::mean(ValueId in) {
    return add(Step{.kind = Kind::MEAN, .in = in}, map(in).channels, 1, 1);
}

void Network::output(ValueId value, Order order) {
    require(!finished_, "the network is finished");
    map(value);
    outputs_.emplace_back(value, order);
}

void Network::finish() {
    require(!finished_ && !steps_.empty(), "the network is finished, or empty");
    join_blocks();
    plan_scratch();
    plan_arena();
    for (std::size_t s = 0; s + 1 < steps_.size(); s++) {
        const Step& next = steps_[s + 1];
        if (next.stages.empty()) steps_[s].then = &next.weights;
        else steps_[s].then = next.stages[0].makes == Stage::First::NONE ? &next.stages[0].project : &next.stages[0].first;
    }
    claims_ = std::make_unique<std::atomic<int>[]>(steps_.size() * claims_per_step_);
    finished_ = true;
}

// A large map that only the next block reads is never whole either: that block has its rows made as it needs them.
void Network::join_blocks() {
    std::vector<Step> joined;
    for (auto& step : steps_) {
        const auto reads = [&step](const Step& other) { return other.in == step.in || other.other == step.in; };
        const bool by_rows = step.kind == Kind::BLOCKS_BY_ROWS && step.in >= 0 && !step.stages.front().shortcut;
        if (by_rows && !joined.empty() && joined.back().kind == Kind::BLOCKS_BY_ROWS && joined.back().out == step.in &&
            maps_[step.in].size() * sizeof(float) > LARGEST_KEPT &&
            std::count_if(steps_.begin(), steps_.end(), reads) == 1 &&
            std::none_of(outputs_.begin(), outputs_.end(), [&](const auto& each) { return each.first == step.in; })) {
            joined.back().stages.push_back(std::move(step.stages.front()));
            joined.back().out = step.out;
        } else {
            joined.push_back(std::move(step));
        }
    }
    steps_ = std::move(joined);
}

// What each thread, and all of them together, need beside maps while a step runs.
void Network::plan_scratch() {
    std::size_t most_stages = 1, most_rows = 1;
    for (auto& step : steps_) {
        std::size_t& floats = step.thread_scratch;
        const auto take = [&floats](auto... sizes) {
            return std::exchange(floats, floats_of(floats + rounded_up(floats_of(sizes...))));
        };
        const Stage* before = nullptr;
        for (auto& stage : step.stages) {
            if (step.kind == Kind::STEM) {
                stage.read = take(stage.stem_floats());
            } else if (step.kind == Kind::BLOCKS_BY_ROWS) {
                const Geometry& g = stage.geometry;
                const std::size_t rows = stage.ring_rows();
                stage.ring = take(rows, stage.blocks, stage.padded());
                stage.zeros = take(stage.padded());
                stage.filtered = take(stage.band_rows, stage.blocks, g.out_width, LANES);
                if (stage.makes == Stage::First::STEM) stage.read = take(rows, stage.stem_floats());
                if (before) stage.read = take(rows, before->project.out_blocks, g.in_width, LANES);
                most_rows = std::max(most_rows, rows);
            } else {
                const Geometry& g = stage.geometry;
                const std::ptrdiff_t padded = stage.padded();
                const int rows =
                    std::max((g.out_height - 1) * g.stride + 2 * g.dilation + 1, g.pad_top + g.in_height);
                for (int y = 0; y < g.in_height; y++)
                    for (int x = 0; x < g.in_width; x++)
                        step.padded_pixels.push_back(
                            static_cast<int>((g.pad_top + y) * padded + (g.pad_left + x) * LANES));
                take(kernels_.panelling.widest(), rows, padded);
                step.shared_scratch = rounded_up(floats_of(stage.blocks, g.out_height, g.out_width, LANES));
            }
            before = &stage;
        }
        most_stages = std::max(most_stages, step.stages.size());
        if (step.kind == Kind::POOLED) {
            take(kernels_.panelling.widest(), maps_[step.in].height * maps_[step.in].width + 1, LANES);
            step.shared_scratch = rounded_up(static_cast<std::size_t>(step.groups) * step.dense.out_blocks * LANES);
        }
        if (step.kind == Kind::MEAN && maps_[step.in].by_rows)
            take(static_cast<std::size_t>(maps_[step.in].height) * LANES);
    }
    held_.assign(team_.size(), std::vector<std::vector<int>>(most_stages, std::vector<int>(most_rows)));
}

// Who lives when, and where: largest first, each as low as those that live at the same time allow.
void Network::plan_arena() {
    struct Item {
        std::size_t size, offset;
        int first, last;
        std::size_t* to;
    };
    const int steps = static_cast<int>(steps_.size());
    std::vector<int> first(maps_.size(), -1), last(maps_.size(), -1);
    for (int s = 0; s < steps; s++) {
        first[steps_[s].out] = s;
        for (const ValueId read : {steps_[s].in, steps_[s].other, steps_[s].out})
            if (read >= 0) last[read] = s;
    }
    for (const auto& [value, order] : outputs_) last[value] = steps;
    std::vector<Item> items, placed;
    for (std::size_t m = 0; m < maps_.size(); m++)
        if (first[m] >= 0) items.push_back({rounded_up(maps_[m].size()), 0, first[m], last[m], &maps_[m].offset});
    for (int s = 0; s < steps; s++) {
        auto& step = steps_[s];
        const std::size_t scratch = floats_of(step.shared_scratch + floats_of(team_.size(), step.thread_scratch));
        items.push_back({scratch, 0, s, s, &step.scratch_offset});
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
        arena_floats_ = std::max(arena_floats_, floats_of(item.offset + item.size));
        placed.push_back(item);
    }
    memory_ = std::make_unique<float[]>(arena_floats_ + CACHE_LINE / sizeof(float));
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    arena_ = memory_.get() + (CACHE_LINE - address % CACHE_LINE) % CACHE_LINE / sizeof(float);
}

std::size_t Network::output_size(std::size_t index) const {
    const Map& map = maps_[outputs_[index].first];
    return static_cast<std::size_t>(map.channels) * map.height * map.width;
}

}  // namespace mobilenetv2
