"""Tables 5 to 7, detection and segmentation, counted as Tables 1 to 4 are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from torch import nn

from mobilenetv2.networks.complexity import Operator, trace
from mobilenetv2.networks.deeplab_v3 import EVALUATION_SCALES, evaluation_madds, scaled_size_hw, space_to_batch_madds
from mobilenetv2.networks.yolo_v2 import YOLOv2
from mobilenetv2.networks.zoo import ZOO, build
from mobilenetv2.paper import published
from mobilenetv2.paper.table import Row, Table
from mobilenetv2.paper.tables import MILLION, counted, on_meta

BILLION = 1e9
# The paper's names -> the zoo's.
DETECTORS = {
    "SSD300": "ssd300",
    "SSD512": "ssd512",
    "YOLOv2": "yolo_v2",
    "MobileNetV1 + SSDLite": "ssdlite_mobilenet_v1",
    "MobileNetV2 + SSDLite": "ssdlite_mobilenet_v2",
}


def table5() -> Table:
    """Detection heads on MobileNetV2 at 320, 80 classes and the background."""
    rows = []
    for line, name in zip(published.TABLE_5, ("ssd_mobilenet_v2", "ssdlite_mobilenet_v2"), strict=True):
        head = counted(name).under("extras", "class_heads", "box_heads")
        madds = _madds(head)
        rows += [
            Row(
                network=line.head,
                quantity="parameters (M)",
                paper=line.parameters_m,
                ours=sum(operator.parameters - operator.batch_norm_parameters for operator in head) / MILLION,
                decimals=6,
            ),
            Row(
                network=line.head,
                quantity="multiply-adds (B)",
                paper=line.madds_b,
                ours=madds / BILLION,
                decimals=4,
                footnote=f"Counted twice in the paper: 2 x {madds / BILLION:.4f} B is its number, while SSD's is "
                f"counted once, and Table 6's 0.8 B has room for {madds / BILLION:.3f} B only."
                if line.head == "SSDLite"
                else None,
            ),
        ]
    return Table(
        name="table5",
        title="Table 5: detection heads on MobileNetV2 at 320, 80 classes",
        rows=tuple(rows),
        notes=("The prediction layers and the four extra maps, without the backbone; parameters without batch norm.",),
    )


def table6() -> Table:
    """COCO detectors."""
    networks = {label: counted(name) for label, name in DETECTORS.items()}
    side = ZOO["yolo_v2"].resolution
    voc = trace(on_meta(lambda: YOLOv2(num_classes=20)), (side, side))
    uncut = trace(on_meta(lambda: YOLOv2(passthrough_channels=None)), (side, side))
    ssd300, ssd512, yolo = networks["SSD300"], networks["SSD512"], networks["YOLOv2"]
    same = (
        "The paper prints one number of parameters for both SSDs, but SSD512 has one map more and with it "
        f"{ssd512.parameters - ssd300.parameters:,} parameters more: 36.1 M is SSD512's ({ssd512.parameters:,}), and "
        f"SSD300 has {ssd300.parameters:,}."
    )
    two = (
        "The paper's two numbers are of two networks. 50.7 M is the released one, whose passthrough is cut to 64 "
        f"channels, with Pascal VOC's 20 classes ({voc.parameters:,}; {yolo.parameters:,} with COCO's 80). 17.5 B is "
        f"the one without that cut at {side} x {side} ({uncut.madds:,}), which would have {uncut.parameters:,} "
        "parameters."
    )
    footnotes = {
        ("SSD300", "parameters (M)"): same,
        ("SSD300", "multiply-adds (B)"): f"With 80 classes and the background it has {ssd300.madds:,}. No number of "
        "classes, of boxes or size of input that is in use gives 35.2 B; the paper is about 0.85 B above the count at "
        "both sizes, which for SSD512 is within 1 %. With 91 outputs the count equals what torchvision publishes for "
        "its SSD300.",
        ("YOLOv2", "parameters (M)"): two,
        ("YOLOv2", "multiply-adds (B)"): two,
    }
    rows = []
    for line in published.TABLE_6:
        complexity = networks[line.network]
        mobile = "MobileNet" in line.network
        for quantity, paper, ours in (
            (
                "parameters (M)",
                line.parameters_m,
                complexity.parameters_without_batch_norm if mobile else complexity.parameters,
            ),
            ("multiply-adds (B)", line.madds_b, complexity.madds),
        ):
            rows.append(
                Row(
                    network=line.network,
                    quantity=quantity,
                    paper=paper,
                    ours=ours / (MILLION if "param" in quantity else BILLION),
                    decimals=3,
                    footnote=footnotes.get((line.network, quantity)),
                )
            )
        if line.network == "YOLOv2":
            rows += [
                Row(
                    network="YOLOv2, 20 classes",
                    quantity="parameters (M)",
                    paper=line.parameters_m,
                    ours=voc.parameters / MILLION,
                    decimals=3,
                ),
                Row(
                    network="YOLOv2, passthrough uncut",
                    quantity="multiply-adds (B)",
                    paper=line.madds_b,
                    ours=uncut.madds / BILLION,
                    decimals=3,
                ),
            ]
    return Table(
        name="table6",
        title="Table 6: COCO detectors",
        rows=tuple(rows),
        notes=(
            f"80 classes; YOLOv2 at {side}, SSDLite at 320. Parameters of the MobileNets without batch norm, of the "
            "others with it. For the CPU column see `mobilenetv2 paper latency`.",
        ),
    )


def table7() -> Table:
    """DeepLabv3 at 513, 21 classes."""
    odd = _with_rates(on_meta(partial(build, "deeplab_v3_mobilenet_v1_aspp", output_stride=8)), (12, 18, 24))
    other_rates = (
        "The other rows at output stride 8 are those of a pyramid with rates 12, 24 and 36, twice those at 16, as "
        f"DeepLabv3 says. This one would be, with rates 12, 18 and 24: {odd / BILLION:.1f} B."
    )
    backbones = {"MobileNetV1": "mobilenet_v1", "MobileNetV2*": "mobilenet_v2", "ResNet-101": "resnet_101"}
    rows = []
    for line in published.TABLE_7:
        name = f"deeplab_v3_{backbones[line.network]}{'_aspp' if line.aspp else ''}"
        network = on_meta(partial(build, name, output_stride=line.output_stride))
        scales = EVALUATION_SCALES if line.multi_scale_flip else (1.0,)
        side = ZOO[name].resolution
        madds = evaluation_madds(network, (side, side), scales=scales, flip=line.multi_scale_flip)
        plain = trace(network, (side, side))
        title = ", ".join(
            [
                f"{line.network}, OS {line.output_stride}",
                *(["ASPP"] if line.aspp else []),
                *(["MF"] if line.multi_scale_flip else []),
            ]
        )
        rows += [
            Row(
                network=title,
                quantity="parameters (M)",
                paper=line.parameters_m,
                ours=plain.parameters / MILLION,
                decimals=3,
            ),
            Row(
                network=title,
                quantity="multiply-adds (B)",
                paper=line.madds_b,
                ours=madds / BILLION,
                decimals=3,
                footnote=other_rates if line.network == "MobileNetV1" and line.multi_scale_flip else None,
            ),
            Row(
                network=title,
                quantity="the same, without padding (B)",
                paper=None,
                ours=_unpadded(network, side, scales, line.multi_scale_flip) / BILLION,
                decimals=3,
            ),
        ]
    return Table(
        name="table7",
        title="Table 7: DeepLabv3 at 513 x 513",
        rows=tuple(rows),
        notes=(
            "The paper's multiply-adds are TensorFlow's of that time, which pads the map of a dilated convolution to "
            "a multiple of its rate and computes the padding too (33 x 33 costs 36 x 36 at rates 6, 12 and 18). MF: "
            "six scales and the mirrored picture. ResNet-101 is DeepLab's, whose first layer is three 3x3 "
            "convolutions.",
        ),
    )


def _unpadded(network: nn.Module, side: int, scales: Iterable[float], flip: bool) -> int:
    passes = sum(trace(network, scaled_size_hw((side, side), scale)).madds for scale in scales)
    return passes * (2 if flip else 1)


def _with_rates(network: nn.Module, rates: tuple[int, ...]) -> int:
    """Multiply-adds of multi-scale evaluation with flip, had the pyramid other rates: they decide the padding."""
    of_pyramid = {f"head.atrous.{index}.conv": rate for index, rate in enumerate(rates)}
    side, total = ZOO["deeplab_v3_mobilenet_v1_aspp"].resolution, 0
    for scale in EVALUATION_SCALES:
        complexity = trace(network, scaled_size_hw((side, side), scale))
        operators = tuple(replace(o, dilation=of_pyramid.get(o.path, o.dilation)) for o in complexity.operators)
        total += 2 * space_to_batch_madds(replace(complexity, operators=operators))
    return total


def _madds(operators: Iterable[Operator]) -> int:
    return sum(operator.madds for operator in operators)
