"""The thesis's statistics: mean and confidence interval over repetitions, polynomial fit over runs. numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

Kind = Literal["t", "normal"]
LEVEL = 0.95
DEGREE = 10
"""Of the thesis's fit."""
NAMES = {"t": "Student's t", "normal": "normal"}


@dataclass(frozen=True)
class Summary:
    """Mean and confidence limits over repetitions; limits are NaN where there are fewer than two."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    """Repetitions that have a value there."""


def summarise(values: np.ndarray, kind: Kind = "t", level: float = LEVEL) -> Summary:
    """Over the first axis of `values` (n, …): x̄ ± q·s/√n, s the sample's standard deviation (n − 1).

    q is the quantile of Student's t with n − 1 degrees of freedom, or ("normal", as in the thesis) of the normal
    distribution. NaN is a missing value.
    """
    values = np.asarray(values, float)
    present = ~np.isnan(values)
    n = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, values, 0.0).sum(axis=0) / n
        squares = (np.where(present, values - mean, 0.0) ** 2).sum(axis=0)
        half = _factors(n, kind, level) * np.sqrt(squares / (n - 1) / n)
    half = np.where(n > 1, half, np.nan)
    return Summary(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Difference:
    """Mean of one sample less the mean of another, with its confidence limits."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Do the limits exclude no difference?"""
        return self.low > 0 or self.high < 0


def difference(one: Sequence[float], other: Sequence[float], kind: Kind = "t", level: float = LEVEL) -> Difference:
    """Of two independent samples of unequal variance (Welch; its degrees of freedom with "t").

    The limits are NaN where a sample has fewer than two values.
    """
    a, b = (np.asarray(sample, float) for sample in (one, other))
    mean = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Difference(mean, math.nan, math.nan)
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if u + v == 0:
        return Difference(mean, mean, mean)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    half = (normal_quantile(level) if kind == "normal" else t_quantile(level, float(freedom))) * math.sqrt(u + v)
    return Difference(mean, mean - half, mean + half)


def normal_quantile(level: float = LEVEL) -> float:
    """q such that a standard normal number lies within ± q with probability `level`."""
    return NormalDist().inv_cdf((1 + level) / 2)


@cache
def t_quantile(level: float, freedom: float) -> float:
    """q such that Student's t of `freedom` degrees of freedom (any number from 1) lies within ± q.

    With t = √ν tan φ the density becomes cos^(ν−1) φ, up to B(½, ν/2), and smooth enough for Gauss's quadrature.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"degrees of freedom from 1 and a level between 0 and 1, not {freedom} and {level}")
    log_whole = math.lgamma(0.5) + math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
    nodes, weights = np.polynomial.legendre.leggauss(80)

    def probability(angle: float) -> float:
        values = (freedom - 1) * np.log(np.cos(angle * (nodes + 1) / 2)) - log_whole
        return angle * float(weights @ np.exp(values))

    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if probability(middle) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(middle)


def degree_for(points: int, degree: int = DEGREE) -> int:
    """The degree that so many points bear: two points a degree, so that the fit smooths and does not swing."""
    return min(degree, points // 2)


def fit(x: np.ndarray, y: np.ndarray, degree: int = DEGREE) -> Polynomial | None:
    """The least-squares polynomial through the finite points, its domain scaled; of a lower degree where there are few
    points (`degree_for`), None where there are fewer than two."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    different = len(np.unique(x[good]))
    return Polynomial.fit(x[good], y[good], degree_for(different, degree)) if different > 1 else None


def _factors(n: np.ndarray, kind: Kind, level: float) -> np.ndarray:
    if kind == "normal":
        return np.full(np.shape(n), normal_quantile(level))
    table = {count: t_quantile(level, count - 1) if count > 1 else math.nan for count in map(int, np.unique(n))}
    return np.vectorize(table.__getitem__, otypes=[float])(n)
