"""Every network of the paper by name: how it is built, and at which input it is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torchvision
from torch import nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.networks import ablations
from mobilenetv2.networks.deeplab_v3 import BackboneName, deeplab_v3
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.nasnet_a import NASNetAMobile
from mobilenetv2.networks.shufflenet_v1 import ShuffleNetV1
from mobilenetv2.networks.ssd import ssd, ssdlite
from mobilenetv2.networks.ssd_vgg import ssd300, ssd512
from mobilenetv2.networks.yolo_v2 import YOLOv2

Task = Literal["classify", "detect", "segment"]
Option = Literal["width", "output_stride"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network.

    build: makes it with random weights, and takes those of `options` as keyword arguments.
    resolution: side of the paper's input in pixels. smallest: side at which one step of training still
        lowers the loss of four pictures; below it, batch norm has too few values in the last maps.
    source: where it comes from.
    """

    task: Task
    build: Callable[..., nn.Module]
    resolution: int
    smallest: int = 64
    options: tuple[Option, ...] = ()
    source: str


def _mobilenet(name: str, **options: Any) -> nn.Module:
    return build_mobilenet(Architecture(name=name, **options))


_SCALABLE: tuple[Option, ...] = ("width", "output_stride")
_SANDLER = "Sandler et al., CVPR 2018"
_ZHANG = "Zhang et al., CVPR 2018"
_LIU = "Liu et al., ECCV 2016"
_CHEN = "Chen et al., 2017"
_BACKBONES: tuple[BackboneName, ...] = ("mobilenet_v2", "mobilenet_v1", "resnet_101")

ZOO: dict[str, Entry] = {
    "mobilenet_v2": Entry(
        task="classify",
        build=partial(_mobilenet, "mobilenet_v2"),
        resolution=224,
        options=_SCALABLE,
        source=f"{_SANDLER}, Table 2",
    ),
    "mobilenet_v1": Entry(
        task="classify",
        build=partial(_mobilenet, "mobilenet_v1"),
        resolution=224,
        options=_SCALABLE,
        source="Howard et al., 2017",
    ),
    "shufflenet_v1": Entry(
        task="classify", build=ShuffleNetV1, resolution=224, options=("width",), source=f"{_ZHANG}, 3 groups"
    ),
    **{
        f"shufflenet_v1_g{groups}": Entry(
            task="classify",
            build=partial(ShuffleNetV1, groups=groups),
            resolution=224,
            options=("width",),
            source=f"{_ZHANG}, {groups} groups",
        )
        for groups in (1, 2, 4, 8)
    },
    "nasnet_a_mobile": Entry(
        task="classify", build=NASNetAMobile, resolution=224, source="Zoph et al., CVPR 2018, 4 @ 1056"
    ),
    "resnet_101": Entry(
        task="classify",
        build=torchvision.models.resnet101,
        resolution=224,
        smallest=128,
        source="He et al., CVPR 2016; torchvision",
    ),
    "vgg_16": Entry(
        task="classify", build=torchvision.models.vgg16, resolution=224, source="Simonyan, Zisserman, 2015; torchvision"
    ),
    **{
        f"mobilenet_v2_{name}": Entry(
            task="classify", build=build, resolution=224, options=("width",), source=f"{_SANDLER}, {figure}"
        )
        for name, build, figure in (
            ("nonlinear", ablations.nonlinear_bottlenecks, "Fig. 6a"),
            ("wide_shortcuts", ablations.wide_shortcuts, "Fig. 6b"),
            ("no_shortcuts", ablations.no_shortcuts, "Fig. 6b"),
        )
    },
    "ssdlite_mobilenet_v2": Entry(
        task="detect", build=ssdlite, resolution=320, smallest=192, options=("width",), source=f"{_SANDLER}, Sec. 6.2"
    ),
    "ssdlite_mobilenet_v1": Entry(
        task="detect",
        build=partial(ssdlite, "mobilenet_v1"),
        resolution=320,
        smallest=192,
        options=("width",),
        source=f"{_SANDLER}, Table 6",
    ),
    "ssd_mobilenet_v2": Entry(
        task="detect", build=ssd, resolution=320, smallest=192, options=("width",), source=f"{_SANDLER}, Table 5"
    ),
    "ssd_mobilenet_v1": Entry(
        task="detect",
        build=partial(ssd, "mobilenet_v1"),
        resolution=320,
        smallest=192,
        options=("width",),
        source=f"{_SANDLER}, Sec. 6.2",
    ),
    "ssd300": Entry(task="detect", build=ssd300, resolution=300, smallest=300, source=_LIU),
    "ssd512": Entry(task="detect", build=ssd512, resolution=512, smallest=300, source=_LIU),
    "yolo_v2": Entry(task="detect", build=YOLOv2, resolution=416, source="Redmon, Farhadi, CVPR 2017"),
    **{
        f"deeplab_v3_{backbone}{'_aspp' if aspp else ''}": Entry(
            task="segment",
            build=partial(deeplab_v3, backbone, aspp=aspp),
            resolution=513,
            smallest=65,
            options=("output_stride",) if backbone == "resnet_101" else _SCALABLE,
            source=f"{_CHEN}; {_SANDLER}, Sec. 6.3",
        )
        for backbone in _BACKBONES
        for aspp in (False, True)
    },
}


def build(name: str, *, width: float | None = None, output_stride: int | None = None) -> nn.Module:
    """A network by name, with random weights; options that are None are as the paper has them.

    Raises UserError for an unknown name, for an option that the network does not have, and for a value it cannot have.
    """
    if name not in ZOO:
        raise UserError(f"network {name!r} is not known{did_you_mean(name, ZOO)}; it can be {', '.join(ZOO)}")
    entry = ZOO[name]
    given: dict[Option, float | None] = {"width": width, "output_stride": output_stride}
    options = {option: value for option, value in given.items() if value is not None}
    for option in options:
        if option not in entry.options:
            has = " and ".join(entry.options) or "no options"
            raise UserError(f"network {name!r} has no {option.replace('_', ' ')} to choose; it has {has}")
    if width is not None and not 0 < width <= 16:
        raise UserError(f"width {width!r} is out of range; give a number above 0, at most 16, such as 1.0")
    try:
        return entry.build(**options)
    except ValueError as error:
        raise UserError(f"network {name!r}: {error}") from error
