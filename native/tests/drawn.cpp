// Draws networks and compares what the engine makes of them with plain loops in double precision.
//
//     drawn SECONDS [FIRST_SEED]
//
// Each seed is a network of a few layers of any kind, on pictures of any small size, of floats and again of levels, by each in
// turn of the kernels that this processor runs. Of floats its outputs must be within 1e-5 of the largest of the reference
// (2e-5 where each product is rounded, too); of levels they must be the same bits by all kernels with vectors. Both must be
// the same bits for other numbers of threads, again, and for callers at the same time. Then one argument of one layer is made
// wild: the engine must refuse it, or run it without reading or writing where it must not, which sanitizers see (`make
// sanitize`). Says the seed of what fails, and exits with 1.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "../network.h"

using namespace mobilenetv2;

namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

struct Plane {
    int channels, height, width;
    std::vector<double> values;
    Plane(int c, int h, int w) : channels(c), height(h), width(w), values(static_cast<std::size_t>(c) * h * w) {}
    double& at(int c, int y, int x) { return values[(static_cast<std::size_t>(c) * height + y) * width + x]; }
    // Zero outside.
    double get(int c, int y, int x) const {
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        return inside ? values[(static_cast<std::size_t>(c) * height + y) * width + x] : 0.0;
    }
};

double clamped(double value, Clamp to) { return std::min<double>(std::max<double>(value, to.low), to.high); }

struct Shape {
    int side, stride, dilation, top, left, height, width;
};

template <typename T>
Plane convolved(const Plane& in, const Weights<T>& w, bool depthwise, const Shape& s) {
    Plane out(w.out_channels, s.height, s.width);
    const int inputs = depthwise ? 1 : in.channels;
    for (int o = 0; o < w.out_channels; o++)
        for (int y = 0; y < s.height; y++)
            for (int x = 0; x < s.width; x++) {
                double sum = w.bias[o];
                const auto* kernel = w.kernel + static_cast<std::size_t>(o) * inputs * s.side * s.side;
                for (int i = 0; i < inputs; i++)
                    for (int ky = 0; ky < s.side; ky++)
                        for (int kx = 0; kx < s.side; kx++, kernel++)
                            sum += *kernel * in.get(depthwise ? o : i, y * s.stride - s.top + ky * s.dilation,
                                                    x * s.stride - s.left + kx * s.dilation);
                out.at(o, y, x) = clamped(sum, w.clamp);
            }
    return out;
}

template <typename T>
Plane pointwise_of(const Plane& in, const Weights<T>& w) {
    return convolved(in, w, false, {1, 1, 1, 0, 0, in.height, in.width});
}

Plane mean_of(const Plane& in) {
    Plane out(in.channels, 1, 1);
    for (int c = 0; c < in.channels; c++) {
        for (int y = 0; y < in.height; y++)
            for (int x = 0; x < in.width; x++) out.at(c, 0, 0) += in.get(c, y, x);
        out.at(c, 0, 0) /= in.height * in.width;
    }
    return out;
}

Plane enlarged_on(const Plane& in, const Plane& on, Clamp to) {
    Plane out(on.channels, on.height, on.width);
    const auto place = [](int at, int size, int from) {
        return size == 1 ? 0.0 : static_cast<double>(at) * (from - 1) / (size - 1);
    };
    for (int c = 0; c < on.channels; c++)
        for (int y = 0; y < on.height; y++)
            for (int x = 0; x < on.width; x++) {
                const double v = place(y, on.height, in.height), u = place(x, on.width, in.width);
                const int y0 = std::min(static_cast<int>(v), in.height - 1), y1 = std::min(y0 + 1, in.height - 1);
                const int x0 = std::min(static_cast<int>(u), in.width - 1), x1 = std::min(x0 + 1, in.width - 1);
                const double upper = in.get(c, y0, x0) * (1 - u + x0) + in.get(c, y0, x1) * (u - x0);
                const double lower = in.get(c, y1, x0) * (1 - u + x0) + in.get(c, y1, x1) * (u - x0);
                out.at(c, y, x) = clamped(upper * (1 - v + y0) + lower * (v - y0) + on.get(c, y, x), to);
            }
    return out;
}

// One network from one seed, built as often as it is asked for. wild: one argument of one layer is anything.
// Of levels the reference means nothing: tests/unit/test_engine_levels.py holds those against whole numbers.
template <typename T>
class Drawing {
  public:
    // kernels: which of them, in their order.
    Drawing(std::uint64_t seed, std::uint64_t kernels, bool wild)
        : seed_(seed), kernels_(kernels), wild_(wild), picture_(3, 0, 0) {}

    void build(int threads) {
        random_.seed(seed_);
        kept_.clear();
        maps_.clear();
        readable_.clear();
        outputs_.clear();
        orders_.clear();
        picture_ = Plane(3, between(1, 70), between(1, 70));
        // Which of all arguments that are asked for.
        until_wild_ = wild_ ? between(0, 40) : -1;
        for (auto& value : picture_.values) value = static_cast<float>(real(-1, 1));
        const auto kernels = all_kernels<T>();
        network_ = std::make_unique<Network<T>>(picture_.height, picture_.width, threads, *kernels[kernels_ % kernels.size()]);
        first();
        for (int n = between(0, 5); n > 0; n--) next();
        if (chance(2)) classify();
        else outputs_.push_back(pointwise(any(), between(1, 50), -1, true));
        if (chance(3)) outputs_.push_back(pointwise(any(), between(1, 50), -1, true));
        for (int o : outputs_) {
            orders_.push_back(chance(2) ? Network<T>::Order::PIXELS : Network<T>::Order::PLANES);
            network_->output(maps_[o].first, orders_.back());
        }
        network_->finish();
    }

    std::vector<std::vector<float>> run() {
        // As many as threads, fewer, more, or some times as many.
        const int pictures = 1 + static_cast<int>(seed_ % 5);
        std::vector<float> in;
        for (int p = 0; p < pictures; p++) in.insert(in.end(), picture_.values.begin(), picture_.values.end());
        std::vector<std::vector<float>> found;
        std::vector<float*> to;
        for (std::size_t o = 0; o < outputs_.size(); o++)
            found.emplace_back(pictures * network_->output_size(o), std::numeric_limits<float>::quiet_NaN());
        for (auto& each : found) to.push_back(each.data());
        network_->run({in.data()}, pictures, to.data());
        return found;
    }

    // The largest difference of all outputs, in shares of the largest value of each.
    double difference(const std::vector<std::vector<float>>& found) const {
        double worst = 0;
        for (std::size_t o = 0; o < outputs_.size(); o++) {
            const Plane& wanted = maps_[outputs_[o]].second;
            double largest = 1e-3, error = 0;
            for (double value : wanted.values) largest = std::max(largest, std::abs(value));
            for (std::size_t n = 0; n < found[o].size(); n++) {
                const std::size_t i = n % wanted.values.size(), pixels = wanted.height * wanted.width;
                const bool by_pixels = orders_[o] == Network<T>::Order::PIXELS;
                const double value = wanted.values[by_pixels ? i % wanted.channels * pixels + i / wanted.channels : i];
                const double distance = std::abs(found[o][n] - value);
                error = distance <= error ? error : distance;  // NaN stays
            }
            worst = error / largest <= worst ? worst : error / largest;
        }
        return worst;
    }

  private:
    using Weight = typename Numbers<T>::Weight;
    struct Layer {
        std::vector<float> kernel, bias, steps;
        std::vector<std::int8_t> whole;
    };

    int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
    double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }
    bool chance(int of) { return between(1, of) == 1; }
    // An argument of a layer, which may be the wild one.
    int argument(int right) {
        if (until_wild_-- != 0) return right;
        const int wild[] = {-1, 0, right + 1, right - 1, 2, 3, 7, 1 << 9, 1 << 20, std::numeric_limits<int>::max(),
                            std::numeric_limits<int>::min()};
        return wild[between(0, 10)];
    }
    Clamp clamp() { return chance(2) ? Clamp{0, 6} : Clamp{-INFINITE, INFINITE}; }

    // Exactly as large as it must be, so that a sanitizer sees what is read behind it. raw: the result holds floats.
    template <typename N>
    Weights<N> layer_of(int out, int in, int taps, bool raw) {
        kept_.emplace_back();
        Layer& kept = kept_.back();
        const double most = 1.7 / std::sqrt(static_cast<double>(in) * taps);
        for (std::size_t n = static_cast<std::size_t>(out) * in * taps; n > 0; n--) {
            const double share = real(-1, 1);
            if constexpr (std::is_same_v<N, Level>) kept.whole.push_back(static_cast<std::int8_t>(share * 63));
            else kept.kernel.push_back(static_cast<float>(share * most));
        }
        for (int n = 0; n < out; n++) {
            kept.bias.push_back(static_cast<float>(real(-.5, .5)));
            kept.steps.push_back(static_cast<float>(most / 63));
        }
        for (auto* each : {&kept.kernel, &kept.bias, &kept.steps}) each->shrink_to_fit();
        kept.whole.shrink_to_fit();
        const Clamp to = clamp();
        const Levels levels = raw ? Levels{} : this->levels();
        if constexpr (std::is_same_v<N, Level>)
            return {kept.whole.data(), kept.bias.data(), out, in, to, kept.steps.data(), levels};
        else
            return {kept.kernel.data(), kept.bias.data(), out, in, to, nullptr, levels};
    }
    Weights<T> layer(int out, int in, int taps, bool raw = false) { return layer_of<T>(out, in, taps, raw); }
    // Of a result; none in a network of floats.
    Levels levels() {
        if (std::is_same_v<T, float>) return {};
        return {static_cast<float>(real(.01, .05)), argument(between(0, 255))};
    }
    Stem stem() {
        const int top = between(0, 1), left = between(0, 1);
        return {layer_of<float>(between(1, 40), 3, 9, false), argument(top), argument(left), argument((picture_.height + 1) / 2),
                argument((picture_.width + 1) / 2)};
    }
    Plane of_stem(const Stem& s) const {
        return convolved(picture_, s.weights, false, {3, 2, 1, s.pad_top, s.pad_left, s.out_height, s.out_width});
    }
    ValueId id(int map) { return argument(maps_[map].first); }
    // One of those that can be read; and the last of them.
    int any() { return readable_[between(0, static_cast<int>(readable_.size()) - 1)]; }
    int last() const { return readable_.back(); }
    int keep(ValueId value, Plane&& plane, bool raw = false) {
        maps_.emplace_back(value, std::move(plane));
        const int map = static_cast<int>(maps_.size()) - 1;
        if (!raw || std::is_same_v<T, float>) readable_.push_back(map);
        return map;
    }

    void first() {
        const Stem from = stem();
        if (chance(2)) {
            // Checked by the engine before the reference allocates.
            const ValueId value = network_->stem(from);
            keep(value, of_stem(from));
        } else {
            block(from);
        }
    }

    void block(const std::optional<Stem>& from) {
        const int in = from ? -1 : any();
        const Plane* before = from ? nullptr : &maps_[in].second;
        const int channels = from ? from->weights.out_channels : before->channels;
        const int height = from ? from->out_height : before->height, width = from ? from->out_width : before->width;
        std::optional<Weights<T>> expand;
        if (!from && chance(2)) expand = layer(between(1, 60), channels, 1);
        const Weights<T> taps = layer(expand ? expand->out_channels : channels, 1, 9);
        const int stride = between(1, 2), dilation = chance(3) ? between(1, 3) : 1;
        const int top = between(0, 1) * dilation, left = between(0, 1) * dilation;
        // A wild stem may be as large as an int.
        const auto divided = [stride](std::int64_t size) { return static_cast<int>((size + stride - 1) / stride); };
        const Filter<T> filter{taps,          argument(stride),          argument(dilation),       argument(top),
                               argument(left), argument(divided(height)), argument(divided(width))};
        const bool shortcut = !from && stride == 1 && chance(3);
        const Weights<T> project = layer(shortcut ? channels : between(1, 40), taps.out_channels, 1);
        const ValueId value = network_->block(from ? -1 : id(in), expand, from, filter, project, shortcut);
        Plane x = from ? of_stem(*from) : *before;
        if (expand) x = pointwise_of(x, *expand);
        x = convolved(x, taps, true, {3, filter.stride, filter.dilation, filter.pad_top, filter.pad_left,
                                      filter.out_height, filter.out_width});
        x = pointwise_of(x, project);
        if (shortcut)
            for (std::size_t n = 0; n < x.values.size(); n++) x.values[n] += before->values[n];
        keep(value, std::move(x));
    }

    int pointwise(int in, int out, int bias, bool raw = false) {
        const Plane& before = maps_[in].second;
        Weights<T> weights = layer(out, before.channels, 1, raw);
        const ValueId value = network_->pointwise(id(in), weights, bias < 0 ? -1 : id(bias));
        std::vector<float> sum;
        if (bias >= 0) {
            for (double each : maps_[bias].second.values) sum.push_back(static_cast<float>(each));
            weights.bias = sum.data();
        }
        return keep(value, pointwise_of(before, weights), raw);
    }

    void next() {
        const int in = any(), last = this->last(), channels = maps_[last].second.channels;
        switch (between(0, 5)) {
            case 0: pointwise(in, between(1, 50), -1); return;
            case 1: {
                const ValueId value = network_->mean(id(last), levels());
                const int mean = keep(value, mean_of(maps_[last].second));
                pointwise(last, channels, pointwise(mean, channels, -1, true));
                return;
            }
            case 2: {
                const int small = pointwise(in, channels, -1, true), on = pointwise(last, channels, -1, true);
                const Clamp to = clamp();
                const ValueId value = network_->enlarge_on(id(small), id(on), to, levels());
                keep(value, enlarged_on(maps_[small].second, maps_[on].second, to));
                return;
            }
            default: return block(std::nullopt);
        }
    }

    void classify() {
        const Plane before = maps_[last()].second;
        const Weights<T> head = layer(between(1, 90), before.channels, 1);
        const Weights<T> dense = layer(between(1, 90), head.out_channels, 1, true);
        const ValueId value = network_->pooled(id(last()), head, dense, levels());
        const Plane pooled = mean_of(pointwise_of(before, head));
        outputs_.push_back(keep(value, pointwise_of(pooled, dense), true));
    }

    const std::uint64_t seed_, kernels_;
    const bool wild_;
    std::mt19937_64 random_;
    int until_wild_ = -1;
    Plane picture_;
    std::deque<Layer> kept_;
    std::deque<std::pair<ValueId, Plane>> maps_;
    std::vector<int> outputs_, readable_;
    std::vector<typename Network<T>::Order> orders_;
    std::unique_ptr<Network<T>> network_;
};

bool same_bits(const std::vector<std::vector<float>>& one, const std::vector<std::vector<float>>& other) {
    for (std::size_t o = 0; o < one.size(); o++)
        if (std::memcmp(one[o].data(), other[o].data(), one[o].size() * sizeof(float)) != 0)
            return false;
    return true;
}

// What is wrong with a seed's network; nothing if all is well.
template <typename T>
std::string wrong_with(std::uint64_t seed) {
    const std::size_t kinds = all_kernels<T>().size();
    Drawing<T> drawing(seed, seed, false);
    drawing.build(1);
    const auto found = drawing.run();
    if (std::is_same_v<T, float>) {
        const double difference = drawing.difference(found);
        // Portable kernels round products as well, but on arm64: of 3,300 networks one was 1.2e-5 away by them, half as far by
        // others.
#if defined(__aarch64__)
        const double most = 1e-5;
#else
        const double most = seed % kinds == kinds - 1 ? 2e-5 : 1e-5;
#endif
        if (!(difference < most)) return "differs by " + std::to_string(difference) + " of the largest output";
    } else if (kinds == 3 && seed % kinds < 2) {
        // The portable kernels of x86-64 have no multiply-add in one instruction, and round otherwise.
        Drawing<T> other(seed, 1 - seed % kinds, false);
        other.build(1);
        if (!same_bits(found, other.run())) return "other kernels have other bits";
    }
    if (!same_bits(found, drawing.run())) return "a second run has other bits";
    if constexpr (MOST_THREADS > 1) {
        drawing.build(2 + static_cast<int>(seed % 3));
        bool same[3];
        const auto call = [&](int caller) { same[caller] = same_bits(found, drawing.run()); };
        std::thread second(call, 1), third(call, 2);
        call(0);
        second.join();
        third.join();
        if (!same[0] || !same[1] || !same[2]) return "other bits for more threads";
    }
    return "";
}

// Whether the engine refuses a seed's wild argument; it may as well run it.
template <typename T>
bool refuses_wild(std::uint64_t seed) {
    try {
        Drawing<T> wild(seed, seed, true);
        wild.build(std::min(2, MOST_THREADS));
        wild.run();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

template <typename T>
void print_kernels(const char* what) {
    std::printf("%s by", what);
    for (const auto* each : all_kernels<T>()) std::printf("%s %s", each == all_kernels<T>().front() ? "" : ",", each->name);
    std::printf("; ");
}

}  // namespace

int main(int count, char** arguments) {
    const double seconds = count > 1 ? std::atof(arguments[1]) : 1;
    const std::uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
    const auto began = std::chrono::steady_clock::now();
    std::uint64_t seed = first, refused = 0;
    for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds; seed++) {
        for (const bool floats : {true, false}) {
            const std::string wrong = floats ? wrong_with<float>(seed) : wrong_with<Level>(seed);
            if (!wrong.empty()) {
                std::printf("seed %llu, %s: %s\n", static_cast<unsigned long long>(seed), floats ? "floats" : "levels",
                            wrong.c_str());
                return 1;
            }
            refused += floats ? refuses_wild<float>(seed) : refuses_wild<Level>(seed);
        }
    }
    print_kernels<float>("floats");
    print_kernels<Level>("levels");
    std::printf("%d networks of each from seed %d on are right; of as many with a wild argument %d were refused\n",
                static_cast<int>(seed - first), static_cast<int>(first), static_cast<int>(refused));
}
