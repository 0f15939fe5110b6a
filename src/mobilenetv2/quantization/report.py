"""What 8 bits cost, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.quantization.folded import fold, rows
from mobilenetv2.quantization.prepare import last_layers
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.graph import TAP, network_graph
from mobilenetv2.runtime.graph_network import quantise_kernel

_SHOWN = 10
# Of what the first layer reads.
_CLEAN_DB = 60.0


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer.

    sqnr_db: signal to quantisation noise of its result, 10 log10(E[x^2] / E[(x - x_int8)^2]), with all that lies before
    it in 8 bits too. weight_sqnr_db: of its kernel alone, before any preparation. least, most: of its results in
    float32, of each channel.
    """

    name: str
    sqnr_db: float
    weight_sqnr_db: float
    least: tuple[float, ...]
    most: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class QuantisationReport:
    """Every layer in the order of computation. pictures: how many were looked at."""

    model: str
    pictures: int
    layers: tuple[LayerReport, ...]

    def worst(self, count: int = _SHOWN) -> list[LayerReport]:
        """The layers that hurt: those at which the noise grows most over that of the layer before, worst first."""
        before = [_CLEAN_DB, *(layer.sqnr_db for layer in self.layers)]
        losses = [layer.sqnr_db - earlier for layer, earlier in zip(self.layers, before, strict=False)]
        return [self.layers[place] for place in np.argsort(losses, kind="stable")[:count]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        """The layers that hurt, as a table, and the last one."""
        rows_ = [("layer", "result", "weights", "least", "most", "channels below 1 % of the range")]
        for layer in (*self.worst(), self.layers[-1]):
            most = np.maximum(np.abs(layer.least), np.abs(layer.most))
            small = int((most < 0.01 * most.max()).sum())
            rows_.append(
                (
                    layer.name,
                    f"{layer.sqnr_db:.1f} dB",
                    f"{layer.weight_sqnr_db:.1f} dB",
                    f"{min(layer.least):.2f}",
                    f"{max(layer.most):.2f}",
                    f"{small} of {len(most)}",
                )
            )
        widths = [max(len(row[column]) for row in rows_) for column in range(len(rows_[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows_
        ]
        title = (
            f"{self.model} in 8 bits on {self.pictures} pictures: signal to noise where it falls most, and at the end"
        )
        return "\n".join([title, *lines])


def report_layers(model: ModelFile, prepared: ModelFile, images: NDArray[np.float32]) -> QuantisationReport:
    """Compare a model with what `prepare.prepare` made of it, on pictures (N, 3, H, W), preprocessed.

    Preparation may have scaled channels, so each is compared up to a factor, that of the least squares; raw outputs are
    compared as they are.
    """
    exact = open_session(network_graph(model, taps=True), threads=None)
    rough = open_session(network_graph(prepared, int8=True, taps=True), threads=None)
    names = [output.name for output in exact.get_outputs() if output.name.startswith(TAP)]
    # Of each channel the sums of x^2, x y and y^2 over all pixels of all pictures, x in float32 and y in 8 bits.
    sums: dict[str, NDArray[np.float64]] = {}
    least: dict[str, NDArray[Any]] = {}
    most: dict[str, NDArray[Any]] = {}
    for image in images:
        batch = {"images": image[None]}
        for name, here, there in zip(names, exact.run(names, batch), rough.run(names, batch), strict=True):
            axes = (0, *range(2, here.ndim))
            products = [
                np.sum(x * y, axis=axes, dtype=np.float64) for x, y in ((here, here), (here, there), (there, there))
            ]
            sums[name] = sums.get(name, 0) + np.stack(products)
            low, high = here.min(axis=axes), here.max(axis=axes)
            least[name] = np.minimum(least.get(name, low), low)
            most[name] = np.maximum(most.get(name, high), high)
    kernels = fold(model)
    last = {plan.name for plan in last_layers(model.card)}
    plans = [plan.name for row in rows(model.card.architecture) for plan in row]
    return QuantisationReport(
        model=model.card.name,
        pictures=len(images),
        layers=tuple(
            LayerReport(
                name=plan,
                sqnr_db=_sqnr(sums[TAP + plan], scaled=plan not in last),
                weight_sqnr_db=_weight_sqnr(kernels[plan].kernel),
                least=tuple(round(float(value), 5) for value in least[TAP + plan]),
                most=tuple(round(float(value), 5) for value in most[TAP + plan]),
            )
            for plan in plans
        ),
    )


def _sqnr(sums: NDArray[np.float64], *, scaled: bool) -> float:
    """sums: (3, channels), as above. scaled: whether a channel may differ by a factor."""
    signal, product, square = sums
    factor = np.where(square > 0, product / np.maximum(square, 1e-30), 1) if scaled else 1.0
    noise = signal - 2 * factor * product + factor * factor * square
    return _decibels(float(signal.sum()), max(float(noise.sum()), 0.0))


def _decibels(signal: float, noise: float) -> float:
    """At most 120: float32 has no more."""
    return round(float(10 * np.log10(max(signal, 1e-30) / max(noise, signal * 1e-12, 1e-30))), 2)


def _weight_sqnr(kernel: NDArray[np.float64]) -> float:
    steps, scales = quantise_kernel(kernel)
    back = steps * scales.reshape(-1, 1, 1, 1).astype(np.float64)
    return _decibels(float(np.square(kernel).sum()), float(np.square(kernel - back).sum()))
