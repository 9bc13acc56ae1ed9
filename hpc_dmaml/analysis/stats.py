"""Mean and confidence interval over repetitions, moving averages and the thesis's polynomial fits over runs; and which
values they leave out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

Kind = Literal["t", "normal"]
LEVEL = 0.95
FEWEST = 3
"""Fewest repetitions for a meaningful interval: with two, Student's t has 1 degree of freedom, and a factor of 13."""
DEGREE = 10
"""Degree of the thesis's polynomial fit."""
POINTS_A_DEGREE = 5
"""Fewest points per degree of a polynomial; with fewer it oscillates at the ends."""
NAMES = {"t": "Student's t", "normal": "normal"}
HUGE = 1e6
GAPS = "not finite or huge (a million times the median)"


def known(values: np.ndarray, axis: int | None = 0) -> np.ndarray:
    """`values` with NaN (a gap) for each that is not finite or huge: above `HUGE` in size, and above `HUGE` times the
    median size (zeros aside) along the axis, or, for None, of all. One such value would hide the others in a sum, in a
    polynomial or in a plot."""
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    size = np.abs(np.where(finite & (values != 0), values, np.nan))
    ordered = np.sort(size, axis)  # NaN last
    middle = np.maximum(np.isfinite(ordered).sum(axis or 0, keepdims=True) - 1, 0) // 2
    median = np.take_along_axis(ordered, middle, axis or 0) if ordered.size else ordered
    with np.errstate(over="ignore"):
        return np.where(finite & ~(size > HUGE * np.fmax(median, 1)), values, np.nan)


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of the finite values; NaN where there are none."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(finite, values, 0.0).sum(axis) / finite.sum(axis)


def over_tasks(values: np.ndarray) -> np.ndarray:
    """Means over the held-out tasks, the last axis. One task that is not finite makes the mean so: that of the others
    would be too good."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(values, float).mean(axis=-1)


@dataclass(frozen=True)
class Summary:
    """Mean and confidence limits over repetitions; limits are NaN where there are fewer than `FEWEST`."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    """Number of repetitions with a finite value."""

    def within(self, least: float, most: float) -> Summary:
        """The summary with limits cut at the possible values, `least` to `most`."""
        return replace(self, low=np.maximum(self.low, least), high=np.minimum(self.high, most))


def summarise(values: np.ndarray, kind: Kind = "t", level: float = LEVEL) -> Summary:
    """Mean and limits over the first axis of `values` (n, …): x̄ ± q·s/√n, s the sample's standard deviation (n − 1).

    q is the quantile of Student's t with n − 1 degrees of freedom, or ("normal", as in the thesis) of the normal
    distribution. Values that are not finite count as missing.
    """
    centre, error, n = _moments(np.asarray(values, float))
    half = error * (normal_quantile(level) if kind == "normal" else t_quantile(level, n - 1))
    return Summary(centre, centre - half, centre + half, n)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard error (NaN for fewer than `FEWEST`) and number of the finite values, over the first axis."""
    finite = np.isfinite(values)
    n, centre = finite.sum(axis=0), mean(values, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        deviation = np.where(finite, values - centre, 0.0)
        scale = np.abs(deviation).max(axis=0, initial=0.0)  # the squares of very small numbers would all be 0
        squares = (np.divide(deviation, scale, where=scale > 0, out=np.zeros_like(deviation)) ** 2).sum(axis=0)
        return centre, np.where(n >= FEWEST, scale * np.sqrt(squares / (n - 1) / n), np.nan), n


@dataclass(frozen=True)
class Difference:
    """Mean of one sample less the mean of another, with its confidence limits."""

    mean: float
    low: float
    high: float


def difference(one: Sequence[float], other: Sequence[float], kind: Kind = "t", level: float = LEVEL) -> Difference:
    """Mean difference of two independent samples of unequal variance (Welch; his degrees of freedom for "t").

    The limits are NaN where a sample has fewer than `FEWEST` values.
    """
    from scipy.stats import ttest_ind  # takes a second to import

    (a, b), errors, _ = zip(*(map(float, _moments(np.asarray(each, float))) for each in (one, other)), strict=True)
    largest = float(np.max(errors))
    if not largest > 0:  # no spread, or an unknown one (NaN)
        return Difference(a - b, a - b - largest, a - b + largest)
    samples = [np.asarray(each, float)[np.isfinite(each)] for each in (one, other)]
    freedom = ttest_ind(*((each - each.mean()) / largest for each in samples), equal_var=False).df
    half = (normal_quantile(level) if kind == "normal" else float(t_quantile(level, freedom))) * math.hypot(*errors)
    return Difference(a - b, a - b - half, a - b + half)


def paired_difference(
    one: Sequence[float], other: Sequence[float], kind: Kind = "t", level: float = LEVEL
) -> Difference:
    """Mean difference of values that belong together pair by pair, with the limits of `summarise`."""
    found = summarise(np.subtract(one, other), kind, level)
    return Difference(float(found.mean), float(found.low), float(found.high))


def normal_quantile(level: float = LEVEL) -> float:
    """q such that a standard normal number lies within ± q with probability `level`."""
    return -NormalDist().inv_cdf((1 - level) / 2)


def t_quantile(level: float, freedom: np.ndarray | float) -> np.ndarray:
    """q such that Student's t of `freedom` degrees of freedom lies within ± q; NaN where there are none."""
    from scipy.special import stdtrit

    return -stdtrit(freedom, (1 - level) / 2)  # of the lower tail, which is exact for any level


def fit(x: np.ndarray, y: np.ndarray, degree: int = DEGREE) -> Polynomial | None:
    """The least-squares polynomial through the points that are `known`, its domain scaled; None where there are fewer than
    `POINTS_A_DEGREE` a degree."""
    x, y = known(x), known(y)
    good = np.isfinite(x) & np.isfinite(y)
    enough = len(np.unique(x[good])) >= POINTS_A_DEGREE * degree
    return Polynomial.fit(x[good], y[good], degree) if enough else None


def mean_time(runs: np.ndarray, wall_s: np.ndarray) -> np.ndarray:
    """Mean wall time (n,) over the seeds (k, n), where at least one is known: those of other seeds are filled in, as the
    mean would jump."""
    there, filled = np.isfinite(wall_s), np.full(wall_s.shape, np.nan)
    for seed in np.flatnonzero(there.any(axis=1)):
        own = there[seed]
        filled[seed] = at_pace(runs, np.interp(runs, runs[own], wall_s[seed][own], left=np.nan, right=np.nan))
    return np.where(there.any(axis=0), mean(filled, axis=0), np.nan)


def at_pace(runs: np.ndarray, wall_s: np.ndarray) -> np.ndarray:
    """Fill in missing wall times at the end at the mean pace of those before, without the first run (warm-up)."""
    first, last = np.flatnonzero(np.isfinite(wall_s))[[0, -1]]
    pace = (wall_s[last] - wall_s[first]) / (runs[last] - runs[first]) if last > first else wall_s[last] / runs[last]
    return np.where(np.arange(len(runs)) <= last, wall_s, wall_s[last] + pace * (runs - runs[last]))


def window_for(points: int) -> int:
    """Window of a moving average over this many points: odd, about a twentieth of them; 1, which is none, below 40."""
    return 2 * (points // 40) + 1


def smoothed(values: np.ndarray, window: int, centred: bool = True) -> np.ndarray:
    """Moving average of the finite values along the last axis; gaps stay gaps. A centred window is narrower near the
    ends, so that it does not bend a rising curve there; else the window holds the last `window` values."""
    count, means = values.shape[-1], np.full(values.shape, np.nan)
    for place in range(count):
        half = min(window // 2, place, count - 1 - place)
        first, last = (place - half, place + half) if centred else (max(0, place + 1 - window), place)
        means[..., place] = mean(values[..., first : last + 1], axis=-1)
    return np.where(np.isfinite(values), means, np.nan)
