// Running a network: each step is done by all threads together, which then wait for each other.
#include <algorithm>
#include <stdexcept>

#include "network.h"

namespace mobilenetv2 {

// What one thread knows of the step that it is at.
struct Network::Worker {
    int thread;
    const float* picture;
    std::atomic<int>* claims;  // of the step
    float* scratch;            // its own
    std::vector<std::vector<int>>& held;

    int claim(int which) { return claims[which].fetch_add(1, std::memory_order_relaxed); }
    // Every second thread comes from below.
    bool descends() const { return thread % 2 == 1; }
};

void Network::run(const float* pictures, int count, float* const* outputs) {
    if (!finished_) throw std::invalid_argument("the network is not finished");
    const std::lock_guard<std::mutex> guard(running_);
    for (int i = 0; i < count; i++) {
        const float* picture = pictures + static_cast<std::size_t>(i) * 3 * height_ * width_;
        for (std::size_t c = 0; c < steps_.size() * claims_per_step_; c++) claims_[c].store(0, std::memory_order_relaxed);
        team_.run([this, picture](int thread) { work(thread, picture); });
        for (std::size_t o = 0; o < outputs_.size(); o++)
            write(maps_[outputs_[o].first], outputs_[o].second, outputs[o] + i * output_size(o));
    }
}

void Network::work(int thread, const float* picture) {
    for (std::size_t s = 0; s < steps_.size(); s++) {
        const Step& step = steps_[s];
        float* scratch = arena_ + step.scratch_offset + step.shared_scratch + thread * step.thread_scratch;
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

void Network::read_stem_rows(const Stage& stage, const float* picture, int row, float* to) const {
    const Geometry& g = stage.stem_geometry;
    const std::ptrdiff_t width = g.padded_width(), row_floats = stage.stem_floats() / 9;
    for (int c = 0; c < 3; c++)
        for (int ky = 0; ky < 3; ky++, to += row_floats) {
            const int y = row * 2 - g.pad_top + ky;
            std::fill(to, to + width, 0.0f);
            if (y < 0 || y >= height_) continue;
            const float* from = picture + (static_cast<std::ptrdiff_t>(c) * height_ + y) * width_;
            std::copy(from, from + width_, to + g.pad_left);
        }
}

void Network::run_stem_row(const Stage& stage, int panel, const float* read, Run out) const {
    const float* rows[9];
    for (int r = 0; r < 9; r++) rows[r] = read + r * (stage.stem_floats() / 9);
    kernels_.stem(stage.first.view(), panel, rows, stage.stem_geometry.out_width, out);
}

void Network::run_stem(const Step& step, Worker& worker) {
    const Stage& stage = step.stages.front();
    const Rows out = rows(maps_[step.out]);
    float* read = worker.scratch + stage.read;
    for (int y; (y = worker.claim(0)) < stage.stem_geometry.out_height;) {
        read_stem_rows(stage, worker.picture, y, read);
        for (int p = 0; p < kernels_.panelling.count(stage.first.out_blocks); p++)
            run_stem_row(stage, p, read, {out.of(y), out.block});
    }
}

void Network::run_by_rows(const Step& step, Worker& worker) {
    for (std::size_t s = 0; s < step.stages.size(); s++) {
        const Stage& stage = step.stages[s];
        const Geometry& g = stage.geometry;
        const std::ptrdiff_t padded = stage.padded();
        float* zeros = worker.scratch + stage.zeros;
        std::fill(zeros, zeros + padded, 0.0f);
        for (int r = 0; r < stage.ring_rows() * stage.blocks; r++) {
            float* row = worker.scratch + stage.ring + r * padded;
            std::fill(row, row + g.pad_left * LANES, 0.0f);
            std::fill(row + (g.pad_left + g.in_width) * LANES, row + padded, 0.0f);
        }
        std::fill(worker.held[s].begin(), worker.held[s].end(), -1);
    }
    // Two threads share a range of bands and come from both ends of it, so that they finish together and expand only the
    // rows at one border twice. Which rows a thread takes does not change them.
    const int last = static_cast<int>(step.stages.size()) - 1, band_rows = step.stages[last].band_rows;
    const int height = step.stages[last].geometry.out_height, bands = (height + band_rows - 1) / band_rows;
    const int threads = team_.size(), pair = worker.thread / 2;
    const int low = bands * (2 * pair) / threads, high = bands * std::min(2 * pair + 2, threads) / threads;
    for (int n = 0; worker.claim(pair) < high - low; n++) {
        const int first_row = (worker.descends() ? high - 1 - n : low + n) * band_rows;
        make_rows(step, last, worker, first_row, std::min(first_row + band_rows, height) - 1, rows(maps_[step.out]));
    }
}

void Network::make_rows(const Step& step, int s, Worker& worker, int first_row, int last_row, Rows to) const {
    const Stage& stage = step.stages[s];
    const Geometry& g = stage.geometry;
    const int ring_rows = stage.ring_rows();
    const std::ptrdiff_t padded = stage.padded(), ring_block = ring_rows * padded;
    const std::ptrdiff_t filtered_block = static_cast<std::ptrdiff_t>(g.out_width) * LANES;
    float *ring = worker.scratch + stage.ring, *filtered = worker.scratch + stage.filtered;
    float *read = worker.scratch + stage.read, *zeros = worker.scratch + stage.zeros;

    // The rows to filter, and those of them that the ring lacks: some at one end, as bands follow each other.
    const int first_read = std::max(first_row * g.stride - g.pad_top, 0);
    const int last_read = std::min(last_row * g.stride - g.pad_top + 2 * g.dilation, g.in_height - 1);
    int first_missing = last_read + 1, last_missing = last_read;
    for (int y = last_read; y >= first_read; y--) {
        int& held = worker.held[s][y % ring_rows];
        if (held == y) continue;
        if (first_missing > last_read) last_missing = y;
        first_missing = held = y;
    }
    Rows from{};
    if (stage.makes == Stage::First::STEM) {
        for (int y = first_missing; y <= last_missing; y++)
            read_stem_rows(stage, worker.picture, y, read + (y - first_missing) * stage.stem_floats());
    } else if (s > 0) {
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(g.in_width) * LANES;
        from = {read, step.stages[s - 1].project.out_blocks * block, block, first_missing};
        for (int n = 0; n <= last_missing - first_missing; n++) {
            const int y = worker.descends() ? last_missing - n : first_missing + n;
            make_rows(step, s - 1, worker, y, y, from);
        }
    } else {
        from = rows(maps_[step.in]);
    }

    for (int p = 0; p < kernels_.panelling.count(stage.blocks); p++) {
        // What a panel expands is filtered while it is in the first cache; the rows before come from the second.
        const auto [first, blocks] = kernels_.panelling.at(stage.blocks, p);
        for (int y = first_missing; y <= last_missing; y++) {
            const Run inside{ring + y % ring_rows * padded + g.pad_left * LANES, ring_block};
            if (stage.makes == Stage::First::STEM) {
                run_stem_row(stage, p, read + (y - first_missing) * stage.stem_floats(), inside);
            } else if (stage.makes == Stage::First::EXPAND) {
                kernels_.pointwise(stage.first.view(), p, {from.of(y), from.block}, g.in_width, inside, nullptr,
                                   {nullptr, 0});
            } else {
                for (int b = first; b < first + blocks; b++) {
                    const float* row = from.of(y) + b * from.block;
                    std::copy(row, row + g.in_width * LANES, inside.at + b * inside.block);
                }
            }
        }
        for (int b = first; b < first + blocks; b++)
            for (int y = first_row; y <= last_row; y++) {
                const float* taps[3];
                for (int ky = 0; ky < 3; ky++) {
                    const int row = y * g.stride - g.pad_top + ky * g.dilation;
                    const bool outside = row < 0 || row >= g.in_height;
                    taps[ky] = outside ? zeros : ring + b * ring_block + row % ring_rows * padded;
                }
                kernels_.depthwise(taps, stage.filter.data() + b * 10 * LANES, g.stride, g.dilation, g.out_width,
                                   filtered + ((y - first_row) * stage.blocks + b) * filtered_block,
                                   stage.filter_clamp);
            }
    }
    for (int y = first_row; y <= last_row; y++) {
        const ConstRun shortcut = stage.shortcut ? ConstRun{from.of(y), from.block} : ConstRun{nullptr, 0};
        const ConstRun row{filtered + (y - first_row) * stage.blocks * filtered_block, filtered_block};
        for (int p = 0; p < kernels_.panelling.count(stage.project.out_blocks); p++)
            kernels_.pointwise(stage.project.view(), p, row, g.out_width, {to.of(y), to.block}, nullptr, shortcut);
    }
}

void Network::run_by_image(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const Stage& stage = step.stages.front();
    const Geometry& g = stage.geometry;
    const Rows from = rows(in);
    const std::ptrdiff_t padded = stage.padded(), out_pixels = static_cast<std::ptrdiff_t>(g.out_height) * g.out_width;
    float *filtered = arena_ + step.scratch_offset, *image = worker.scratch;
    const std::ptrdiff_t image_block = static_cast<std::ptrdiff_t>(step.thread_scratch) / kernels_.panelling.widest() / LANES * LANES;
    std::fill(image, image + step.thread_scratch, 0.0f);
    for (int p; (p = worker.claim(0)) < kernels_.panelling.count(stage.blocks);) {
        const auto [first, blocks] = kernels_.panelling.at(stage.blocks, p);
        Panels expand = stage.first.view();
        if (stage.makes == Stage::First::EXPAND) expand.ahead[0] = after(stage.first, p, &stage.project);
        // The kernel steps to the panel's first block itself.
        const Run inside{image - first * image_block, image_block};
        if (stage.makes == Stage::First::EXPAND && in.by_rows) {
            for (int y = 0; y < g.in_height; y++)
                kernels_.pointwise(expand, p, {from.of(y), from.block}, g.in_width, inside,
                                   step.padded_pixels.data() + y * g.in_width, {nullptr, 0});
        } else if (stage.makes == Stage::First::EXPAND) {
            kernels_.pointwise(expand, p, {from.at, from.block}, g.in_height * g.in_width, inside,
                               step.padded_pixels.data(), {nullptr, 0});
        } else {
            for (int b = first; b < first + blocks; b++)
                for (int y = 0; y < g.in_height; y++) {
                    const float* row = from.of(y) + b * from.block;
                    std::copy(row, row + g.in_width * LANES,
                              inside.at + b * image_block + step.padded_pixels[static_cast<std::size_t>(y) * g.in_width]);
                }
        }
        for (int b = first; b < first + blocks; b++)
            for (int y = 0; y < g.out_height; y++) {
                const float* taps[3];
                for (int ky = 0; ky < 3; ky++)
                    taps[ky] = inside.at + b * image_block + (y * g.stride + ky * g.dilation) * padded;
                kernels_.depthwise(taps, stage.filter.data() + b * 10 * LANES, g.stride, g.dilation, g.out_width,
                                   filtered + (b * out_pixels + y * g.out_width) * LANES, stage.filter_clamp);
            }
    }
    // All threads know all filtered channels before any projects them.
    barrier_.wait();
    const int panels = kernels_.panelling.count(stage.project.out_blocks), parts = parts_of(panels, out_pixels);
    for (int unit; (unit = worker.claim(1)) < panels * parts;) {
        const std::ptrdiff_t first = out_pixels * (unit % parts) / parts, last = out_pixels * (unit % parts + 1) / parts;
        const ConstRun shortcut =
            stage.shortcut ? ConstRun{from.at + first * LANES, from.block} : ConstRun{nullptr, 0};
        Panels project = stage.project.view();
        project.ahead[0] = after(stage.project, unit / parts, step.then);
        kernels_.pointwise(project, unit / parts, {filtered + first * LANES, out_pixels * LANES},
                           static_cast<int>(last - first), {at(out) + first * LANES, out.block()}, nullptr, shortcut);
    }
}

// What this thread probably reads after a panel: one that no other has taken, of these weights or those that follow.
Ahead Network::after(const Packed& packed, int panel, const Packed* then) const {
    const int next = panel + team_.size(), panels = kernels_.panelling.count(packed.out_blocks);
    if (next < panels) return ahead(packed, next);
    return then && next - panels < kernels_.panelling.count(then->out_blocks) ? ahead(*then, next - panels) : Ahead{};
}

int Network::parts_of(int panels, std::ptrdiff_t pixels) const {
    // So many that threads do not wait long for the last, and not so many that tiles get small.
    if (team_.size() == 1 || panels % team_.size() == 0) return 1;
    return static_cast<int>(std::clamp<std::ptrdiff_t>(pixels / 12, 1, team_.size()));
}

void Network::run_pointwise(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    Panels weights = step.weights.view();
    if (step.other >= 0) weights.bias = at(maps_[step.other]);
    const int panels = kernels_.panelling.count(weights.out_blocks);
    const Rows from = rows(in), to = rows(out);
    if (in.by_rows) {
        for (int y; (y = worker.claim(0)) < in.height;)
            for (int p = 0; p < panels; p++)
                kernels_.pointwise(weights, p, {from.of(y), from.block}, in.width, {to.of(y), to.block}, nullptr,
                                   {nullptr, 0});
        return;
    }
    for (int p; (p = worker.claim(0)) < panels;)
        kernels_.pointwise(weights, p, {from.at, from.block}, in.height * in.width, {to.at, to.block}, nullptr,
                           {nullptr, 0});
}

void Network::run_enlarge(const Step& step, Worker& worker) {
    const Map &in = maps_[step.in], &out = maps_[step.out];
    const Rows from = rows(in), on = rows(maps_[step.other]), to = rows(out);
    for (int y; (y = worker.claim(0)) < out.height;) {
        const double place = out.height == 1 ? 0.0 : static_cast<double>(y) * (in.height - 1) / (out.height - 1);
        const int above = std::min(static_cast<int>(place), in.height - 1), below = std::min(above + 1, in.height - 1);
        for (int b = 0; b < in.blocks; b++)
            kernels_.enlarge(from.of(above) + b * from.block, from.of(below) + b * from.block,
                             static_cast<float>(place - above), step.left.data(), step.right.data(), step.across.data(),
                             out.width, on.of(y) + b * on.block, to.of(y) + b * to.block, step.clamp);
    }
}

void Network::run_mean(const Step& step, Worker& worker) {
    const Map& in = maps_[step.in];
    const Rows from = rows(in);
    float* to = at(maps_[step.out]);
    for (int b; (b = worker.claim(0)) < in.blocks;) {
        if (in.by_rows) {
            for (int y = 0; y < in.height; y++)
                kernels_.mean(from.of(y) + b * from.block, in.width, worker.scratch + y * LANES);
            kernels_.mean(worker.scratch, in.height, to + b * LANES);
        } else {
            kernels_.mean(from.at + b * from.block, in.height * in.width, to + b * LANES);
        }
    }
}

void Network::run_pooled(const Step& step, Worker& worker) {
    const Map& in = maps_[step.in];
    const Rows from = rows(in);
    const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(in.height) * in.width;
    const int panels = kernels_.panelling.count(step.weights.out_blocks), outputs = step.dense.out_blocks * LANES;
    float *image = worker.scratch, *means = image + kernels_.panelling.widest() * pixels * LANES, *all_sums = arena_ + step.scratch_offset;
    for (int group; (group = worker.claim(0)) < step.groups;) {
        float* sums = all_sums + static_cast<std::ptrdiff_t>(group) * outputs;
        std::fill(sums, sums + outputs, 0.0f);
        for (int p = panels * group / step.groups; p < panels * (group + 1) / step.groups; p++) {
            const auto [first, blocks] = kernels_.panelling.at(step.weights.out_blocks, p);
            const float* rows_of_panel = step.dense.values.data() + static_cast<std::ptrdiff_t>(first) * LANES * outputs;
            const Run panel{image - first * pixels * LANES, pixels * LANES};
            Panels weights = step.weights.view();
            // The dense layer's weights come from memory while the convolution multiplies.
            weights.ahead[0] = {rows_of_panel, static_cast<std::ptrdiff_t>(blocks) * LANES * outputs};
            if (p + 1 < panels) weights.ahead[1] = ahead(step.weights, p + 1);
            for (int y = 0; y < (in.by_rows ? in.height : 1); y++) {
                kernels_.pointwise(weights, p, {from.of(y), from.block}, in.by_rows ? in.width : static_cast<int>(pixels),
                                   {panel.at + y * in.width * LANES, panel.block}, nullptr, {nullptr, 0});
                // The first row has fetched them.
                weights.ahead[0] = weights.ahead[1] = {};
            }
            for (int b = 0; b < blocks; b++)
                kernels_.mean(image + b * pixels * LANES, static_cast<int>(pixels), means + b * LANES);
            kernels_.dense(rows_of_panel, means, blocks * LANES, step.dense.out_blocks, sums);
        }
    }
    barrier_.wait();
    if (worker.claim(1) > 0) return;
    float* to = at(maps_[step.out]);
    for (int o = 0; o < outputs; o++) {
        float sum = step.dense.bias[o];
        for (int group = 0; group < step.groups; group++) sum += all_sums[static_cast<std::ptrdiff_t>(group) * outputs + o];
        to[o] = std::clamp(sum, step.dense.clamp.low, step.dense.clamp.high);
    }
}

void Network::write(const Map& map, Order order, float* to) const {
    const Rows from = rows(map);
    const std::ptrdiff_t width = map.width, step = order == Order::PIXELS ? map.channels : 1;
    for (int y = 0; y < map.height; y++)
        for (int c = 0; c < map.channels; c++) {
            const float* row = from.of(y) + (c / LANES) * from.block + c % LANES;
            float* out = order == Order::PIXELS ? to + y * width * map.channels + c
                                                : to + (static_cast<std::ptrdiff_t>(c) * map.height + y) * width;
            for (int x = 0; x < width; x++) out[x * step] = row[x * LANES];
        }
}

}  // namespace mobilenetv2
