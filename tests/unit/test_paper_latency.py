"""Latency side by side: interleaved fairly, folded rightly, and compared with the paper."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mobilenetv2.networks.layers import ConvNorm
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.paper import latency
from mobilenetv2.paper.latency import Latency, Subject, compare, fold_batch_norm, measure_latency, prepare, spread
from mobilenetv2.paper.published import TABLE_4, TABLE_6

SIZE_HW = (8, 12)


class Clock:
    """A clock that only networks advance, and the order in which they did."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []


class Timed(nn.Module):
    """Takes `ms` of the clock, and ten times as long unless it was also the last network to run."""

    def __init__(self, clock: Clock, name: str, ms: float) -> None:
        super().__init__()
        self.clock, self.name, self.ms = clock, name, ms

    def __deepcopy__(self, memo: object) -> Timed:
        return Timed(self.clock, self.name, self.ms)

    def forward(self, images: Tensor) -> Tensor:
        is_warm = self.clock.calls[-1:] == [self.name]
        self.clock.calls.append(self.name)
        self.clock.now_s += self.ms / 1000 * (1 if is_warm else 10)
        return images.mean(dim=(2, 3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "perf_counter", lambda: made.now_s)
    return made


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network(depth: int = 1, *, numerics: str = "torch") -> nn.Sequential:
    profile = NUMERICS[numerics]
    blocks = [
        ConvNorm(3 if index == 0 else 8, 8, kernel=3, stride=1 if index else 2, numerics=profile)
        for index in range(depth)
    ]
    return nn.Sequential(*blocks)


def test_rounds_interleave_the_networks_and_time_them_warm(clock: Clock) -> None:
    names = {"a": 1.0, "b": 2.0, "c": 5.0}
    subjects = {name: Subject(Timed(clock, name, ms), SIZE_HW) for name, ms in names.items()}
    measured = measure_latency(subjects, rounds=7)
    for name, ms in names.items():
        assert len(measured[name].rounds_ms) == 7
        assert measured[name].rounds_ms == pytest.approx([ms] * 7)
    calls = clock.calls[-7 * 6 :]
    rounds = [calls[start : start + 6] for start in range(0, len(calls), 6)]
    for calls_of_round in rounds:
        assert calls_of_round[::2] == calls_of_round[1::2]
        assert sorted(calls_of_round[::2]) == ["a", "b", "c"]
    assert len({tuple(calls_of_round) for calls_of_round in rounds}) > 1


def test_no_round_begins_after_the_limit(clock: Clock) -> None:
    # A lone network is always warm: two calls, 2 s a round.
    subjects = {"slow": Subject(Timed(clock, "slow", 1000), SIZE_HW)}
    assert len(measure_latency(subjects, rounds=100, limit_s=5)["slow"].rounds_ms) == 3
    assert len(measure_latency(subjects, rounds=2, limit_s=5)["slow"].rounds_ms) == 2
    assert len(measure_latency(subjects, rounds=100, limit_s=0)["slow"].rounds_ms) == 1


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="0 rounds are too few"):
        measure_latency({"net": Subject(network(), SIZE_HW)}, rounds=0)


def test_keys_may_be_of_any_kind() -> None:
    measured = measure_latency({(1.0, 224): Subject(network(), SIZE_HW)}, rounds=2)
    assert all(ms > 0 for ms in measured[1.0, 224].rounds_ms)


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back() -> None:
    seen: list[int] = []
    watched = network()
    watched.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    measure_latency({"net": Subject(watched, SIZE_HW)}, rounds=1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    watched.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        measure_latency({"net": Subject(watched, SIZE_HW)}, rounds=1)
    assert torch.get_num_threads() == 2


def test_the_pictures_have_their_size_and_one_a_batch() -> None:
    shapes: list[tuple[int, ...]] = []
    watched = network()
    watched.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    measure_latency({"net": Subject(watched, SIZE_HW)}, rounds=2)
    assert shapes[-4:] == [(1, 3, 8, 12)] * 4


def test_the_network_itself_stays_as_it_was() -> None:
    original = network(2).train()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    measure_latency({"net": Subject(original, SIZE_HW)}, rounds=1)
    assert original.training
    assert all(torch.equal(before[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_folding_leaves_the_answers_and_no_batch_norm(numerics: str) -> None:
    torch.manual_seed(0)
    original = network(3, numerics=numerics).eval()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert value is not None
                value.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, 9, 9)
    expected = original(images)
    assert fold_batch_norm(original) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in original.modules())
    torch.testing.assert_close(original(images), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_over_something_else_stays() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.even, self.odd = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            joined: Tensor = self.norm(torch.cat((self.even(x), self.odd(x)), dim=1))
            return joined, [joined.mean()]

    prepared = prepare(Joined(), torch.randn(2, 3, 8, 8))
    assert isinstance(prepared.norm, nn.BatchNorm2d)
    # One variance for all channels, so that none is blown up where two pictures happen to agree.
    assert prepared.norm.running_var is not None
    assert torch.equal(prepared.norm.running_var, prepared.norm.running_var[:1].expand(8))
    assert not torch.equal(prepared.norm.running_var, torch.ones(8))
    assert not prepared.training


def test_a_deep_untrained_network_keeps_its_scale() -> None:
    """As drawn, without statistics, it would end in numbers that are slow to compute with."""
    torch.manual_seed(0)
    numerics = NUMERICS["torch"]
    blocks = [ConvNorm(3, 64, numerics=numerics)]
    blocks += [ConvNorm(64, 64, kernel=3, groups=64, activation="linear", numerics=numerics) for _ in range(30)]
    deep = nn.Sequential(*blocks).eval()
    for block in blocks:
        block.conv.weight.data *= 0.05
    pictures = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert deep(pictures).abs().max() < 1e-20
        assert 0.1 < prepare(deep, pictures)(pictures).abs().max() < 100


def test_a_norm_before_its_convolution_is_noticed() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            filtered: Tensor = self.conv(self.norm(x))
            return filtered

    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="Backwards answers otherwise with its batch norm folded"):
        prepare(Backwards(), 3 * torch.randn(2, 3, 8, 8) + 1)


def test_answers_that_cannot_be_compared_are_refused() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x}

    with pytest.raises(TypeError, match="answers with dict"):
        prepare(Named(), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Ranks from the table of the sign test: the 1st of 6, the 2nd of 9, the 10th of 30, the 40th of 100.
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (9, 2, 8), (30, 10, 21), (100, 40, 61)],
)
def test_the_interval_of_the_median(count: int, low: int, high: int) -> None:
    values = [float(value) for value in range(count, 0, -1)]
    measured = spread(values)
    assert (measured.low, measured.high) == (low, high)
    assert measured.p50 == (count + 1) / 2
    assert measured.p25 == 1 + 0.25 * (count - 1)
    assert measured.p75 == 1 + 0.75 * (count - 1)


def test_the_interval_holds_the_median_in_95_of_100_cases() -> None:
    random = torch.Generator().manual_seed(0)
    trials = [spread(torch.randn(20, generator=random).tolist()) for _ in range(600)]
    share = sum(trial.low <= 0 <= trial.high for trial in trials) / len(trials)
    # 20 values: between the 6th and the 15th, 95.9 %.
    assert 0.93 < share < 0.985


def test_ratios_are_taken_round_by_round() -> None:
    """Half the rounds were slow for both: the ratio does not see it."""
    one = Latency(rounds_ms=(10.0, 100.0) * 5)
    other = Latency(rounds_ms=(20.0, 200.0) * 5)
    assert other.ratio_to(one) == (2, 2, 2, 2, 2)
    assert other.ms.p50 == 110


def test_rows_stand_beside_the_paper() -> None:
    measured = {
        "MobileNetV1": Latency(rounds_ms=(10.0,) * 6),
        "MobileNetV2": Latency(rounds_ms=(7.0,) * 6),
        "ShuffleNet (x2)": Latency(rounds_ms=(20.0,) * 6),
        "mine": Latency(rounds_ms=(5.0,) * 6),
    }
    paper_ms = {row.network: row.cpu_ms for row in TABLE_4}
    rows = {row.network: row for row in compare(measured, reference="MobileNetV1", paper_ms=paper_ms)}
    assert list(rows) == list(measured)
    assert rows["MobileNetV2"].paper_ratio == 75 / 113
    assert (rows["MobileNetV2"].paper_ms, rows["MobileNetV2"].ratio.p50) == (75, 0.7)
    assert rows["MobileNetV1"].paper_ratio == rows["MobileNetV1"].ratio.p50 == 1
    for name in ("ShuffleNet (x2)", "mine"):
        assert rows[name].paper_ms is None
        assert rows[name].paper_ratio is None
    with pytest.raises(ValueError, match="no latency for the reference 'SSD300'"):
        compare(measured, reference="SSD300", paper_ms={row.network: row.cpu_ms for row in TABLE_6})
