// Running a network: each step is done by all threads together, which then wait for each other.
#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "network.h"

namespace mobilenetv2 {
namespace {

// No kernels have wider panels.
constexpr int MOST_BLOCKS_OF_A_PANEL = 8;
constexpr int NO_ROW = INT_MIN;
// Pixels whose levels a sum of 32 bits holds, and some of which floats lose little.
constexpr std::ptrdiff_t MOST_SUMMED = 1 << 16;

template <typename T>
T number(double value) {
    if constexpr (std::is_same_v<T, Level>) return static_cast<Level>(std::lrint(std::clamp(value, 0.0, 255.0)));
    return static_cast<T>(value);
}

}  // namespace

// What one thread knows of the step that it is at.
template <typename T>
struct Network<T>::Worker {
    int thread;
    const Picture& picture;
    std::atomic<int>* claims;  // of the step
    std::byte* scratch;        // its own
    std::vector<std::vector<int>>& held;

    template <typename N>
    N* at(std::size_t offset) const {
        return reinterpret_cast<N*>(scratch + offset);
    }
    int claim(int which) { return claims[which].fetch_add(1, std::memory_order_relaxed); }
    // Every second thread comes from below.
    bool descends() const { return thread % 2 == 1; }
};

template <typename T>
void Network<T>::run(const Picture& pictures, int count, float* const* outputs) {
    if (!finished_) throw std::invalid_argument("the network is not finished");
    const std::lock_guard<std::mutex> guard(running_);
    for (int i = 0; i < count; i++) {
        const std::size_t offset = static_cast<std::size_t>(i) * 3 * height_ * width_;
        const Picture picture{pictures.planes ? pictures.planes + offset : nullptr,
                              pictures.pixels ? pictures.pixels + offset : nullptr, pictures.table};
        for (std::size_t c = 0; c < steps_.size() * claims_per_step_; c++) claims_[c].store(0, std::memory_order_relaxed);
        team_.run([this, &picture](int thread) { work(thread, picture); });
        for (std::size_t o = 0; o < outputs_.size(); o++)
            write(maps_[outputs_[o].first], outputs_[o].second, outputs[o] + i * output_size(o));
    }
}

template <typename T>
void Network<T>::work(int thread, const Picture& picture) {
    for (std::size_t s = 0; s < steps_.size(); s++) {
        const Step& step = steps_[s];
        std::byte* scratch = arena_ + step.scratch_offset + step.shared_scratch + thread * step.thread_scratch;
        Worker worker{thread, picture, &claims_[s * claims_per_step_], scratch, held_[thread]};
        switch (step.kind) {
            case Kind::STEM: run_stem(step, worker); break;
            case Kind::BLOCKS_BY_ROWS: run_by_rows(step, worker); break;
            case Kind::BLOCK_BY_IMAGE: run_by_image(step, worker); break;
            case Kind::POINTWISE: run_pointwise(step, worker); break;
            case Kind::ENLARGE: run_enlarge(step, worker); break;
            case Kind::MEAN: run_mean(step, worker); break;
            case Kind::POOLED: run_pooled(step, worker); break;
        }
        // The last one is Team::run's own.
        if (s + 1 < steps_.size()) barrier_.wait();
    }
}

template <typename T>
void Network<T>::read_stem_rows(const Stage& stage, const Picture& picture, int row, float* to) const {
    const Geometry& g = stage.stem_geometry;
    const std::ptrdiff_t width = g.padded_width(), row_floats = stage.stem_floats() / 9;
    for (int c = 0; c < 3; c++)
        for (int ky = 0; ky < 3; ky++, to += row_floats) {
            const int y = row * 2 - g.pad_top + ky;
            if (y < 0 || y >= height_) {
                std::fill(to, to + width, 0.0f);
                continue;
            }
            float* inside = std::fill_n(to, g.pad_left, 0.0f);
            if (picture.planes) {
                const float* from = picture.planes + (static_cast<std::ptrdiff_t>(c) * height_ + y) * width_;
                inside = std::copy(from, from + width_, inside);
            } else {
                const std::uint8_t* from = picture.pixels + static_cast<std::ptrdiff_t>(y) * width_ * 3 + c;
                for (int x = 0; x < width_; x++) *inside++ = picture.table[c * 256 + from[3 * x]];
            }
            std::fill(inside, to + width, 0.0f);
        }
}

template <typename T>
void Network<T>::run_stem_row(const Stage& stage, int panel, const float* read, Run<T> out, bool wide) const {
    const float* rows[9];
    for (int r = 0; r < 9; r++) rows[r] = read + r * (stage.stem_floats() / 9);
    kernels_.stem(stage.stem.view(), panel, rows, stage.stem_geometry.out_width, out, wide);
}

template <typename T>
Panel Network<T>::groups_of(Panel panel) const {
    const int blocks = kernels_.lanes / LANES;
    return {panel.first / blocks, (panel.blocks + blocks - 1) / blocks};
}

template <typename T>
void Network<T>::widen(Run<const T> row, int blocks, Panel groups, int pixels, Run<T> out) const {
    const int together = kernels_.lanes / LANES;
    for (int b = groups.first * together; b < (groups.first + groups.blocks) * together; b++) {
        const T* from = row.at + b * row.block;
        T* to = out.at + b / together * out.block + b % together * LANES;
        if (b >= blocks)
            for (int x = 0; x < pixels; x++, to += kernels_.lanes) std::fill(to, to + LANES, T{});
        else
            for (int x = 0; x < pixels; x++, to += kernels_.lanes, from += LANES) std::copy(from, from + LANES, to);
    }
}

template <typename T>
void Network<T>::run_stem(const Step& step, Worker& worker) {
    const Stage& stage = step.stages.front();
    const Rows<T> out = rows(maps_[step.out]);
    float* read = worker.template at<float>(stage.read);
    for (int y; (y = worker.claim(0)) < stage.stem_geometry.out_height;) {
        read_stem_rows(stage, worker.picture, y, read);
        for (int p = 0; p < kernels_.panelling.count(stage.stem.out_blocks); p++)
            run_stem_row(stage, p, read, {out.of(y), out.block}, false);
    }
}

template <typename T>
void Network<T>::run_by_rows(const Step& step, Worker& worker) {
    for (std::size_t s = 0; s < step.stages.size(); s++) {
        const Stage& stage = step.stages[s];
        const Geometry& g = stage.geometry;
        const std::ptrdiff_t padded = stage.padded();
        T* ring = worker.template at<T>(stage.ring);
        for (int r = 0; r < stage.ring_rows() * stage.groups; r++) {
            T* row = ring + r * padded;
            std::fill(row, row + g.pad_left * stage.lanes, stage.zero);
            std::fill(row + (g.pad_left + g.in_width) * stage.lanes, row + padded, stage.zero);
        }
        std::fill(worker.held[s].begin(), worker.held[s].end(), NO_ROW);
    }
    // Two threads share a range of bands and come from both ends of it, so that they finish together and expand only the
    // rows at one border twice. Which rows a thread takes does not change them.
    const int last = static_cast<int>(step.stages.size()) - 1, band_rows = step.stages[last].band_rows;
    const int height = step.stages[last].geometry.out_height, bands = (height + band_rows - 1) / band_rows;
    const int threads = team_.size(), pair = worker.thread / 2;
    const int low = bands * (2 * pair) / threads, high = bands * std::min(2 * pair + 2, threads) / threads;
    const Map& out = maps_[step.out];
    const Rows<float> raw = rows<float>(out);
    for (int n = 0; worker.claim(pair) < high - low; n++) {
        const int first_row = (worker.descends() ? high - 1 - n : low + n) * band_rows;
        make_rows(step, last, worker, first_row, std::min(first_row + band_rows, height) - 1, rows(out),
                  is_raw(out) ? &raw : nullptr);
    }
}

template <typename T>
void Network<T>::make_rows(const Step& step, int s, Worker& worker, int first_row, int last_row, Rows<T> to,
                           const Rows<float>* raw) const {
    const Stage& stage = step.stages[s];
    const Geometry& g = stage.geometry;
    const int ring_rows = stage.ring_rows();
    const std::ptrdiff_t padded = stage.padded(), ring_group = ring_rows * padded;
    const std::ptrdiff_t filtered_group = static_cast<std::ptrdiff_t>(g.out_width) * stage.lanes;
    T *ring = worker.template at<T>(stage.ring), *filtered = worker.template at<T>(stage.filtered);
    // Rows of pictures for the stem, or of the stage before.
    float* read = worker.template at<float>(stage.read);

    // The rows to filter, and those of them that the ring lacks: some at one end, as bands follow each other. Around the map
    // there is nothing, in rows like others.
    const int first_read = first_row * g.stride - g.pad_top, last_read = last_row * g.stride - g.pad_top + 2 * g.dilation;
    const auto place_of = [&](int y) { return (y + g.pad_top) % ring_rows; };
    int first_missing = last_read + 1, last_missing = last_read;
    for (int y = last_read; y >= first_read; y--) {
        int& held = worker.held[s][place_of(y)];
        if (held == y) continue;
        held = y;
        if (y < 0 || y >= g.in_height) {
            for (int group = 0; group < stage.groups; group++)
                std::fill_n(ring + group * ring_group + place_of(y) * padded, padded, stage.zero);
            continue;
        }
        if (first_missing > last_read) last_missing = y;
        first_missing = y;
    }
    Rows<T> from{};
    if (stage.makes == Stage::First::STEM) {
        for (int y = first_missing; y <= last_missing; y++)
            read_stem_rows(stage, worker.picture, y, read + (y - first_missing) * stage.stem_floats());
    } else if (s > 0) {
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(g.in_width) * LANES;
        from = {worker.template at<T>(stage.read), step.stages[s - 1].project.out_blocks * block, block, first_missing};
        for (int n = 0; n <= last_missing - first_missing; n++) {
            const int y = worker.descends() ? last_missing - n : first_missing + n;
            make_rows(step, s - 1, worker, y, y, from, nullptr);
        }
    } else {
        from = rows(maps_[step.in]);
    }

    for (int p = 0; p < kernels_.panelling.count(stage.blocks); p++) {
        // What a panel expands is filtered while it is in the first cache; the rows before come from the second.
        const Panel groups = groups_of(kernels_.panelling.at(stage.blocks, p));
        for (int y = first_missing; y <= last_missing; y++) {
            const Run<T> inside{ring + place_of(y) * padded + g.pad_left * stage.lanes, ring_group};
            if (stage.makes == Stage::First::STEM) {
                run_stem_row(stage, p, read + (y - first_missing) * stage.stem_floats(), inside, true);
            } else if (stage.makes == Stage::First::EXPAND) {
                kernels_.expand(stage.expand.view(), p, {from.of(y), from.block}, g.in_width, inside, nullptr);
            } else {
                widen({from.of(y), from.block}, stage.blocks, groups, g.in_width, inside);
            }
        }
        for (int group = groups.first; group < groups.first + groups.blocks; group++)
            for (int y = first_row; y <= last_row; y++) {
                const T* taps[3];
                for (int ky = 0; ky < 3; ky++) {
                    const int row = y * g.stride - g.pad_top + ky * g.dilation;
                    taps[ky] = ring + group * ring_group + place_of(row) * padded;
                }
                kernels_.depthwise(taps, 0, stage.filter_of(group), g.stride, g.dilation, g.out_width, 1,
                                   filtered + ((y - first_row) * stage.groups + group) * filtered_group, 0,
                                   stage.filter_clamp);
            }
    }
    for (int y = first_row; y <= last_row; y++) {
        const Run<const T> shortcut = stage.shortcut ? Run<const T>{from.of(y), from.block} : Run<const T>{nullptr, 0};
        const Run<const T> row{filtered + (y - first_row) * stage.groups * filtered_group, filtered_group};
        for (int p = 0; p < kernels_.panelling.count(stage.project.out_blocks); p++)
            if (raw) kernels_.project_raw(stage.project.view(), p, row, g.out_width, {raw->of(y), raw->block});
            else kernels_.project(stage.project.view(), p, row, g.out_width, {to.of(y), to.block}, shortcut);
    }
}

template <typename T>
void Network<T>::run_by_image(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const Stage& stage = step.stages.front();
    const Geometry& g = stage.geometry;
    const Rows<T> from = rows(in);
    const std::ptrdiff_t padded = stage.padded(), out_pixels = static_cast<std::ptrdiff_t>(g.out_height) * g.out_width;
    T *filtered = at<T>(step.scratch_offset), *image = worker.template at<T>(0);
    const auto room = static_cast<std::ptrdiff_t>(step.thread_scratch / sizeof(T));
    const std::ptrdiff_t image_group = room / groups_of({0, kernels_.panelling.widest()}).blocks / stage.lanes * stage.lanes;
    std::fill(image, image + room, stage.zero);
    for (int p; (p = worker.claim(0)) < kernels_.panelling.count(stage.blocks);) {
        const Panel groups = groups_of(kernels_.panelling.at(stage.blocks, p));
        Panels<T> expand = stage.expand.view();
        if (stage.makes == Stage::First::EXPAND) expand.ahead[0] = after(stage.expand, p, &stage.project);
        // The kernel steps to the panel's first group itself.
        const Run<T> inside{image - groups.first * image_group, image_group};
        if (stage.makes == Stage::First::EXPAND && in.by_rows) {
            for (int y = 0; y < g.in_height; y++)
                kernels_.expand(expand, p, {from.of(y), from.block}, g.in_width, inside,
                                step.padded_pixels.data() + y * g.in_width);
        } else if (stage.makes == Stage::First::EXPAND) {
            kernels_.expand(expand, p, {from.at, from.block}, g.in_height * g.in_width, inside, step.padded_pixels.data());
        } else {
            for (int y = 0; y < g.in_height; y++)
                widen({from.of(y), from.block}, stage.blocks, groups, g.in_width,
                      {inside.at + step.padded_pixels[static_cast<std::size_t>(y) * g.in_width], image_group});
        }
        for (int group = groups.first; group < groups.first + groups.blocks; group++) {
            const T* taps[3];
            for (int ky = 0; ky < 3; ky++) taps[ky] = inside.at + group * image_group + ky * g.dilation * padded;
            kernels_.depthwise(taps, g.stride * padded, stage.filter_of(group), g.stride, g.dilation, g.out_width,
                               g.out_height, filtered + group * out_pixels * stage.lanes,
                               static_cast<std::ptrdiff_t>(g.out_width) * stage.lanes, stage.filter_clamp);
        }
    }
    // All threads know all filtered channels before any projects them.
    barrier_.wait();
    const int panels = kernels_.panelling.count(stage.project.out_blocks), parts = parts_of(panels, out_pixels);
    for (int unit; (unit = worker.claim(1)) < panels * parts;) {
        const std::ptrdiff_t first = out_pixels * (unit % parts) / parts, last = out_pixels * (unit % parts + 1) / parts;
        const Run<const T> some{filtered + first * stage.lanes, out_pixels * stage.lanes};
        const int pixels = static_cast<int>(last - first);
        Panels<T> project = stage.project.view();
        project.ahead[0] = after(stage.project, unit / parts, step.then);
        if (is_raw(out)) {
            const Run<float> to{at<float>(out.offset) + first * LANES, out.block()};
            kernels_.project_raw(project, unit / parts, some, pixels, to);
        } else {
            const Run<const T> shortcut =
                stage.shortcut ? Run<const T>{from.at + first * LANES, from.block} : Run<const T>{nullptr, 0};
            kernels_.project(project, unit / parts, some, pixels, {at<T>(out.offset) + first * LANES, out.block()},
                             shortcut);
        }
    }
}

// What this thread probably reads after a panel: one that no other has taken, of these weights or those that follow.
template <typename T>
Ahead Network<T>::after(const Packed<T>& packed, int panel, const Packed<T>* then) const {
    const int next = panel + team_.size(), panels = kernels_.panelling.count(packed.out_blocks);
    if (next < panels) return ahead(packed, next);
    return then && next - panels < kernels_.panelling.count(then->out_blocks) ? ahead(*then, next - panels) : Ahead{};
}

template <typename T>
int Network<T>::parts_of(int panels, std::ptrdiff_t pixels) const {
    // So many that threads do not wait long for the last, and not so many that tiles get small.
    if (team_.size() == 1 || panels % team_.size() == 0) return 1;
    return static_cast<int>(std::clamp<std::ptrdiff_t>(pixels / 12, 1, team_.size()));
}

template <typename T>
void Network<T>::run_pointwise(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    Panels<T> weights = step.weights.view();
    if (step.other >= 0) {
        const Map& other = maps_[step.other];
        float* bias = worker.template at<float>(0);
        for (std::size_t c = 0; c < step.weights.bias.size(); c++) {
            const bool is_there = c < static_cast<std::size_t>(other.blocks) * LANES;
            bias[c] = step.weights.bias[c] + (is_there ? at<float>(other.offset)[c] * step.scale : 0.0f);
        }
        weights.bias = bias;
    }
    const int panels = kernels_.panelling.count(weights.out_blocks);
    const Rows<T> from = rows(in);
    const auto panel = [&](int p, int y, int pixels) {
        const Run<const T> run{from.of(y), from.block};
        if (is_raw(out)) {
            const Rows<float> to = rows<float>(out);
            kernels_.pointwise_raw(weights, p, run, pixels, {to.of(y), to.block});
        } else {
            const Rows<T> to = rows(out);
            kernels_.pointwise(weights, p, run, pixels, {to.of(y), to.block});
        }
    };
    if (in.by_rows) {
        for (int y; (y = worker.claim(0)) < in.height;)
            for (int p = 0; p < panels; p++) panel(p, y, in.width);
        return;
    }
    for (int p; (p = worker.claim(0)) < panels;) panel(p, 0, in.height * in.width);
}

template <typename T>
void Network<T>::run_enlarge(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const Rows<float> from = rows<float>(in), on = rows<float>(maps_[step.other]);
    const Rows<T> to = rows(out);
    for (int y; (y = worker.claim(0)) < out.height;) {
        const double place = out.height == 1 ? 0.0 : static_cast<double>(y) * (in.height - 1) / (out.height - 1);
        const int above = std::min(static_cast<int>(place), in.height - 1), below = std::min(above + 1, in.height - 1);
        for (int b = 0; b < in.blocks; b++)
            kernels_.enlarge(from.of(above) + b * from.block, from.of(below) + b * from.block,
                             static_cast<float>(place - above), step.left.data(), step.right.data(), step.across.data(),
                             out.width, on.of(y) + b * on.block, to.of(y) + b * to.block, step.scale, step.offset,
                             step.clamp);
    }
}

template <typename T>
void Network<T>::run_mean(const Step& step, Worker& worker) {
    const Map& in = maps_[step.in];
    const Rows<T> from = rows(in);
    T* to = at<T>(maps_[step.out].offset);
    for (int b; (b = worker.claim(0)) < in.blocks;) {
        double sums[LANES] = {};
        for (int y = 0; y < (in.by_rows ? in.height : 1); y++) {
            Sum of_row[LANES] = {};
            kernels_.sum(from.of(y) + b * from.block, in.by_rows ? in.width : in.height * in.width, of_row);
            for (int lane = 0; lane < LANES; lane++) sums[lane] += of_row[lane];
        }
        for (int lane = 0; lane < LANES; lane++)
            to[b * LANES + lane] = number<T>(sums[lane] / (in.height * in.width) * step.scale + step.offset);
    }
}

template <typename T>
void Network<T>::run_pooled(const Step& step, Worker& worker) {
    const Map& in = maps_[step.in];
    const Rows<T> from = rows(in);
    const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(in.height) * in.width;
    const int panels = kernels_.panelling.count(step.weights.out_blocks), outputs = step.dense.out_blocks * LANES;
    T* image = worker.template at<T>(0);
    T means[MOST_BLOCKS_OF_A_PANEL * LANES];
    Sum* all_sums = at<Sum>(step.scratch_offset);
    for (int group; (group = worker.claim(0)) < step.groups;) {
        Sum* sums = all_sums + static_cast<std::ptrdiff_t>(group) * outputs;
        std::fill(sums, sums + outputs, Sum{});
        for (int p = panels * group / step.groups; p < panels * (group + 1) / step.groups; p++) {
            const auto [first, blocks] = kernels_.panelling.at(step.weights.out_blocks, p);
            const std::ptrdiff_t of_panel = static_cast<std::ptrdiff_t>(LANES) * outputs;
            const Weight* rows_of_panel = step.dense.values.data() + first * of_panel;
            const Run<T> panel{image - first * pixels * LANES, pixels * LANES};
            Panels<T> weights = step.weights.view();
            // The dense layer's weights come from memory while the convolution multiplies.
            weights.ahead[0] = {reinterpret_cast<const char*>(rows_of_panel),
                                static_cast<std::ptrdiff_t>(blocks * of_panel * sizeof(Weight))};
            if (p + 1 < panels) weights.ahead[1] = ahead(step.weights, p + 1);
            for (int y = 0; y < (in.by_rows ? in.height : 1); y++) {
                kernels_.pointwise(weights, p, {from.of(y), from.block}, in.by_rows ? in.width : static_cast<int>(pixels),
                                   {panel.at + y * in.width * LANES, panel.block});
                // The first row has fetched them.
                weights.ahead[0] = weights.ahead[1] = {};
            }
            for (int b = 0; b < blocks; b++) {
                double of_block[LANES] = {};
                for (std::ptrdiff_t at = 0; at < pixels; at += MOST_SUMMED) {
                    Sum some[LANES] = {};
                    const auto count = static_cast<int>(std::min(pixels - at, MOST_SUMMED));
                    kernels_.sum(image + (b * pixels + at) * LANES, count, some);
                    for (int lane = 0; lane < LANES; lane++) of_block[lane] += some[lane];
                }
                for (int lane = 0; lane < LANES; lane++)
                    means[b * LANES + lane] =
                        number<T>(of_block[lane] / static_cast<double>(pixels) * step.scale + step.offset);
            }
            kernels_.dense(rows_of_panel, means, blocks * LANES, step.dense.out_blocks, sums);
        }
    }
    barrier_.wait();
    if (worker.claim(1) > 0) return;
    float* to = at<float>(maps_[step.out].offset);
    for (int o = 0; o < outputs; o++) {
        Sum sum{};
        for (int group = 0; group < step.groups; group++) sum += all_sums[static_cast<std::ptrdiff_t>(group) * outputs + o];
        const float scale = std::is_same_v<T, Level> ? step.dense.scale[o] : 1.0f;
        const float value = static_cast<float>(sum) * scale + step.dense.bias[o];
        to[o] = std::clamp(value, step.dense.clamp.low, step.dense.clamp.high);
    }
}

template <typename T>
void Network<T>::write(const Map& map, Order order, float* to) const {
    const Rows<float> from = rows<float>(map);
    const std::ptrdiff_t width = map.width;
    if (order == Order::PIXELS) {
        for (int y = 0; y < map.height; y++)
            for (int b = 0; b < map.blocks; b++) {
                const int lanes = std::min(LANES, map.channels - b * LANES);
                const float* row = from.of(y) + b * from.block;
                float* out = to + y * width * map.channels + b * LANES;
                for (int x = 0; x < width; x++, out += map.channels) std::copy_n(row + x * LANES, lanes, out);
            }
        return;
    }
    for (int y = 0; y < map.height; y++)
        for (int c = 0; c < map.channels; c++) {
            const float* row = from.of(y) + (c / LANES) * from.block + c % LANES;
            float* out = to + (static_cast<std::ptrdiff_t>(c) * map.height + y) * width;
            for (int x = 0; x < width; x++) out[x] = row[x * LANES];
        }
}

template class Network<float>;
template class Network<Level>;

}  // namespace mobilenetv2
