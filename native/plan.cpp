// Building a network: checks, joins blocks, plans memory.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "network.h"
#include "packing.h"

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

bool is_small(int height, int width) { return height * width <= MOST_PIXELS_OF_AN_IMAGE; }

// Whether the first tap of every result lies before the end of a map.
bool fits(std::int64_t results, int stride, int pad, int size) {
    return results >= 1 && (results - 1) * stride - pad < size;
}

// The product of some sizes, in bytes. Refuses what cannot be addressed, before 32 bits make something small of it.
template <typename... Sizes>
std::size_t bytes_of(Sizes... sizes) {
    std::uint64_t bytes = 1;
    for (const std::uint64_t size : {static_cast<std::uint64_t>(sizes)...}) {
        require(size <= PTRDIFF_MAX / bytes, "the network needs more memory than there can be");
        bytes *= std::max<std::uint64_t>(size, 1);
    }
    return static_cast<std::size_t>(bytes);
}

}  // namespace

template <typename T>
Ahead Network<T>::ahead(const Packed<T>& packed, int panel) const {
    const Panelling& panelling = kernels_.panelling;
    const auto [first, blocks] = panelling.at(packed.out_blocks, panel);
    const std::ptrdiff_t block = packed.values.size() / panelling.room(packed.out_blocks);
    return {reinterpret_cast<const char*>(packed.values.data() + first * block),
            static_cast<std::ptrdiff_t>(blocks * block * sizeof(Weight))};
}

template <typename T>
int Network<T>::Geometry::padded_width() const {
    // Up to the last tap of the last pixel, and all of the map, which may reach further.
    return std::max((out_width - 1) * stride + 2 * dilation + 1, pad_left + in_width);
}

template <typename T>
std::ptrdiff_t Network<T>::Stage::stem_floats() const {
    return 9 * rounded_up(stem_geometry.padded_width() * sizeof(float)) / sizeof(float);
}

template <typename T>
Network<T>::Network(int height, int width, int threads, const Kernels<T>& kernels)
    : height_(height), width_(width), kernels_(kernels), claims_per_step_(std::max(2, (threads + 1) / 2)),
      team_(threads) {
    require(height >= 1 && width >= 1 && height <= 1 << 14 && width <= 1 << 14, "the input has no size, or is too large");
    require(threads >= 1 && threads <= MOST_THREADS,
            MOST_THREADS == 1 ? "one thread is possible" : "1 to 1024 threads are possible");
}

template <typename T>
const typename Network<T>::Map& Network<T>::map(ValueId value) const {
    if (value < 0 || value >= static_cast<int>(maps_.size()))
        throw std::invalid_argument("there is no map " + std::to_string(value));
    return maps_[value];
}

// What layers read is rounded; floats among levels are for results alone.
template <typename T>
void Network<T>::check_levels(const Map& map) const {
    if constexpr (std::is_same_v<T, Level>) require(!map.levels.raw(), "a map of floats is read where levels must be");
}

template <typename T>
ValueId Network<T>::add(Step&& step, int channels, int height, int width, Levels levels) {
    require(!finished_, "the network is finished");
    require_levels(levels);
    Map map;
    map.channels = channels;
    map.blocks = blocks_of(channels);
    map.height = height;
    map.width = width;
    map.levels = levels;
    map.by_rows = !is_small(height, width);
    bytes_of(map.blocks, height, width, LANES, sizeof(float));
    step.out = map.id = static_cast<ValueId>(maps_.size());
    maps_.push_back(map);
    steps_.push_back(std::move(step));
    return steps_.back().out;
}

template <typename T>
void Network<T>::check_stem(const Stem& stem) const {
    require(stem.weights.in_channels == 3, "the stem reads three colours");
    require(stem.pad_top >= 0 && stem.pad_left >= 0 && stem.pad_top <= 2 && stem.pad_left <= 2,
            "the stem has other padding than 0 to 2");
    require(fits(stem.out_height, 2, stem.pad_top, height_) && fits(stem.out_width, 2, stem.pad_left, width_),
            "the stem's result is larger than the pictures allow");
    require_levels(stem.weights.to);
    if constexpr (std::is_same_v<T, Level>) require(!stem.weights.to.raw(), "the stem's result needs levels");
}

template <typename T>
typename Network<T>::Stage Network<T>::stem_stage(const Stem& stem, Levels to) {
    Stage stage;
    stage.makes = Stage::First::STEM;
    stage.stem = pack<Packed<float>>(pages_, stem.weights, 9, kernels_.panelling);
    if (!to.raw()) {
        // Its weights give levels at once.
        for (float& value : stage.stem.values) value /= to.scale;
        for (float& value : stage.stem.bias) value = value / to.scale + static_cast<float>(to.zero);
        stage.stem.clamp = in_levels(stem.weights.clamp, to);
    }
    stage.stem_geometry = {2, 1, stem.pad_top, stem.pad_left, stem.out_height, stem.out_width, height_, width_};
    return stage;
}

template <typename T>
ValueId Network<T>::stem(const Stem& stem) {
    check_stem(stem);
    Step step{.kind = Kind::STEM};
    step.stages.push_back(stem_stage(stem, stem.weights.to));
    return add(std::move(step), stem.weights.out_channels, stem.out_height, stem.out_width, stem.weights.to);
}

template <typename T>
typename Network<T>::Stage Network<T>::stage_of(const Map& in, const std::optional<Weights<T>>& expand,
                                                const std::optional<Stem>& stem, const Filter<T>& filter,
                                                const Weights<T>& project, bool shortcut) {
    Stage stage;
    check_levels(in);
    Levels filtered = in.levels;
    if (stem) {
        stage = stem_stage(*stem, stem->weights.to);
    } else if (expand) {
        require(expand->in_channels == in.channels, "the expansion does not fit the map");
        require_levels(expand->to);
        require_pairs(*expand, expand->in_channels, expand->in_channels);
        filtered = expand->to;
        stage.makes = Stage::First::EXPAND;
        stage.expand = pack<Packed<T>>(pages_, *expand, 1, kernels_.panelling, in.levels);
    }
    const Weights<T>& taps = filter.weights;
    require(taps.out_channels == (expand ? expand->out_channels : in.channels), "the filter does not fit the map");
    require(project.in_channels == taps.out_channels, "the projection does not fit the filter");
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
    require_levels(taps.to);
    require_pairs(taps, 9, 3);
    require_pairs(project, project.in_channels, project.in_channels);
    if constexpr (std::is_same_v<T, Level>) {
        require(!filtered.raw() && !taps.to.raw(), "what is expanded or filtered needs levels");
        require(!shortcut || !project.to.raw(), "a result with a shortcut needs levels");
    }
    stage.shortcut = shortcut;
    stage.zero = static_cast<T>(filtered.zero);
    stage.blocks = blocks_of(taps.out_channels);
    stage.lanes = kernels_.lanes;
    stage.groups = (stage.blocks * LANES + stage.lanes - 1) / stage.lanes;
    stage.filter.assign(stage.groups * stage.lanes / LANES, FilterBlock<T>{});
    set_filter(stage.filter, stage.lanes, stage.filter_clamp, taps, filtered);
    stage.project = pack<Packed<T>>(pages_, project, 1, kernels_.panelling, taps.to, stage.groups * stage.lanes);
    if (shortcut && !project.to.raw()) {
        stage.project.shortcut = in.levels.scale / project.to.scale;
        for (float& bias : stage.project.bias) bias -= static_cast<float>(in.levels.zero) * stage.project.shortcut;
    }
    stage.geometry = {filter.stride,     filter.dilation,  filter.pad_top, filter.pad_left,
                      filter.out_height, filter.out_width, in.height,      in.width};
    stage.band_rows = in.width > WIDEST_OF_TWO_ROWS ? 1 : 2;
    return stage;
}

template <typename T>
ValueId Network<T>::block(ValueId in, const std::optional<Weights<T>>& expand, const std::optional<Stem>& stem,
                          const Filter<T>& filter, const Weights<T>& project, bool shortcut) {
    Map before;
    if (stem) {
        require(!expand && !shortcut, "a block on the stem has neither expansion nor shortcut");
        check_stem(*stem);
        before.channels = stem->weights.out_channels;
        before.height = stem->out_height;
        before.width = stem->out_width;
        before.levels = stem->weights.to;
        in = -1;
    } else {
        before = map(in);
    }
    const bool by_image = !stem && is_small(before.height, before.width);
    Step step{.kind = by_image ? Kind::BLOCK_BY_IMAGE : Kind::BLOCKS_BY_ROWS, .in = in};
    step.stages.push_back(stage_of(before, expand, stem, filter, project, shortcut));
    return add(std::move(step), project.out_channels, filter.out_height, filter.out_width, project.to);
}

template <typename T>
ValueId Network<T>::pointwise(ValueId in, const Weights<T>& weights, ValueId bias) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    require(bias == -1 || (map(bias).channels == weights.out_channels && map(bias).height * map(bias).width == 1),
            "the bias does not fit its convolution");
    require(bias == -1 || map(bias).levels.raw(), "the bias must be floats");
    check_levels(maps_[in]);
    require_levels(weights.to);
    require_pairs(weights, weights.in_channels, weights.in_channels);
    Step step{.kind = Kind::POINTWISE, .in = in, .other = bias};
    Weights<T> own = weights;
    const std::vector<float> none(bias < 0 ? 0 : weights.out_channels);
    if (bias >= 0) own.bias = none.data();
    step.weights = pack<Packed<T>>(pages_, own, 1, kernels_.panelling, maps_[in].levels);
    if (!weights.to.raw()) step.scale = 1 / weights.to.scale;
    return add(std::move(step), weights.out_channels, maps_[in].height, maps_[in].width, weights.to);
}

template <typename T>
ValueId Network<T>::enlarge_on(ValueId in, ValueId on, Clamp clamp, Levels to) {
    require(map(in).channels == map(on).channels, "the maps have other numbers of channels");
    require(map(in).levels.raw() && map(on).levels.raw(), "maps must be floats to be enlarged and added");
    require_levels(to);
    if constexpr (std::is_same_v<T, Level>) require(!to.raw(), "what is enlarged and added needs levels");
    Step step{.kind = Kind::ENLARGE, .in = in, .other = on};
    step.clamp = in_levels(clamp, to);
    if (!to.raw()) step.scale = 1 / to.scale;
    step.offset = static_cast<float>(to.zero);
    const int width = maps_[on].width, from = maps_[in].width;
    for (int x = 0; x < width; x++) {
        const double place = width == 1 ? 0.0 : static_cast<double>(x) * (from - 1) / (width - 1);
        const int left = std::min(static_cast<int>(place), from - 1);
        step.left.push_back(left);
        step.right.push_back(std::min(left + 1, from - 1));
        step.across.push_back(static_cast<float>(place - left));
    }
    return add(std::move(step), maps_[on].channels, maps_[on].height, width, to);
}

template <typename T>
ValueId Network<T>::pooled(ValueId in, const Weights<T>& weights, const Weights<T>& dense, Levels mean) {
    require(weights.in_channels == map(in).channels, "the convolution does not fit the map");
    require(dense.in_channels == weights.out_channels, "the dense layer does not fit the convolution");
    check_levels(maps_[in]);
    require_levels(weights.to);
    require_levels(mean);
    require_pairs(weights, weights.in_channels, weights.in_channels);
    require_pairs(dense, dense.in_channels, dense.in_channels);
    if constexpr (std::is_same_v<T, Level>) require(!weights.to.raw() && !mean.raw(), "what is pooled needs levels");
    require(dense.to.raw(), "the dense layer's result must be floats");
    Step step{.kind = Kind::POOLED, .in = in};
    step.weights = pack<Packed<T>>(pages_, weights, 1, kernels_.panelling, maps_[in].levels);
    step.dense = pack_dense<Packed<T>>(pages_, dense, kernels_.panelling, mean);
    if (!mean.raw()) {
        step.scale = weights.to.scale / mean.scale;
        step.offset = static_cast<float>(mean.zero) - static_cast<float>(weights.to.zero) * step.scale;
    }
    step.groups = std::min(MOST_GROUPS, kernels_.panelling.count(step.weights.out_blocks));
    return add(std::move(step), dense.out_channels, 1, 1, {});
}

template <typename T>
ValueId Network<T>::mean(ValueId in, Levels to) {
    require_levels(to);
    check_levels(map(in));
    Step step{.kind = Kind::MEAN, .in = in};
    if constexpr (std::is_same_v<T, Level>) {
        require(!to.raw(), "a mean needs levels");
        step.scale = maps_[in].levels.scale / to.scale;
        step.offset = static_cast<float>(to.zero) - static_cast<float>(maps_[in].levels.zero) * step.scale;
    }
    return add(std::move(step), maps_[in].channels, 1, 1, to);
}

template <typename T>
void Network<T>::output(ValueId value, Order order) {
    require(!finished_, "the network is finished");
    require(map(value).levels.raw(), "an output must be floats");
    outputs_.emplace_back(value, order);
}

template <typename T>
void Network<T>::finish() {
    require(!finished_ && !steps_.empty(), "the network is finished, or empty");
    join_blocks();
    plan_scratch();
    for (std::size_t s = 0; s + 1 < steps_.size(); s++) {
        const Step& next = steps_[s + 1];
        if (next.stages.empty()) {
            steps_[s].then = &next.weights;
        } else {
            const Stage& first = next.stages[0];
            steps_[s].then = first.makes == Stage::First::EXPAND ? &first.expand : &first.project;
        }
        if (steps_[s].then->values.empty()) steps_[s].then = nullptr;
    }
    together_ = layout_for(team_.size());
    alone_ = layout_for(1);
    const auto add_crew = [this](const Layout& layout) {
        crews_.emplace_back(layout, pages_.take<std::byte>(layout.bytes).data(), steps_.size() * claims_per_step_);
    };
    add_crew(together_);
    for (int t = 0; team_.size() > 1 && t < team_.size(); t++) add_crew(alone_);
    finished_ = true;
}

// A large map that only the next block reads is never whole either: that block has its rows made as it needs them.
template <typename T>
void Network<T>::join_blocks() {
    std::vector<Step> joined;
    for (auto& step : steps_) {
        const auto reads = [&step](const Step& other) { return other.in == step.in || other.other == step.in; };
        const bool by_rows = step.kind == Kind::BLOCKS_BY_ROWS && step.in >= 0 && !step.stages.front().shortcut;
        if (by_rows && !joined.empty() && joined.back().kind == Kind::BLOCKS_BY_ROWS && joined.back().out == step.in &&
            maps_[step.in].bytes() > LARGEST_KEPT && std::count_if(steps_.begin(), steps_.end(), reads) == 1 &&
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
template <typename T>
void Network<T>::plan_scratch() {
    std::size_t most_stages = 1, most_rows = 1;
    for (auto& step : steps_) {
        std::size_t& bytes = step.thread_scratch;
        const auto take = [&bytes](auto... sizes) {
            return std::exchange(bytes, bytes_of(bytes + rounded_up(bytes_of(sizes...))));
        };
        const Stage* before = nullptr;
        for (auto& stage : step.stages) {
            if (step.kind == Kind::STEM) {
                stage.read = take(sizeof(float), stage.stem_floats());
            } else if (step.kind == Kind::BLOCKS_BY_ROWS) {
                const Geometry& g = stage.geometry;
                const std::size_t rows = stage.ring_rows();
                stage.ring = take(sizeof(T), rows, stage.groups, stage.padded());
                stage.filtered = take(sizeof(T), stage.band_rows, stage.groups, g.out_width, stage.lanes);
                if (stage.makes == Stage::First::STEM) stage.read = take(sizeof(float), rows, stage.stem_floats());
                if (before) stage.read = take(sizeof(T), rows, before->project.out_blocks, g.in_width, LANES);
                most_rows = std::max(most_rows, rows);
            } else {
                const Geometry& g = stage.geometry;
                const std::ptrdiff_t padded = stage.padded();
                const int rows =
                    std::max((g.out_height - 1) * g.stride + 2 * g.dilation + 1, g.pad_top + g.in_height);
                for (int y = 0; y < g.in_height; y++)
                    for (int x = 0; x < g.in_width; x++)
                        step.padded_pixels.push_back(
                            static_cast<int>((g.pad_top + y) * padded + (g.pad_left + x) * stage.lanes));
                stage.image_group = rows * padded;
                take(sizeof(T), groups_of({0, kernels_.panelling.widest()}).blocks, rows, padded);
                // What kernels read behind a row must not be what another thread writes. By rows there is more behind them.
                if (std::is_same_v<T, Level>) take(CACHE_LINE);
                step.shared_scratch =
                    rounded_up(bytes_of(sizeof(T), stage.groups, g.out_height, g.out_width, stage.lanes));
            }
            before = &stage;
        }
        most_stages = std::max(most_stages, step.stages.size());
        const Map* in = step.in < 0 ? nullptr : &maps_[step.in];
        if (step.kind == Kind::POOLED) {
            take(sizeof(T), kernels_.panelling.widest(), in->height, in->width, LANES);
            step.shared_scratch = rounded_up(bytes_of(sizeof(Sum), step.groups, step.dense.out_blocks, LANES));
        }
        // The bias.
        if (step.kind == Kind::POINTWISE && step.other >= 0) take(sizeof(float), step.weights.bias.size());
    }
    held_.assign(team_.size(), std::vector<std::vector<int>>(most_stages, std::vector<int>(most_rows)));
}

// Who lives when, and where: largest first, each as low as those that live at the same time allow.
template <typename T>
typename Network<T>::Layout Network<T>::layout_for(int threads) const {
    struct Item {
        std::size_t size, offset;
        int first, last;
        std::size_t* to;
    };
    Layout layout{threads, 0, std::vector<std::size_t>(maps_.size()), std::vector<std::size_t>(steps_.size())};
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
        if (first[m] >= 0) items.push_back({rounded_up(maps_[m].bytes()), 0, first[m], last[m], &layout.maps[m]});
    for (int s = 0; s < steps; s++) {
        const auto& step = steps_[s];
        const std::size_t scratch = bytes_of(step.shared_scratch + bytes_of(threads, step.thread_scratch));
        items.push_back({scratch, 0, s, s, &layout.scratch[s]});
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
        layout.bytes = std::max(layout.bytes, bytes_of(item.offset + item.size));
        placed.push_back(item);
    }
    return layout;
}

template <typename T>
std::size_t Network<T>::output_size(std::size_t index) const {
    const Map& map = maps_[outputs_[index].first];
    return static_cast<std::size_t>(map.channels) * map.height * map.width;
}

template class Network<float>;
template class Network<Level>;

}  // namespace mobilenetv2
