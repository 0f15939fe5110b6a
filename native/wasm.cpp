// What a page's JavaScript sees of the engine; tests/wasm.mjs calls it.
//
// A layer is a record in the module's memory: words of 32 bits, one after the other, with addresses for pointers
// and 0 for none. What it is made of may be released once it is added.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "network.h"

using namespace mobilenetv2;

#define EXPORT(name) __attribute__((export_name(#name))) name

namespace {

constexpr int REFUSED = -1;
std::string why;

// The result of a call, or REFUSED where it throws.
template <typename Call>
int unless_refused(const Call& call) {
    try {
        return call();
    } catch (const std::exception& refusal) {
        why = refusal.what();
        return REFUSED;
    }
}
template <typename Call>
int on(Network<float>* network, const Call& call) {
    return unless_refused([&] {
        // Here address 0 can be read like any other.
        if (!network) throw std::invalid_argument("there is no network");
        return call(*network);
    });
}

void check(const float* at, std::uint64_t floats) {
    const std::uint64_t pages = __builtin_wasm_memory_size(0), end = pages << 16;
    const std::uint64_t first = reinterpret_cast<std::uintptr_t>(at);
    if (!at || first % sizeof(float) != 0 || first > end || floats > (end - first) / sizeof(float))
        throw std::invalid_argument("an array is not in the module's memory");
}
void check(const float* kernel, const float* bias, int out, int in, int taps) {
    if (out < 1 || in < 1 || out > 1 << 20 || in > 1 << 20)
        throw std::invalid_argument("a kernel has no channels, or too many");
    check(kernel, std::uint64_t{1} * out * in * taps);
    check(bias, out);
}

// Records as they lie in memory.
struct WeightsRecord {
    const float *kernel, *bias;
    int out_channels, in_channels;
    Clamp clamp;
};
struct StemRecord {
    WeightsRecord weights;
    int pad_top, pad_left, out_height, out_width;
};
struct FilterRecord {
    const float *kernel, *bias;
    int channels;
    Clamp clamp;
    int stride, dilation, pad_top, pad_left, out_height, out_width;
};
static_assert(sizeof(WeightsRecord) == 24 && sizeof(StemRecord) == 40 && sizeof(FilterRecord) == 44);

Weights<float> checked(const WeightsRecord* from, int taps = 1) {
    check(from->kernel, from->bias, from->out_channels, from->in_channels, taps);
    return {from->kernel, from->bias, from->out_channels, from->in_channels, from->clamp};
}
Stem checked(const StemRecord* from) {
    return {checked(&from->weights, 9), from->pad_top, from->pad_left, from->out_height, from->out_width};
}
Filter<float> checked(const FilterRecord* from) {
    check(from->kernel, from->bias, from->channels, 1, 9);
    const Weights<float> weights{from->kernel, from->bias, from->channels, 1, from->clamp};
    return {weights, from->stride, from->dilation, from->pad_top, from->pad_left, from->out_height, from->out_width};
}
template <typename Record>
auto optional(const Record* from) {
    using Layer = decltype(checked(from));
    return from ? std::optional<Layer>(checked(from)) : std::nullopt;
}

}  // namespace

extern "C" {

// Some memory; 0 where there is no more.
void* EXPORT(allocate)(std::size_t bytes) { return std::malloc(bytes); }
void EXPORT(release)(void* at) { std::free(at); }
// Why the last call was refused, up to a zero. Such a call returns REFUSED; network_new returns 0.
const char* EXPORT(refusal)() { return why.c_str(); }

Network<float>* EXPORT(network_new)(int height, int width) {
    Network<float>* made = nullptr;
    unless_refused([&] { return made = new Network<float>(height, width, 1), 0; });
    return made;
}
void EXPORT(network_delete)(Network<float>* network) { delete network; }

// As the methods of Network.
int EXPORT(network_stem)(Network<float>* network, const StemRecord* stem) {
    return on(network, [&](Network<float>& self) { return self.stem(checked(stem)); });
}
int EXPORT(network_block)(Network<float>* network, int in, const WeightsRecord* expand, const StemRecord* stem,
                          const FilterRecord* filter, const WeightsRecord* project, int shortcut) {
    return on(network, [&](Network<float>& self) {
        return self.block(in, optional(expand), optional(stem), checked(filter), checked(project), shortcut != 0);
    });
}
int EXPORT(network_pointwise)(Network<float>* network, int in, const WeightsRecord* weights, int bias) {
    return on(network, [&](Network<float>& self) { return self.pointwise(in, checked(weights), bias); });
}
int EXPORT(network_enlarge_on)(Network<float>* network, int in, int other, float low, float high) {
    return on(network, [&](Network<float>& self) { return self.enlarge_on(in, other, {low, high}); });
}
int EXPORT(network_pooled)(Network<float>* network, int in, const WeightsRecord* weights, const WeightsRecord* dense) {
    return on(network, [&](Network<float>& self) { return self.pooled(in, checked(weights), checked(dense)); });
}
int EXPORT(network_mean)(Network<float>* network, int in) {
    return on(network, [&](Network<float>& self) { return self.mean(in); });
}
int EXPORT(network_output)(Network<float>* network, int value, int pixels) {
    const auto order = pixels ? Network<float>::Order::PIXELS : Network<float>::Order::PLANES;
    return on(network, [&](Network<float>& self) { return self.output(value, order), 0; });
}
int EXPORT(network_finish)(Network<float>* network) {
    return on(network, [](Network<float>& self) { return self.finish(), 0; });
}
// outputs: the address of an array for each output.
int EXPORT(network_run)(Network<float>* network, const float* pictures, int count, float* const* outputs) {
    return on(network, [&](Network<float>& self) {
        const std::uint64_t some = std::max(count, 0);
        check(pictures, some * 3 * self.height() * self.width());
        for (std::size_t o = 0; o < self.outputs(); o++) check(outputs[o], some * self.output_size(o));
        return self.run({pictures}, count, outputs), 0;
    });
}
int EXPORT(network_arena_bytes)(Network<float>* network) {
    return on(network, [](Network<float>& self) { return static_cast<int>(self.arena_bytes()); });
}

}  // extern "C"
