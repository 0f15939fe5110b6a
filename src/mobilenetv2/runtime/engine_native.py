"""The fused engine: the expanded map of a block never lies in memory as a whole (Sec. 5.1). See native/README.md.

Here a model file becomes layers for the compiled part, which packs, plans and runs them, in float32 or in 8 bits. It
knows MobileNet's parts: the stem, blocks of [1x1,] 3x3 depthwise and 1x1, single 1x1 convolutions, the mean over a map,
and enlarging.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2 import _native
from mobilenetv2.architecture import TAPS, Architecture, Convolution, trunk
from mobilenetv2.detector import BACKBONE, Detector, detector_layers
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.runtime.engine import all_threads, check_threads
from mobilenetv2.runtime.graph_network import convolution_pads, layer_weights, quantise_kernel, range_levels
from mobilenetv2.runtime.level_file import LEVELS, read_level_file
from mobilenetv2.segmenter import BACKBONE as SEGMENTER_BACKBONE
from mobilenetv2.segmenter import SKIPS, Segmenter, segmenter_layers

_CLAMPS = {"relu6": (0.0, 6.0), "relu": (0.0, math.inf), "linear": (-math.inf, math.inf)}


class NativeEngine:
    """A model file on the CPU, or an export's folder, which holds one in 8 bits."""

    def __init__(
        self, model: ModelFile | Path, *, threads: int | None = None, int8: bool = False, kernels: str = ""
    ) -> None:
        """threads: of one run; None for one a core. int8: of a model that was prepared for it (`quantization.prepare`),
        as a folder's always is. kernels: one of those that the network's class names; the fastest if empty.

        Raises UserError for a network with parts it does not know; ModelFileError if a folder's file is damaged.
        """
        check_threads(threads)
        if isinstance(model, Path):
            model, int8 = read_level_file(model / LEVELS), True
        network = _native.LevelNetwork if int8 else _native.Network
        self._network = network(*model.card.preprocessing.size_hw, threads or all_threads(), kernels)
        self._outputs = _Builder(self._network, _LevelLayers(model) if int8 else _FloatLayers(model), model).build()
        self._network.finish()

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """As `Engine.run`. Threads that call it at once wait for each other."""
        return self._found(len(images), partial(self._network.run, np.ascontiguousarray(images)))

    def run_pixels(self, pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """As `PixelEngine.run_pixels`."""
        return self._found(len(pixels), partial(self._network.run_pixels, np.ascontiguousarray(pixels), table))

    def _found(self, count: int, run: Callable[[list[NDArray[np.float32]]], None]) -> tuple[NDArray[np.float32], ...]:
        found = [[np.empty((count, *part), np.float32) for part in parts] for parts in self._outputs]
        run([part for parts in found for part in parts])
        return tuple(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1) for parts in found)

    @property
    def arena_bytes(self) -> int:
        """Of all maps and working memory of a run."""
        return self._network.arena_bytes


class _Map(NamedTuple):
    value: int
    size_hw: tuple[int, int]


# Shapes, without the batch, of the arrays that make up each output when joined along their first axis.
_Outputs = list[list[tuple[int, ...]]]


class _FloatLayers:
    """What the compiled part is told of a layer."""

    def __init__(self, model: ModelFile) -> None:
        self._model = model

    def layer(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32], activation: str, point: str
    ) -> _native.Layer:
        """point: the name of the result among `Card.activation_ranges`; empty if it stays float32."""
        return kernel, bias, *_CLAMPS[activation], None, *self.levels(point)

    def stem(self, plan: Convolution) -> _native.Layer:
        return self.layer(*layer_weights(self._model, plan), plan.activation, _point(plan))

    def levels(self, point: str) -> tuple[float, int]:
        """Scale and zero of a result; scale 0 for none."""
        return 0.0, 0


class _LevelLayers(_FloatLayers):
    """The same in 8 bits: kernels as steps, results on the levels of the card's ranges, as `Int8Network` has them."""

    def layer(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32], activation: str, point: str
    ) -> _native.Layer:
        steps, widths = quantise_kernel(kernel)
        return steps, bias, *_CLAMPS[activation], widths, *self.levels(point)

    def stem(self, plan: Convolution) -> _native.Layer:
        # The input stays float32, and so does what reads it. Its weights are on their levels already.
        return super().layer(*layer_weights(self._model, plan), plan.activation, _point(plan))

    def levels(self, point: str) -> tuple[float, int]:
        if not point:
            return 0.0, 0
        ranges, name = self._model.card.activation_ranges, self._model.card.name
        if point not in ranges:
            raise UserError(
                f"engine 'native' needs the range of {point!r} of {name!r}, which its card does not know; "
                "use 'onnxruntime' for it"
            )
        scale, zero = range_levels(*ranges[point])
        return float(scale), int(zero)


def _point(plan: Convolution) -> str:
    """Where a layer's result is rounded; nowhere if it is a raw output."""
    if not plan.has_norm:
        return ""
    return f"{plan.name}.add" if plan.shortcut else plan.name


class _Builder:
    """Finds in a row of convolutions the blocks that the engine knows."""

    def __init__(self, network: _native.Network | _native.LevelNetwork, layers: _FloatLayers, model: ModelFile) -> None:
        self._network, self._layers, self._model = network, layers, model
        self._padding = NUMERICS[model.card.architecture.numerics].padding
        self._maps: dict[str, _Map] = {}

    def build(self) -> _Outputs:
        architecture = self._model.card.architecture
        if self._model.card.activation_levels:
            raise self._unknown("activations rounded to levels")
        if isinstance(architecture, Detector):
            return self._detector(architecture)
        if isinstance(architecture, Segmenter):
            return self._segmenter(architecture)
        return self._classifier(architecture)

    def _classifier(self, architecture: Architecture) -> _Outputs:
        *convolutions, last = trunk(architecture)
        weight, bias = (self._model.tensors[f"classifier.{part}"] for part in ("weight", "bias"))
        dense = self._layers.layer(weight, bias, "linear", "")
        mean = self._layers.levels(f"{last.name}.pool")
        if architecture.name == "mobilenet_v2":
            # Only the mean of the last 1x1 convolution is wanted; a MobileNetV1 ends with a whole block.
            logits = self._network.pooled(self._row(convolutions).value, self._layer(last), dense, *mean)
        else:
            x = self._row([*convolutions, last])
            logits = self._network.pointwise(self._network.mean(x.value, *mean), dense)
        self._network.output(logits, True)
        return [[(architecture.num_classes,)]]

    def _detector(self, detector: Detector) -> _Outputs:
        layers = detector_layers(detector)
        tap = f"{BACKBONE}.{TAPS[detector.backbone]}"
        last = self._row(layers.backbone, kept=tap)
        maps = [self._maps[tap], last]
        for extra in layers.extras:
            maps.append(self._row(extra, start=maps[-1]))
        outputs: _Outputs = []
        for heads, values in ((layers.class_heads, detector.num_classes + 1), (layers.box_heads, 4)):
            parts: list[tuple[int, ...]] = []
            for start, head in zip(maps, heads, strict=True):
                found = self._row(head, start=start)
                self._network.output(found.value, True)
                parts.append((math.prod(found.size_hw) * head[-1].out_channels // values, values))
            outputs.append(parts)
        return outputs

    def _segmenter(self, segmenter: Segmenter) -> _Outputs:
        network, layers = self._network, segmenter_layers(segmenter)
        if layers.atrous:
            raise self._unknown("the pyramid's full 3x3 convolutions")
        last = self._row(layers.backbone, kept=f"{SEGMENTER_BACKBONE}.{SKIPS[segmenter.backbone]}")
        # The mean's share of the projection is the same for all pixels: it is their bias.
        kernel, bias = layer_weights(self._model, layers.project)
        mean = network.mean(last.value, *self._layers.levels(f"{layers.backbone[-1].name}.pool"))
        image = network.pointwise(mean, self._layer(layers.image))
        of_image = layers.image.out_channels
        of_mean, rest = (np.ascontiguousarray(part) for part in (kernel[:, :of_image], kernel[:, of_image:]))
        share = network.pointwise(image, self._layers.layer(of_mean, bias, "linear", ""))
        point = network.pointwise(last.value, self._layer(layers.point))
        project = self._layers.layer(rest, bias, layers.project.activation, _point(layers.project))
        x = _Map(network.pointwise(point, project, share), last.size_hw)
        if layers.skip:
            tap = self._maps[f"{SEGMENTER_BACKBONE}.{SKIPS[segmenter.backbone]}"]
            skip, deep = self._row(layers.skip, start=tap, raw=True), self._row(layers.deep, start=x, raw=True)
            levels = self._layers.levels("decoder.joined")
            joined = network.enlarge_on(deep.value, skip.value, *_CLAMPS["relu"], *levels)
            x = self._row(layers.blocks, start=_Map(joined, skip.size_hw))
        logits = self._single(x, layers.classifier)
        network.output(logits.value, False)
        return [[(segmenter.num_classes, *logits.size_hw)]]

    def _row(
        self, convolutions: Sequence[Convolution], *, start: _Map | None = None, kept: str = "", raw: bool = False
    ) -> _Map:
        """Convolutions, each on the result of the one before it. start: None for the pictures. kept: one of them whose
        result something else reads too. raw: whether the last result stays float32."""
        x, rest = start, list(convolutions)
        while rest:
            plan = rest[0]
            if self._is_block(rest, 1) and plan.name != kept and not (x is None and rest[2].shortcut):
                # Nothing else reads what the first one makes, so it need not be whole.
                x, used = self._block(x, *rest[:3], raw=raw and len(rest) == 3), 3
            elif self._is_block(rest, 0):
                x, used = self._block(x, None, *rest[:2], raw=raw and len(rest) == 2), 2
            else:
                x, used = self._single(x, plan, raw=raw and len(rest) == 1), 1
            self._maps[rest[used - 1].name] = x
            del rest[:used]
        assert x is not None
        return x

    @staticmethod
    def _is_block(row: Sequence[Convolution], at: int) -> bool:
        """Whether a filter stands there with a projection behind it, and only what may make its map before it."""
        parts = row[at : at + 2]
        plain = not any(each.depthwise or each.shortcut for each in row[:at])
        return plain and len(parts) == 2 and parts[0].depthwise and (parts[1].kernel, parts[1].depthwise) == (1, False)

    def _single(self, x: _Map | None, plan: Convolution, *, raw: bool = False) -> _Map:
        if x is None:
            size_hw = self._model.card.preprocessing.size_hw
            return _Map(self._network.stem(self._stem(plan)), plan.out_size(size_hw))
        if plan.kernel != 1 or plan.shortcut:
            raise self._unknown(f"{plan.name!r}, a {plan.kernel}x{plan.kernel} convolution")
        return _Map(self._network.pointwise(x.value, self._layer(plan, raw=raw)), x.size_hw)

    def _block(
        self, x: _Map | None, first: Convolution | None, plan: Convolution, project: Convolution, *, raw: bool
    ) -> _Map:
        if plan.kernel != 3 or (first and x and first.kernel != 1):
            raise self._unknown(f"a block with {plan.name!r}")
        if project.shortcut and self._maps[project.shortcut] != x:
            raise self._unknown(f"the shortcut of {project.name!r}")
        if x is None:
            if first is None:
                raise self._unknown(f"{plan.name!r} as the first layer")
            stem, size_hw = self._stem(first), first.out_size(self._model.card.preprocessing.size_hw)
        else:
            stem, size_hw = None, x.size_hw
        top, left, _, _ = convolution_pads(self._padding, size_hw, plan)
        out_hw = plan.out_size(size_hw)
        value = self._network.block(
            source=-1 if x is None else x.value,
            expand=self._layer(first) if first and x else None,
            stem=stem,
            filter=(self._layer(plan), plan.stride, plan.dilation, (top, left), out_hw),
            project=self._layer(project, raw=raw),
            shortcut=project.shortcut is not None,
        )
        return _Map(value, out_hw)

    def _stem(self, plan: Convolution) -> _native.Stem:
        if (plan.in_channels, plan.kernel, plan.stride, plan.dilation) != (3, 3, 2, 1) or plan.shortcut:
            raise self._unknown(f"{plan.name!r} as the first layer")
        size_hw = self._model.card.preprocessing.size_hw
        top, left, _, _ = convolution_pads(self._padding, size_hw, plan)
        return self._layers.stem(plan), (top, left), plan.out_size(size_hw)

    def _layer(self, plan: Convolution, *, raw: bool = False) -> _native.Layer:
        return self._layers.layer(*layer_weights(self._model, plan), plan.activation, "" if raw else _point(plan))

    def _unknown(self, what: str) -> UserError:
        return UserError(f"engine 'native' does not know {what} of {self._model.card.name!r}; use 'onnxruntime' for it")
