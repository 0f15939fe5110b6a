"""What `mobilenetv2 paper` can show: each thing by name, and one page of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.files import write_aside
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.memory_split import measure_split_memory
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.networks.zoo import ZOO, build
from mobilenetv2.paper import figures, published, tables, task_tables
from mobilenetv2.paper.latency import Latency, Subject, compare, measure_latency
from mobilenetv2.paper.manifold import appendix_a, figure_1
from mobilenetv2.paper.table import Row, Table

# Blocks whose wide tensors are the largest of the network.
SPLIT_BLOCKS = ("stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1", "stages.2.blocks.0")
LATENCY_ROUNDS, LATENCY_LIMIT_S = 15, 60.0


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A table, and the pictures that belong to it as PNG bytes by file name."""

    table: Table
    pictures: dict[str, bytes] = field(default_factory=dict)

    def to_markdown(self) -> str:
        pictures = "".join(f"\n![{self.table.title}]({name})\n" for name in self.pictures)
        return self.table.to_markdown() + pictures


def show(name: str) -> Exhibit:
    """One exhibit by name. Raises UserError for an unknown one."""
    if name not in EXHIBITS:
        raise UserError(
            f"the paper has no {name!r}{did_you_mean(name, EXHIBITS)}; it can be {', '.join(EXHIBITS)}, all"
        )
    return EXHIBITS[name]()


def write_pictures(exhibit: Exhibit, folder: Path) -> list[Path]:
    """Writes the pictures into a folder, which is made where it is missing; returns their paths."""
    if exhibit.pictures:
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in exhibit.pictures]
    for path in paths:
        write_aside(path, exhibit.pictures[path.name])
    return paths


def write_page(folder: Path, *, progress: Callable[[str], None]) -> Path:
    """Every exhibit on one Markdown page with its pictures, in `folder`; returns the page's path."""
    parts = [_PREFACE]
    for name in EXHIBITS:
        progress(name)
        exhibit = show(name)
        write_pictures(exhibit, folder)
        parts.append(exhibit.to_markdown())
    page = folder / "README.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(page, "\n".join(parts).encode())
    return page


_PREFACE = """# The paper's tables and figures

M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018. What the paper prints stands beside what the live networks give, and where they differ a footnote says why.
Written by `mobilenetv2 paper all --out docs/paper`; each part alone by `mobilenetv2 paper NAME`.
"""


def _figure1() -> Exhibit:
    rows = tuple(
        Row(network=f"n = {passage.dimensions}", quantity=quantity, paper=None, ours=share * 100, decimals=1)
        for passage in figure_1()
        for quantity, share in (
            ("points collapsed (%)", passage.collapsed),
            ("nearest neighbours kept (%)", passage.neighbours_kept),
        )
    )
    note = (
        "A spiral through a random T into n dimensions, ReLU, and back by T's pseudo-inverse. Collapsed are the "
        "points where fewer than two rows of T are positive (Lemma 2); over all T their mean is one less the fraction "
        "of Appendix A."
    )
    table = Table(
        name="figure1", title="Figure 1: what ReLU leaves of a spiral in n dimensions", rows=rows, notes=(note,)
    )
    return Exhibit(table=table, pictures={"figure1.png": figures.figure1_png()})


def _figure5() -> Exhibit:
    rows = tuple(
        Row(
            network=f"{line.width:g} at {line.resolution}",
            quantity="multiply-adds (M)",
            paper=line.madds_m,
            ours=point.cost,
            decimals=2,
        )
        for line, point in zip(published.SLIM_MOBILENET_V2, figures.figure5_points(), strict=True)
    )
    notes = (
        "Accuracies in the picture are those that TF-Slim publishes with its 22 checkpoints (71.8 and 75.0 % at 1.0 "
        "and 1.4, where Table 4 prints 72.0 and 74.7), multiply-adds are ours; the printed ones are cut off, not "
        "rounded.",
        'The text of Sec. 6.1 says that cost goes down to "7 multiply adds", and means 7 M; the smallest of the 22 has '
        f"{min(row.ours for row in rows if isinstance(row.ours, float)):.2f} M.",
    )
    table = Table(
        name="figure5", title="Figure 5: accuracy against multiply-adds", rows=rows, notes=notes, paper_says="TF-Slim"
    )
    return Exhibit(table=table, pictures={"figure5.png": figures.figure5_png()})


def _figure5_latency() -> Exhibit:
    keys = [(line.width, line.resolution) for line in published.SLIM_MOBILENET_V2]
    networks = {width: MobileNetV2(Architecture(width=width)) for width, _ in keys}
    latencies = measure_latency(
        {key: Subject(networks[key[0]], (key[1], key[1])) for key in keys},
        rounds=LATENCY_ROUNDS,
        limit_s=LATENCY_LIMIT_S,
    )
    reference = latencies[1.0, 224]
    base_ms = next(
        line.pixel1_ms for line in published.SLIM_MOBILENET_V2 if (line.width, line.resolution) == (1.0, 224)
    )
    rows = tuple(
        row
        for line in published.SLIM_MOBILENET_V2
        for row in _latency_rows(
            f"{line.width:g} at {line.resolution}",
            latencies[line.width, line.resolution],
            reference,
            line.pixel1_ms / base_ms,
        )
    )
    table = Table(
        name="figure5-latency",
        title="Figure 5 against latency on this machine",
        rows=rows,
        notes=("Ratios are to width 1.0 at 224.", _ENGINE),
        paper_says="Pixel 1",
    )
    medians = {key: latency.ms.p50 for key, latency in latencies.items()}
    return Exhibit(table=table, pictures={"figure5-latency.png": figures.figure5_latency_png(medians)})


_ENGINE = (
    "Ours: PyTorch on one thread of this machine, batch norm folded, medians of interleaved rounds; theirs: TF-Lite "
    "on one large core of a Pixel 1. Only the ratios can be compared, and networks of many small operators (NASNet-A) "
    "pay more for each here."
)


def _latency_rows(name: str, latency: Latency, reference: Latency, paper_ratio: float | None) -> tuple[Row, ...]:
    ratio = latency.ratio_to(reference)
    interval = f"latency (ms), 95 % of the median in {latency.ms.low:.1f} to {latency.ms.high:.1f}"
    printed = None if paper_ratio is None else round(paper_ratio, 3)
    return (
        Row(network=name, quantity=interval, paper=None, ours=latency.ms.p50, decimals=1),
        Row(network=name, quantity="ratio", paper=printed, ours=ratio.p50, decimals=3),
    )


def _subject(name: str, width: float | None = None) -> Subject:
    """A network of the zoo at the paper's input."""
    return Subject(build(name, width=width), (ZOO[name].resolution,) * 2)


def _latency() -> Exhibit:
    """The networks of Tables 4 and 6 that the paper times, and those it does not."""
    classifiers = {label: _subject(*network) for label, network in tables.CLASSIFIERS.items()}
    # SSD512 alone would take as long as all the others.
    detectors = {label: _subject(name) for label, name in task_tables.DETECTORS.items() if label != "SSD512"}
    rows: list[Row] = []
    for subjects, lines, reference in (
        (classifiers, published.TABLE_4, "MobileNetV1"),
        (detectors, published.TABLE_6, "MobileNetV1 + SSDLite"),
    ):
        latencies = measure_latency(subjects, rounds=LATENCY_ROUNDS, limit_s=LATENCY_LIMIT_S)
        paper_ms = {line.network: line.cpu_ms for line in lines}
        for row in compare(latencies, reference=reference, paper_ms=paper_ms):
            rows += _latency_rows(row.network, latencies[row.network], latencies[reference], row.paper_ratio)
    table = Table(
        name="latency",
        title="CPU columns of Tables 4 and 6, on this machine",
        rows=tuple(rows),
        notes=("Ratios are to MobileNetV1, of the detectors to MobileNetV1 + SSDLite.", _ENGINE),
    )
    return Exhibit(table=table)


def _memory() -> Exhibit:
    network = MobileNetV2(Architecture())
    size = (ZOO["mobilenet_v2"].resolution,) * 2
    complexity = trace(network, size)
    blocks = [
        (f"stages.{s}.blocks.{b}",)
        for s, stage in enumerate(network.stages)
        for b in range(len(stage.blocks))  # type: ignore[arg-type]
    ]
    as_one = complexity.merged([("stem", *blocks[0]), *blocks[1:]])
    rows = [
        Row(
            network="whole network",
            quantity=f"M(G) {how}, kB (at {peak.path.removesuffix('.conv')})",
            paper=None,
            ours=peak.live_elements * 4 / 1000,
            decimals=1,
        )
        for how, peak in (("operator by operator", complexity.peak), ("with bottlenecks as one operator", as_one.peak))
    ]
    rows += [
        Row(
            network=row.path,
            quantity=f"t = {row.splits}, kB",
            paper=round(row.formula_bytes / 1000, 1),
            ours=row.measured_bytes / 1000,
            decimals=1,
        )
        for row in measure_split_memory(network, size, paths=SPLIT_BLOCKS)
    ]
    note = (
        "Input, output and a t-th of the two wide tensors, against the most bytes of tensors that torch holds while "
        "the block runs in t parts (224 x 224, 32 bits). Undivided, the output is not there yet while the wide "
        "tensors are. The answers are equal, and multiply-adds do not depend on t."
    )
    table = Table(
        name="memory", title="Sec. 5.1: a bottleneck in t parts", rows=tuple(rows), notes=(note,), paper_says="formula"
    )
    return Exhibit(table=table)


def _appendix_a() -> Exhibit:
    rows = tuple(
        Row(
            network=f"n = {row.n}, m = {row.m}",
            quantity=f"preserved fraction (standard error {row.standard_error:.5f})",
            paper=row.formula,
            ours=row.monte_carlo,
            decimals=5,
        )
        for row in appendix_a()
    )
    table = Table(
        name="appendix-a",
        title="Appendix A: share of the space that ReLU preserves, from n to m dimensions",
        rows=rows,
        notes=("N / 2^m with N = sum of C(m, k) for k = 0 .. m - n, against 100,000 random x and B.",),
        paper_says="formula",
    )
    return Exhibit(table=table)


def _table(table: Callable[[], Table]) -> Exhibit:
    return Exhibit(table=table())


EXHIBITS: dict[str, Callable[[], Exhibit]] = {
    "table1": partial(_table, tables.table1),
    "table2": partial(_table, tables.table2),
    "table3": partial(_table, tables.table3),
    "table4": partial(_table, tables.table4),
    "table5": partial(_table, task_tables.table5),
    "table6": partial(_table, task_tables.table6),
    "table7": partial(_table, task_tables.table7),
    "figure1": _figure1,
    "figure5": _figure5,
    "figure5-latency": _figure5_latency,
    "latency": _latency,
    "memory": _memory,
    "appendix-a": _appendix_a,
}
