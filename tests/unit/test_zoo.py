"""Every network of the zoo runs and learns, and what it cannot do it says in one line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mobilenetv2.errors import UserError
from mobilenetv2.networks.zoo import ZOO, build

# Those whose step takes seconds are left to `make test-all`.
LARGE = {"ssd300", "ssd512", "yolo_v2", "vgg_16", "resnet_101", "deeplab_v3_resnet_101", "deeplab_v3_resnet_101_aspp"}


def answers(network: nn.Module, images: Tensor) -> list[Tensor]:
    raw = network(images)
    return [raw] if isinstance(raw, Tensor) else list(raw)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in ZOO])
def test_one_step_lowers_the_loss_on_a_fixed_batch(name: str) -> None:
    """The loss is the distance to fixed random answers, which every raw output has alike."""
    torch.manual_seed(0)
    network, side = build(name), ZOO[name].smallest
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(4, 3, side, side)
    targets = [torch.randn_like(answer) for answer in answers(network, images)]

    def loss() -> Tensor:
        pairs = zip(answers(network, images), targets, strict=True)
        return torch.stack([nn.functional.mse_loss(answer, target) for answer, target in pairs]).sum()

    before = loss()
    assert before.isfinite()
    before.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained), "a parameter that the answer does not depend on"
    # As long as should take a thousandth off the loss by its slope, which random networks have of every kind.
    slope = sum(float(parameter.grad.square().sum()) for parameter in trained if parameter.grad is not None)
    torch.optim.SGD(trained, lr=1e-3 * float(before.detach()) / slope).step()
    with torch.no_grad():
        assert loss() < before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilnet_v2", {}, "did you mean 'mobilenet_v2'"),
        ("resnet_101", {"width": 0.5}, "has no width to choose"),
        ("ssd300", {"output_stride": 16}, "has no output stride to choose"),
        ("mobilenet_v2", {"output_stride": 12}, "output stride 12"),
        ("mobilenet_v1", {"output_stride": 12}, "output stride 12"),
        ("shufflenet_v1", {"width": 0.7}, "width 0.7"),
        ("mobilenet_v1", {"width": 0.0}, "width 0.0 is out of range"),
        ("ssdlite_mobilenet_v2", {"width": float("nan")}, "width nan is out of range"),
    ],
)
def test_what_is_not_possible_is_one_line(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
