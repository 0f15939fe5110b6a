"""What ReLU destroys: the formula of Appendix A against counting, chance and the spiral of Figure 1."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mobilenetv2.paper.manifold import (
    DIMENSIONS,
    PAIRS,
    affine_error,
    appendix_a,
    figure_1,
    neighbours_kept,
    pass_through_relu,
    preserved_fraction,
    sample_preserved,
    spiral,
)


@pytest.mark.parametrize(("m", "share"), [(2, 0.25), (3, 0.5), (5, 0.8125), (15, 0.99951171875)])
def test_preserved_fraction_is_the_papers(m: int, share: float) -> None:
    assert preserved_fraction(2, m) == share


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (3, 4), (4, 4), (5, 9), (3, 2)])
def test_preserved_fraction_counts_sign_patterns(n: int, m: int) -> None:
    patterns = list(itertools.product((False, True), repeat=m))
    assert preserved_fraction(n, m) == sum(sum(pattern) >= n for pattern in patterns) / len(patterns)


@pytest.mark.parametrize(("n", "m"), [*PAIRS[:4], (3, 4), (8, 16)])
def test_chance_agrees_with_the_formula(n: int, m: int) -> None:
    share, error = sample_preserved(n, m, samples=20_000)
    exact = preserved_fraction(n, m)
    assert 0 < error < 0.004
    assert error == pytest.approx(np.sqrt(exact * (1 - exact) / 20_000), rel=0.5)
    assert abs(share - exact) < 4 * error


def test_the_last_batch_of_samples_may_be_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenetv2.paper.manifold.BATCH_NUMBERS", 6 * 300)
    share, error = sample_preserved(2, 3, samples=1000)
    assert abs(share - 0.5) < 4 * error
    assert share * 1000 == pytest.approx(round(share * 1000))


def test_counting_positive_rows_is_lemma_2() -> None:
    """The rows that are positive span all n dimensions exactly where there are n of them."""
    random = np.random.default_rng(3)
    counted = ranked = 0
    for _ in range(300):
        matrix, x = random.normal(size=(5, 3)), random.normal(size=3)
        active = matrix[matrix @ x > 0]
        counted += len(active) >= 3
        ranked += len(active) > 0 and bool(np.linalg.matrix_rank(active) == 3)
    assert counted == ranked


def test_appendix_a_is_a_row_a_pair() -> None:
    rows = appendix_a(samples=2000)
    assert [(row.n, row.m) for row in rows] == [(2, 2), (2, 3), (2, 5), (2, 15), (2, 30)]
    assert rows == appendix_a(samples=2000)
    assert rows[:3] != appendix_a(samples=2000, seed=1)[:3]
    for row in rows:
        assert row.formula == preserved_fraction(row.n, row.m)
        assert abs(row.monte_carlo - row.formula) <= max(4 * row.standard_error, 0.002)


def test_the_spiral_is_even_and_within_the_unit_circle() -> None:
    points = spiral(500)
    radii, steps = np.linalg.norm(points, axis=1), np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert points.shape == (500, 2)
    assert radii.min() > 0
    assert radii.max() == pytest.approx(1)
    assert np.diff(radii).min() > 0
    # But for the first few, where the line turns quickest.
    assert steps[20:].max() / steps[20:].min() < 1.2


@pytest.mark.parametrize("seed", range(2))
def test_few_dimensions_lose_and_many_do_not(seed: int) -> None:
    panels = {passage.dimensions: passage for passage in figure_1(seed=seed)}
    assert tuple(panels) == DIMENSIONS == (2, 3, 5, 15, 30)
    for few, many in itertools.product((2, 3), (15, 30)):
        assert panels[few].collapsed > 0.4
        assert panels[many].collapsed == 0
        assert panels[few].neighbours_kept < 0.85 < 0.9 < panels[many].neighbours_kept
        assert panels[many].affine_error < panels[few].affine_error - 0.1
    assert all(passage.output.shape == (1000, 2) for passage in panels.values())


def test_a_spiral_collapses_as_often_as_theorem_1_says() -> None:
    points = spiral(40)
    for dimensions in (2, 3, 5):
        shares = [pass_through_relu(points, dimensions, seed=seed).collapsed for seed in range(200)]
        error = np.std(shares) / np.sqrt(len(shares))
        # With 3 dimensions, opposite points have one and two of them: always about half the spiral.
        assert np.mean(shares) == pytest.approx(1 - preserved_fraction(2, dimensions), abs=4 * error + 0.01)


def test_collapsed_points_lie_on_lines() -> None:
    """With one of two dimensions active, what comes back is a multiple of one direction."""
    points = spiral()
    matrix = np.random.default_rng((0, 2)).normal(size=(2, 2))
    one_active = (points @ matrix.T > 0) @ (1, 2) == 1
    output = pass_through_relu(points, 2).output[one_active]
    assert one_active.sum() > 50
    assert np.linalg.svd(output, compute_uv=False)[1] == pytest.approx(0, abs=1e-9)


def test_the_measures_of_loss_at_their_ends() -> None:
    points = spiral(300)
    turned = points @ np.array([[0.0, 2.0], [-2.0, 0.0]]) + 5
    skewed = points @ np.array([[1.0, 3.0], [0.0, 0.5]])
    noise = np.random.default_rng(0).normal(size=points.shape)
    assert neighbours_kept(points, turned) == 1
    assert affine_error(points, skewed) == pytest.approx(0, abs=1e-9)
    assert neighbours_kept(points, noise) < 0.1
    assert 0.9 < affine_error(points, noise) <= 1
    assert affine_error(points, np.zeros_like(points)) == pytest.approx(1)
