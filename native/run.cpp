// Running a network: each step is done by all threads together, which then wait for each other.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "network.h"

namespace mobilenetv2 {
namespace {

// No kernels have wider panels.
constexpr int MOST_BLOCKS_OF_A_PANEL = 8;
// Pixels whose levels a sum of 32 bits holds, and some of which floats lose little.
constexpr std::ptrdiff_t MOST_SUMMED = 1 << 16;

template <typename T>
T number(double value) {
    if constexpr (std::is_same_v<T, Level>) return static_cast<Level>(std::lrint(std::clamp(value, 0.0, 255.0)));
    return static_cast<T>(value);
}

}  // namespace

template <typename T>
void Network<T>::run(const Picture& pictures, int count, float* const* outputs) {
    if (!finished_) throw std::invalid_argument("the network is not finished");
    const std::lock_guard<std::mutex> guard(running_);
    const auto picture_at = [&](int i) {
        const std::size_t offset = static_cast<std::size_t>(i) * 3 * height_ * width_;
        return Picture{pictures.planes ? pictures.planes + offset : nullptr,
                       pictures.pixels ? pictures.pixels + offset : nullptr, pictures.table};
    };
    // Threads that need not wait for each other are done sooner, as long as there is a picture for each.
    const int threads = team_.size(), alone = threads == 1 ? 0 : count / threads * threads;
    if (alone > 0) {
        std::atomic<int> next{0};
        team_.run([&](int thread) {
            for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < alone;) {
                Crew& crew = crews_[1 + thread];
                crew.begin();
                work(crew, 0, held_[thread], picture_at(i));
                write_outputs(crew, outputs, i);
            }
        });
    }
    for (int i = alone; i < count; i++) {
        const Picture picture = picture_at(i);
        crews_[0].begin();
        team_.run([&](int thread) { work(crews_[0], thread, held_[thread], picture); });
        write_outputs(crews_[0], outputs, i);
    }
}

template <typename T>
void Network<T>::work(Crew& crew, int thread, std::vector<std::vector<int>>& held, const Picture& picture) {
    for (std::size_t s = 0; s < steps_.size(); s++) {
        const Step& step = steps_[s];
        std::byte *shared = crew.arena + crew.layout.scratch[s], *own = shared + step.shared_scratch;
        Worker worker{thread, crew, picture, &crew.claims[s * claims_per_step_], shared, own + thread * step.thread_scratch,
                      held};
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
        if (s + 1 < steps_.size()) crew.barrier.wait();
    }
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
            bias[c] = step.weights.bias[c] + (is_there ? worker.template rows<float>(other).at[c] * step.scale : 0.0f);
        }
        weights.bias = bias;
    }
    const int panels = kernels_.panelling.count(weights.out_blocks);
    const Rows<T> from = worker.rows(in);
    const auto panel = [&](int p, int y, int pixels) {
        const Run<const T> run{from.of(y), from.block};
        if (is_raw(out)) {
            const Rows<float> to = worker.template rows<float>(out);
            kernels_.pointwise_raw(weights, p, run, pixels, {to.of(y), to.block});
        } else {
            const Rows<T> to = worker.rows(out);
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
    const Rows<float> from = worker.template rows<float>(in), on = worker.template rows<float>(maps_[step.other]);
    const Rows<T> to = worker.rows(out);
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
    const Rows<T> from = worker.rows(in);
    T* to = worker.rows(maps_[step.out]).at;
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
    const Rows<T> from = worker.rows(in);
    const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(in.height) * in.width;
    const int panels = kernels_.panelling.count(step.weights.out_blocks), outputs = step.dense.out_blocks * LANES;
    T* image = worker.template at<T>(0);
    T means[MOST_BLOCKS_OF_A_PANEL * LANES];
    Sum* all_sums = reinterpret_cast<Sum*>(worker.shared);
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
    worker.crew.barrier.wait();
    if (worker.claim(1) > 0) return;
    float* to = worker.template rows<float>(maps_[step.out]).at;
    for (int o = 0; o < outputs; o++) {
        Sum sum{};
        for (int group = 0; group < step.groups; group++) sum += all_sums[static_cast<std::ptrdiff_t>(group) * outputs + o];
        const float scale = std::is_same_v<T, Level> ? step.dense.scale[o] : 1.0f;
        const float value = static_cast<float>(sum) * scale + step.dense.bias[o];
        to[o] = std::clamp(value, step.dense.clamp.low, step.dense.clamp.high);
    }
}

template <typename T>
void Network<T>::write_outputs(const Crew& crew, float* const* outputs, int picture) const {
    for (std::size_t o = 0; o < outputs_.size(); o++) {
        const Map& map = maps_[outputs_[o].first];
        const Rows<float> from = rows_of<float>(crew, map);
        float* to = outputs[o] + picture * output_size(o);
        const std::ptrdiff_t width = map.width;
        for (int y = 0; y < map.height; y++)
            for (int b = 0; b < map.blocks; b++) {
                const float* row = from.of(y) + b * from.block;
                const int first = b * LANES, lanes = std::min(LANES, map.channels - first);
                if (outputs_[o].second == Order::PIXELS) {
                    float* pixel = to + y * width * map.channels + first;
                    for (int x = 0; x < width; x++, pixel += map.channels) std::copy_n(row + x * LANES, lanes, pixel);
                } else {
                    for (int lane = 0; lane < lanes; lane++) {
                        float* plane = to + (static_cast<std::ptrdiff_t>(first + lane) * map.height + y) * width;
                        for (int x = 0; x < width; x++) plane[x] = row[x * LANES + lane];
                    }
                }
            }
    }
}

template class Network<float>;
template class Network<Level>;

}  // namespace mobilenetv2
