"""What frameworks do differently: rounding of channels, dilation rules, Keras' own padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from conftest import RandomModel
from mobilenetv2.architecture import Architecture, plan_network, trunk
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.numerics import DILATIONS, ROUNDINGS
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.runtime.images import open_image
from mobilenetv2.runtime.predictor import predictor_of

# Stem, then the seven rows of Table 2; TF-Slim's are in test_architecture.py.
CHANNELS = {
    ("ceil8", 0.35): (32, 16, 16, 16, 24, 40, 56, 112),
    ("ceil8", 0.5): (32, 16, 16, 16, 32, 48, 80, 160),
    ("ceil8", 0.75): (32, 16, 24, 24, 48, 72, 120, 240),
    ("ceil8", 1.4): (32, 16, 40, 48, 96, 136, 224, 448),
    ("int", 0.35): (11, 5, 8, 11, 22, 33, 56, 112),
    ("int", 0.5): (16, 8, 12, 16, 32, 48, 80, 160),
    ("int", 0.75): (24, 12, 18, 24, 48, 72, 120, 240),
    ("int", 1.4): (44, 22, 33, 44, 89, 134, 224, 448),
}


@pytest.mark.parametrize(("rounding", "width"), CHANNELS, ids=str)
def test_channels_by_each_rule(rounding: str, width: float) -> None:
    plan = plan_network(Architecture(width=width, rounding=rounding))  # type: ignore[arg-type]
    assert (plan.stem_channels, *(stage[-1].out_channels for stage in plan.stages)) == CHANNELS[rounding, width]


@given(st.sampled_from(sorted(ROUNDINGS)), st.floats(0.01, 16))
def test_no_width_is_without_channels(rounding: str, width: float) -> None:
    plan = plan_network(Architecture(width=width, rounding=rounding))  # type: ignore[arg-type]
    assert all(block.in_channels >= 1 and block.out_channels >= 1 for block in plan.blocks)


# Rates of the 17 depthwise convolutions at output stride 8: TF-Slim's; segmentation_models_pytorch's, which dilates
# every convolution of a stage alike; mmsegmentation's dilations (1, 1, 1, 2, 2, 4, 4), of first blocks alone.
RATES = {
    "slim": [1] * 7 + [2] * 7 + [4] * 3,
    "smp": [1] * 6 + [2] * 7 + [4] * 4,
    "mmseg": [1] * 6 + [2, 1, 1, 1] + [2, 1, 1] + [4, 1, 1] + [4],
}


@pytest.mark.parametrize("rule", DILATIONS)
def test_dilation_by_each_rule(rule: str) -> None:
    blocks = list(plan_network(Architecture(output_stride=8, dilation=rule)).blocks)  # type: ignore[arg-type]
    assert [block.dilation for block in blocks] == RATES[rule]
    assert np.prod([block.stride for block in blocks]) == 4
    plain = plan_network(Architecture(dilation=rule)).blocks  # type: ignore[arg-type]
    assert {block.dilation for block in plain} == {1}


@pytest.mark.parametrize("size_hw", [(31, 31), (97, 96), (65, 130)])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_trailing_padding_is_the_same_in_torch_and_in_the_runtime(
    random_model: RandomModel, name: str, size_hw: tuple[int, int]
) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=size_hw), name=name, numerics="keras")
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    answer = predictor_of(model).predict(picture)
    pixels = torch.from_numpy(preprocess(open_image(picture), model.card.preprocessing))[None]
    network = load(model)
    with torch.inference_mode():
        expected = network.double()(pixels.double()).softmax(1)[0].numpy()
    np.testing.assert_allclose(answer.scores, expected, atol=1e-4)  # type: ignore[union-attr]


def load(model: ModelFile) -> torch.nn.Module:
    kind = MobileNetV1 if model.card.architecture.name == "mobilenet_v1" else MobileNetV2
    network = kind(model.card.classifier)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    return network.eval()


@pytest.mark.parametrize("size", [31, 32, 33, 64, 65])
def test_trailing_padding_rounds_down(size: int) -> None:
    depthwise = next(each for each in trunk(Architecture(numerics="keras")) if each.rounds_down)
    x = F.pad(torch.zeros(1, 1, size, size), (0, 1, 0, 1))
    assert depthwise.out_size((size, size)) == F.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2).shape[2:]


def test_trailing_padding_needs_a_side_and_a_classifier(random_model: RandomModel) -> None:
    with pytest.raises(UserError, match="numerics 'keras' need 31 pixels a side, not 30x64"):
        random_model(preprocessing=Preprocessing(size_hw=(30, 64)), numerics="keras")


def test_rounded_activations_are_those_of_the_card(random_model: RandomModel) -> None:
    """Of a network whose first layer's results are rounded to 256 levels over a range ten times too large."""
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), numerics="tf")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

    def scores(ranges: dict[str, tuple[float, float]], levels: int) -> np.ndarray:
        card = replace(model.card, activation_ranges=ranges, activation_levels=levels)
        found = predictor_of(ModelFile(card=card, tensors=model.tensors)).predict(picture)
        return np.asarray(found.scores)  # type: ignore[union-attr]

    plain = scores({}, 0)
    assert np.array_equal(scores({"stem": (0.0, 6.0)}, 0), plain)
    assert np.abs(scores({"stem": (0.0, 1e-4)}, 256) - plain).max() > 1e-3
    logits = scores({"classifier": (-100.0, 100.0)}, 256)
    # All logits lie on a grid of 200 / 255.
    held = logits[logits > 1e-20].astype(np.float64)
    assert len(held) > 1
    steps = np.log(held / held.max()) / (200 / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("rounding", "up", "rounding 'up' is not known"), ("dilation", "x", "dilation 'x' is not known")],
)
def test_unknown_rules_are_named(option: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Architecture(**{option: value})  # type: ignore[arg-type]


def test_mobilenet_v1_has_no_rounding_rules() -> None:
    with pytest.raises(UserError, match="options of mobilenet_v2 alone"):
        Architecture(name="mobilenet_v1", rounding="int")
