"""What ReLU destroys of a manifold of few dimensions: Figure 1 and Appendix A (Sandler et al., CVPR 2018, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# The panels of Figure 1.
DIMENSIONS = (2, 3, 5, 15, 30)
# (n, m): inputs that span n dimensions, m outputs of ReLU. The panels again.
PAIRS = tuple((2, dimensions) for dimensions in DIMENSIONS)

POINTS = 1000
TURNS = 2.0
NEIGHBOURS = 10
# Numbers of a matrix batch in the Monte Carlo.
BATCH_NUMBERS = 4_000_000

Points = NDArray[np.float64]


class Passage(NamedTuple):
    """A spiral that went through ReLU in `dimensions` dimensions and came back to two.

    collapsed: share of the points where fewer than two dimensions are active, so that ReLU presses a whole
        direction flat (Lemma 2). Exact for these points; on average over T it is 1 - `preserved_fraction`.
    neighbours_kept: share of every point's ten nearest that are among its ten nearest after the passage.
    affine_error: distance that the best affine map leaves between output and input, over the spread of the
        input; 0 is a straight copy, 1 says nothing about the input.
    """

    dimensions: int
    output: Points  # (points, 2)
    collapsed: float
    neighbours_kept: float
    affine_error: float


def spiral(points: int = POINTS) -> Points:
    """(points, 2), from the centre (left out) to the unit circle in two turns, evenly spaced along the line."""
    # The length of the line grows with the square of the angle.
    radius = np.sqrt(np.arange(1, points + 1) / points)
    angle = 2 * np.pi * TURNS * radius
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def pass_through_relu(points: Points, dimensions: int, *, seed: int = 0) -> Passage:
    """ReLU(T x), back by the pseudo-inverse of T; T is normal, (dimensions, 2), and depends on `seed` only."""
    matrix = np.random.default_rng((seed, dimensions)).normal(size=(dimensions, 2))
    embedded = points @ matrix.T
    output = np.maximum(embedded, 0) @ np.linalg.pinv(matrix).T
    return Passage(
        dimensions=dimensions,
        output=output,
        # Two rows of a normal matrix are never parallel, so two active ones are always enough.
        collapsed=float(((embedded > 0).sum(1) < 2).mean()),
        neighbours_kept=neighbours_kept(points, output),
        affine_error=affine_error(points, output),
    )


def figure_1(*, seed: int = 0, dimensions: Sequence[int] = DIMENSIONS) -> tuple[Passage, ...]:
    """The panels of Figure 1: one spiral, a random T for each number of dimensions."""
    points = spiral()
    return tuple(pass_through_relu(points, count, seed=seed) for count in dimensions)


def neighbours_kept(before: Points, after: Points, count: int = NEIGHBOURS) -> float:
    """Share of every point's `count` nearest that stay among its `count` nearest; 0..1."""

    def nearest(points: Points) -> NDArray[np.bool_]:
        distances = np.square(points[:, None] - points[None]).sum(2)
        np.fill_diagonal(distances, np.inf)
        is_near = np.zeros(distances.shape, dtype=np.bool_)
        # A stable order: points that ReLU has laid on one another are all equally near.
        np.put_along_axis(is_near, np.argsort(distances, axis=1, kind="stable")[:, :count], True, axis=1)
        return is_near

    return float((nearest(before) & nearest(after)).sum() / (count * len(before)))


def affine_error(before: Points, after: Points) -> float:
    """Root mean square distance from `before` to the best affine map of `after`, over the spread of `before`; 0..1."""
    design = np.column_stack((after, np.ones(len(after))))
    best = np.linalg.lstsq(design, before, rcond=None)[0]
    return float(np.linalg.norm(design @ best - before) / np.linalg.norm(before - before.mean(0)))


class Preserved(NamedTuple):
    """One pair of Appendix A: share of an n-dimensional input that ReLU(B x) with m rows of B does not collapse."""

    n: int
    m: int
    formula: float
    monte_carlo: float
    standard_error: float  # of `monte_carlo`; 0 if every sample or none was kept


def preserved_fraction(n: int, m: int) -> float:
    """Theorem 1: N / 2^m with N = sum over k = 0 .. m - n of C(m, k); 0 if there are fewer rows than dimensions."""
    return sum(comb(m, k) for k in range(m - n + 1)) / (1 << m)


def sample_preserved(n: int, m: int, *, samples: int = 100_000, seed: int = 0) -> tuple[float, float]:
    """Lemma 2 tried out: share of random x and B, (m, n), for which at least n rows of B are positive on x.

    Both are normal, and new for every sample; n rows of such a B are independent with probability 1.
    Returns the share and its standard error.
    """
    random = np.random.default_rng((seed, n, m))
    batch = max(1, BATCH_NUMBERS // (n * m))
    kept = 0
    for start in range(0, samples, batch):
        size = min(batch, samples - start)
        matrices, inputs = random.normal(size=(size, m, n)), random.normal(size=(size, n, 1))
        kept += int(((matrices @ inputs > 0).sum((1, 2)) >= n).sum())
    share = kept / samples
    return share, sqrt(share * (1 - share) / samples)


def appendix_a(
    *, pairs: Sequence[tuple[int, int]] = PAIRS, samples: int = 100_000, seed: int = 0
) -> tuple[Preserved, ...]:
    """A row for each (n, m): the formula beside the Monte Carlo."""
    return tuple(
        Preserved(n, m, preserved_fraction(n, m), *sample_preserved(n, m, samples=samples, seed=seed)) for n, m in pairs
    )
