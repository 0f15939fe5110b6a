// Running blocks, by rows and by images, and the stem.
#include <algorithm>
#include <climits>

#include "network.h"

namespace mobilenetv2 {
namespace {

constexpr int NO_ROW = INT_MIN;

// So many parts of pixels that threads do not wait long for the last, and not so many that tiles get small.
int parts_of(int panels, std::ptrdiff_t pixels, int threads) {
    if (threads == 1 || panels % threads == 0) return 1;
    return static_cast<int>(std::clamp<std::ptrdiff_t>(pixels / 12, 1, threads));
}

}  // namespace

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
    const Rows<T> out = worker.rows(maps_[step.out]);
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
    const int threads = worker.crew.size, pair = worker.thread / 2;
    const int low = bands * (2 * pair) / threads, high = bands * std::min(2 * pair + 2, threads) / threads;
    const Map& out = maps_[step.out];
    const Rows<float> raw = worker.template rows<float>(out);
    for (int n = 0; worker.claim(pair) < high - low; n++) {
        const int first_row = (worker.descends() ? high - 1 - n : low + n) * band_rows;
        make_rows(step, last, worker, first_row, std::min(first_row + band_rows, height) - 1, worker.rows(out),
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
        from = worker.rows(maps_[step.in]);
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
    const Rows<T> from = worker.rows(in);
    const std::ptrdiff_t padded = stage.padded(), out_pixels = static_cast<std::ptrdiff_t>(g.out_height) * g.out_width;
    T *filtered = reinterpret_cast<T*>(worker.shared), *image = worker.template at<T>(0);
    const std::ptrdiff_t image_group = stage.image_group;
    std::fill_n(image, groups_of({0, kernels_.panelling.widest()}).blocks * image_group, stage.zero);
    for (int p; (p = worker.claim(0)) < kernels_.panelling.count(stage.blocks);) {
        const Panel groups = groups_of(kernels_.panelling.at(stage.blocks, p));
        Panels<T> expand = stage.expand.view();
        if (stage.makes == Stage::First::EXPAND) expand.ahead[0] = after(worker, stage.expand, p, &stage.project);
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
    worker.crew.barrier.wait();
    const int panels = kernels_.panelling.count(stage.project.out_blocks);
    const int parts = parts_of(panels, out_pixels, worker.crew.size);
    for (int unit; (unit = worker.claim(1)) < panels * parts;) {
        const std::ptrdiff_t first = out_pixels * (unit % parts) / parts, last = out_pixels * (unit % parts + 1) / parts;
        const Run<const T> some{filtered + first * stage.lanes, out_pixels * stage.lanes};
        const int pixels = static_cast<int>(last - first);
        Panels<T> project = stage.project.view();
        project.ahead[0] = after(worker, stage.project, unit / parts, step.then);
        if (is_raw(out)) {
            const Run<float> to{worker.template rows<float>(out).at + first * LANES, out.block()};
            kernels_.project_raw(project, unit / parts, some, pixels, to);
        } else {
            const Run<const T> shortcut =
                stage.shortcut ? Run<const T>{from.at + first * LANES, from.block} : Run<const T>{nullptr, 0};
            kernels_.project(project, unit / parts, some, pixels, {worker.rows(out).at + first * LANES, out.block()},
                             shortcut);
        }
    }
}

// What this thread probably reads after a panel: one that no other has taken, of these weights or those that follow.
template <typename T>
Ahead Network<T>::after(const Worker& worker, const Packed<T>& packed, int panel, const Packed<T>* then) const {
    const int next = panel + worker.crew.size, panels = kernels_.panelling.count(packed.out_blocks);
    if (next < panels) return ahead(packed, next);
    return then && next - panels < kernels_.panelling.count(then->out_blocks) ? ahead(*then, next - panels) : Ahead{};
}

template class Network<float>;
template class Network<Level>;

}  // namespace mobilenetv2
