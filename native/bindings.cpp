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

#include "network.h"

namespace nb = nanobind;
using namespace mobilenetv2;

namespace {

using Array = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int, int>;
// Kernel, bias, and the least and most of the result.
using Layer = std::tuple<Array, Array, float, float>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

int size(const Array& array, int axis) { return static_cast<int>(array.shape(axis)); }

Weights weights(const Layer& layer, int taps) {
    const auto& [kernel, bias, low, high] = layer;
    require(kernel.ndim() >= 2 && bias.ndim() == 1 && bias.shape(0) == kernel.shape(0), "a bias does not fit its kernel");
    require(kernel.shape(0) >= 1 && kernel.shape(1) >= 1 && kernel.shape(0) <= 1 << 20 && kernel.shape(1) <= 1 << 20,
            "a kernel has no channels, or too many");
    require(kernel.size() == kernel.shape(0) * kernel.shape(1) * taps, "a kernel has another size than its layer");
    return {kernel.data(), bias.data(), size(kernel, 0), size(kernel, 1), {low, high}};
}

Stem stem(const Layer& layer, Pair pads, Pair out_hw) {
    return {weights(layer, 9), pads.first, pads.second, out_hw.first, out_hw.second};
}

Filter filter(const Layer& layer, int stride, int dilation, Pair pads, Pair out_hw) {
    const Weights all = weights(layer, 9);
    require(all.in_channels == 1, "a filter has a kernel of one channel for each");
    return {all.kernel, all.bias, all.out_channels, all.clamp,   stride,
            dilation,   pads.first, pads.second,    out_hw.first, out_hw.second};
}

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const Kernels* each : all_kernels()) names.emplace_back(each->name);
    return names;
}

// Of that name; the fastest where it is empty.
const Kernels& kernels_of(const std::string& name) {
    for (const Kernels* each : all_kernels())
        if (name.empty() || name == each->name) return *each;
    throw std::invalid_argument("this processor runs no kernels '" + name + "'");
}

using StemArguments = std::tuple<Layer, Pair, Pair>;
using FilterArguments = std::tuple<Layer, int, int, Pair, Pair>;

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "The fused engine; see mobilenetv2.runtime.engine_native.";
    module.def("kernels", kernel_names, "What kernels were compiled for, of those that this processor runs; the fastest first.");
    nb::class_<Network>(module, "Network")
        .def("__init__",
             [](Network* self, int height, int width, int threads, const std::string& kernels) {
                 new (self) Network(height, width, threads, kernels_of(kernels));
             },
             nb::arg("height"), nb::arg("width"), nb::arg("threads"), nb::arg("kernels") = "")
        .def("stem",
             [](Network& self, const StemArguments& from) { return self.stem(std::apply(stem, from)); })
        .def(
            "block",
            [](Network& self, int in, const std::optional<Layer>& expand, const std::optional<StemArguments>& from,
               const FilterArguments& by, const Layer& project, bool shortcut) {
                std::optional<Weights> expansion;
                if (expand) expansion = weights(*expand, 1);
                std::optional<Stem> first;
                if (from) first = std::apply(stem, *from);
                return self.block(in, expansion, first, std::apply(filter, by), weights(project, 1), shortcut);
            },
            nb::arg("source"), nb::arg("expand").none(), nb::arg("stem").none(), nb::arg("filter"), nb::arg("project"),
            nb::arg("shortcut"))
        .def(
            "pointwise",
            [](Network& self, int in, const Layer& layer, int bias) {
                return self.pointwise(in, weights(layer, 1), bias);
            },
            nb::arg("source"), nb::arg("layer"), nb::arg("bias") = -1)
        .def("enlarge_on",
             [](Network& self, int in, int on, float low, float high) { return self.enlarge_on(in, on, {low, high}); })
        .def("pooled",
             [](Network& self, int in, const Layer& layer, const Layer& dense) {
                 return self.pooled(in, weights(layer, 1), weights(dense, 1));
             })
        .def("mean", &Network::mean)
        .def("output",
             [](Network& self, int value, bool pixels) {
                 self.output(value, pixels ? Network::Order::PIXELS : Network::Order::PLANES);
             })
        .def("finish", &Network::finish)
        .def("run",
             [](Network& self, const nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>& images,
                const std::vector<nb::ndarray<float, nb::c_contig, nb::device::cpu>>& outputs) {
                 const int count = static_cast<int>(images.shape(0));
                 require(self.is_finished(), "the network is not finished");
                 require(images.shape(1) == 3 && static_cast<int>(images.shape(2)) == self.height() &&
                             static_cast<int>(images.shape(3)) == self.width(),
                         "the pictures have another size than the network");
                 require(outputs.size() == self.outputs(), "there is another number of outputs");
                 std::vector<float*> to;
                 for (std::size_t o = 0; o < outputs.size(); o++) {
                     require(outputs[o].size() == count * self.output_size(o), "an output has another size");
                     to.push_back(outputs[o].data());
                 }
                 const nb::gil_scoped_release release;
                 self.run(images.data(), count, to.data());
             })
        .def_prop_ro("arena_bytes", &Network::arena_bytes);
}
