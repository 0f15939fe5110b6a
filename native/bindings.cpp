// What Python sees of the engine.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#include "network.h"

namespace nb = nanobind;
using namespace mobilenetv2;

namespace {

template <typename N>
using Array = nb::ndarray<const N, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int, int>;
// Kernel, bias, and the least and most of the result; of levels: the width of each output channel's step, and scale and
// zero of the result's levels.
template <typename T>
using Layer = std::tuple<Array<typename Numbers<T>::Weight>, Array<float>, float, float, std::optional<Array<float>>, float,
                         int>;
using StemArguments = std::tuple<Layer<float>, Pair, Pair>;
template <typename T>
using FilterArguments = std::tuple<Layer<T>, int, int, Pair, Pair>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

template <typename T>
Weights<T> weights(const Layer<T>& layer, int taps) {
    const auto& [kernel, bias, low, high, steps, scale, zero] = layer;
    require(kernel.ndim() >= 2 && bias.ndim() == 1 && bias.shape(0) == kernel.shape(0), "a bias does not fit its kernel");
    require(kernel.shape(0) >= 1 && kernel.shape(1) >= 1 && kernel.shape(0) <= 1 << 20 && kernel.shape(1) <= 1 << 20,
            "a kernel has no channels, or too many");
    require(kernel.size() == kernel.shape(0) * kernel.shape(1) * taps, "a kernel has another size than its layer");
    if constexpr (std::is_same_v<T, Level>)
        require(steps && steps->ndim() == 1 && steps->shape(0) == kernel.shape(0), "steps do not fit their kernel");
    return {kernel.data(), bias.data(), static_cast<int>(kernel.shape(0)), static_cast<int>(kernel.shape(1)), {low, high},
            steps ? steps->data() : nullptr, {scale, zero}};
}

Stem stem(const StemArguments& from) {
    const auto& [layer, pads, out_hw] = from;
    return {weights<float>(layer, 9), pads.first, pads.second, out_hw.first, out_hw.second};
}

template <typename T>
Filter<T> filter(const FilterArguments<T>& from) {
    const auto& [layer, stride, dilation, pads, out_hw] = from;
    const Weights<T> all = weights<T>(layer, 9);
    require(all.in_channels == 1, "a filter has a kernel of one channel for each");
    return {all, stride, dilation, pads.first, pads.second, out_hw.first, out_hw.second};
}

template <typename T>
std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const auto* each : all_kernels<T>()) names.emplace_back(each->name);
    return names;
}

// Of that name; the fastest where it is empty.
template <typename T>
const Kernels<T>& kernels_of(const std::string& name) {
    for (const auto* each : all_kernels<T>())
        if (name.empty() || name == each->name) return *each;
    throw std::invalid_argument("this processor runs no kernels '" + name + "'");
}

using Outputs = std::vector<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;

template <typename T>
void run(Network<T>& self, const Picture& pictures, std::size_t count, std::size_t height, std::size_t width,
         std::size_t colours, const Outputs& outputs) {
    require(self.is_finished(), "the network is not finished");
    require(colours == 3 && static_cast<int>(height) == self.height() && static_cast<int>(width) == self.width() &&
                count <= 1 << 20,
            "the pictures have another size than the network");
    require(outputs.size() == self.outputs(), "there is another number of outputs");
    std::vector<float*> to;
    for (std::size_t o = 0; o < outputs.size(); o++) {
        require(outputs[o].size() == count * self.output_size(o), "an output has another size");
        to.push_back(outputs[o].data());
    }
    const nb::gil_scoped_release release;
    self.run(pictures, static_cast<int>(count), to.data());
}

template <typename T>
void bind(nb::module_& module, const char* name) {
    using N = Network<T>;
    nb::class_<N>(module, name)
        .def("__init__",
             [](N* self, int height, int width, int threads, const std::string& kernels) {
                 new (self) N(height, width, threads, kernels_of<T>(kernels));
             },
             nb::arg("height"), nb::arg("width"), nb::arg("threads"), nb::arg("kernels") = "")
        .def_static("kernels", kernel_names<T>,
                    "What kernels were compiled for, of those that this processor runs; the fastest first.")
        .def("stem", [](N& self, const StemArguments& from) { return self.stem(stem(from)); })
        .def(
            "block",
            [](N& self, int in, const std::optional<Layer<T>>& expand, const std::optional<StemArguments>& from,
               const FilterArguments<T>& by, const Layer<T>& project, bool shortcut) {
                std::optional<Weights<T>> expansion;
                if (expand) expansion = weights<T>(*expand, 1);
                std::optional<Stem> first;
                if (from) first = stem(*from);
                return self.block(in, expansion, first, filter<T>(by), weights<T>(project, 1), shortcut);
            },
            nb::arg("source"), nb::arg("expand").none(), nb::arg("stem").none(), nb::arg("filter"), nb::arg("project"),
            nb::arg("shortcut"))
        .def(
            "pointwise",
            [](N& self, int in, const Layer<T>& layer, int bias) {
                return self.pointwise(in, weights<T>(layer, 1), bias);
            },
            nb::arg("source"), nb::arg("layer"), nb::arg("bias") = -1)
        .def(
            "enlarge_on",
            [](N& self, int in, int on, float low, float high, float scale, int zero) {
                return self.enlarge_on(in, on, {low, high}, {scale, zero});
            },
            nb::arg("source"), nb::arg("on"), nb::arg("low"), nb::arg("high"), nb::arg("scale") = 0.0f, nb::arg("zero") = 0)
        .def(
            "pooled",
            [](N& self, int in, const Layer<T>& layer, const Layer<T>& dense, float scale, int zero) {
                return self.pooled(in, weights<T>(layer, 1), weights<T>(dense, 1), {scale, zero});
            },
            nb::arg("source"), nb::arg("layer"), nb::arg("dense"), nb::arg("scale") = 0.0f, nb::arg("zero") = 0)
        .def(
            "mean", [](N& self, int in, float scale, int zero) { return self.mean(in, {scale, zero}); }, nb::arg("source"),
            nb::arg("scale") = 0.0f, nb::arg("zero") = 0)
        .def("output",
             [](N& self, int value, bool pixels) {
                 self.output(value, pixels ? N::Order::PIXELS : N::Order::PLANES);
             })
        .def("finish", &N::finish)
        .def("run",
             [](N& self, const nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>& images,
                const Outputs& outputs) {
                 run(self, {images.data()}, images.shape(0), images.shape(2), images.shape(3), images.shape(1), outputs);
             })
        .def("run_pixels",
             [](N& self, const nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>& pixels,
                const nb::ndarray<const float, nb::shape<3, 256>, nb::c_contig, nb::device::cpu>& table,
                const Outputs& outputs) {
                 run(self, {nullptr, pixels.data(), table.data()}, pixels.shape(0), pixels.shape(1), pixels.shape(2),
                     pixels.shape(3), outputs);
             })
        .def_prop_ro("arena_bytes", &N::arena_bytes);
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "The fused engine; see mobilenetv2.runtime.engine_native.";
    module.def(
        "burst",
        [](int rounds) {
            const nb::gil_scoped_release release;
            return all_kernels<float>().front()->burst(rounds);
        },
        nb::arg("rounds"), "Multiply-adds of floats as fast as one core can; how many operations that were.");
    bind<float>(module, "Network");
    bind<Level>(module, "LevelNetwork");
}
