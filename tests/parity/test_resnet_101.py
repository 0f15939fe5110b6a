"""With torchvision's weights under our names, our ResNet-101 answers as torchvision's trunk does."""

from __future__ import annotations

import pytest
import torch
from peers import pictures, randomize, relative_difference
from torch import Tensor, nn
from torchvision.models import resnet101
from torchvision.models._utils import IntermediateLayerGetter

from mobilenetv2.networks.resnet_101 import DEEPLAB_BETA, ResNet101, plan_units

# Output stride -> torchvision's option: which of the last three stages give up their stride.
REPLACED = {32: [False, False, False], 16: [False, False, True], 8: [False, True, True]}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(randomize(resnet101(weights=None, num_classes=2), seed=1).state_dict())


def under_our_names(theirs: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Both libraries list their layers in the order of computation, with the shortcut last."""
    tensors = [tensor for name, tensor in theirs.items() if not name.startswith("fc.")]
    names = network.state_dict().keys()
    return dict(zip(names, tensors, strict=True))


@pytest.mark.parametrize("output_stride", [32, 8])
def test_outputs_are_equal(weights: dict[str, Tensor], output_stride: int) -> None:
    with torch.device("meta"):
        ours = ResNet101(output_stride=output_stride)
        theirs = resnet101(weights=None, num_classes=2, replace_stride_with_dilation=REPLACED[output_stride])
    theirs.load_state_dict(weights, assign=True)
    ours.load_state_dict(under_our_names(weights, ours), assign=True)
    trunk = IntermediateLayerGetter(theirs.eval(), {"layer4": "last"})
    images = pictures((64, 64))
    with torch.inference_mode():
        found, expected = ours.eval()(images), trunk(images)["last"]
    assert found.shape == (2, 2048, 64 // output_stride, 64 // output_stride)
    assert relative_difference(found, expected) <= 1e-5


def test_deeplabs_variant_is_planned_as_in_tf_deeplab() -> None:
    """Strides in the last unit of a stage; the dilation of the last stage times (1, 2, 4)."""
    at_32, at_16, at_8 = (plan_units(DEEPLAB_BETA, output_stride) for output_stride in (32, 16, 8))
    assert [[unit.stride for unit in stage] for stage in at_32] == [[1, 1, 2], [1, 1, 1, 2], [1] * 22 + [2], [1, 1, 1]]
    assert [unit.dilation for unit in at_32[3]] == [1, 2, 4]
    assert [unit.dilation for unit in at_16[3]] == [2, 4, 8]
    assert {unit.dilation for unit in at_16[2]} == {1}
    assert {unit.dilation for unit in at_8[1]} == {1}
    assert {unit.dilation for unit in at_8[2]} == {2}
    assert [unit.dilation for unit in at_8[3]] == [4, 8, 16]
    assert at_32[0][0].in_channels == 128


def test_impossible_output_strides() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="output stride 4"):
        ResNet101(output_stride=4)
