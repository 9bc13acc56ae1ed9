"""Format settings, metrics, numbers and times for people. Needs neither MPI nor torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hpc_dmaml.analysis import stats
from hpc_dmaml.losses.metric import Metric

LOSS = Metric("loss", higher_is_better=False)
"""The loss as a Metric."""
MOST_DECIMALS = 6
"""Numbers that would need more decimals are written with an exponent."""
LONGEST = 60
"""Most characters of a value in words; a longer one is cut."""
FIELDS = {
    "optimizer.lr": "β", "algorithm.inner_lr": "α", "local_lr": "local β", "algorithm.inner_steps": "inner steps",
    "weight_generator": "weights", "task_reduction": "reduction over tasks", "algorithm.first_order": "first order",
    "task.ways": "ways", "task.shots": "shots", "task.queries": "queries", "validation.steps": "validation steps",
}  # fmt: skip
"""Short names of fields of the configuration; others are shown as they are."""
VALUES = {
    "ArithmeticMean": "arithmetic mean", "LossMedian": "loss median", "LossWeighted": "loss weighted",
    "LossMovingAverage": "loss, moving average", "GradientNorm": "gradient norm",
    "GeometricMedian": "geometric median",
}  # fmt: skip
REDUCTIONS = {"sum": "gradient sum", "mean": "arithmetic mean"}
COUNTED = {"workers", "epochs", "tasks", "ranks", "algorithm.inner_steps"}
"""Fields that are named after their number, as in "4 workers"."""
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def printable(text: str, most: int | None = None) -> str:
    """A text from a file on one line, without what is not printable or cannot be encoded; at most `most` characters."""
    text = text if most is None or len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def some(names: Sequence[str], most: int = 6) -> str:
    """The names, or the first of them and how many more."""
    shown = ", ".join(printable(name, 500) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def setting(name: str, value: Any, in_full: bool = False) -> str:
    """A setting in words: "4 workers", "β 0.01", "loss median", "workers 2×". `in_full`: nothing is left out."""
    if in_full:
        return printable(f"{FIELDS.get(name, name)} {value}")
    text = _setting(name, value)
    if "/" in text and len(text) > LONGEST:  # a path: its end tells more
        text = f"…{text[1 - LONGEST :]}"
    return printable(text, LONGEST)


def _setting(name: str, value: Any) -> str:
    field = FIELDS.get(name, name)
    if isinstance(value, str):
        if ratio := scaled(value):
            return f"{ratio[0]} {ratio[1]:g}×"
        if name == "task_reduction" and value in REDUCTIONS:
            return REDUCTIONS[value]
        path = re.fullmatch(r"(?:\w+\.)+([A-Z]\w*)", value)  # of a class; the name of a file stays whole
        return VALUES.get(value, path[1] if path else value)
    if isinstance(value, bool) or value is None:
        return f"{field}: {'none' if value is None else 'yes' if value else 'no'}"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if name in COUNTED:
        return f"{shown} {field.removesuffix('s') if value == 1 else field}"
    return f"{field} {shown}"


def scaled(label: Any) -> tuple[str, float] | None:
    """What a label such as "workers 2x" scales, and how many times; None for another label."""
    found = re.fullmatch(r"(\w+) (\d+(?:\.\d+)?)x", str(label))
    return (found[1], float(found[2])) if found else None


def metric(quantity: Metric) -> str:
    """A label of an axis: "accuracy", "return", "distance (m)"; shares have no unit, as their numbers have a % sign."""
    return quantity.name if quantity.is_share or not quantity.suffix else f"{quantity.name} ({quantity.suffix})"


def loss(text: str) -> str:
    """The loss of a result file in words: "squared error", or the name of its class."""
    kind = re.match(r"class_path: (?:\w+\.)*(\w+)", text)  # where it is no short name, a YAML document
    return printable(kind[1], LONGEST) if kind else setting("loss", text).replace("_", " ")


def after(step: int) -> str:
    return "before adaptation" if step == 0 else f"after {step} adaptation step{'s' * (step > 1)}"


def mean_and_half(row: Any, is_share: bool) -> str:
    """Mean ± half the interval, where there are seeds enough for one; shares in percent."""
    factor, digits = (100, 1) if is_share else (1, 3)
    return with_half(factor * float(row["mean"]), factor * float(row["half"]), digits)


def with_half(mean: float, half: float, digits: int) -> str:
    kind = _kind(mean, half, digits)
    return "–" if mean != mean else f"{mean:{kind}}" + (f" ± {half:{kind}}" if half == half else "")


def number(value: float, digits: int) -> str:
    """A number with so many decimals, or as many more as it needs for two significant digits."""
    return f"{value:{_kind(value, math.nan, digits)}}"


def curve(values: Iterable[float], metric: Metric | None) -> str:
    """A metric, or the loss, before adaptation and after each step: "accuracy 0.21 → 0.54 → 0.60"."""
    digits, share = (3, False) if metric is None else (2, metric.is_share)
    shown = (f"{value:.{digits}f}" if share else number(value, digits) for value in values)
    return f"{metric.name if metric else 'loss'} {' → '.join(shown)}"


def _kind(mean: float, half: float, digits: int) -> str:
    """A format in which neither a mean nor half its interval looks like 0."""
    size = abs(mean)
    if 0 < half < math.inf and half > size / 1000:
        digits = max(digits, -math.floor(math.log10(half)))
    if 0 < size < 1 and not size < half < math.inf:
        digits = max(digits, 1 - math.floor(math.log10(size)))
    return f".{digits}f" if size < 1e6 and digits <= MOST_DECIMALS else ".3g"


def few_seeds(counts: Iterable[int]) -> str:
    """A sentence if some of these numbers of seeds are too few for an interval, else nothing."""
    some_seeds = [n for n in counts if n]
    if not any(n < stats.FEWEST for n in some_seeds):
        return ""
    return f"{'One seed' if max(some_seeds) == 1 else f'Fewer than {stats.FEWEST} seeds'}: no interval."


def value(content: Any) -> str:
    if isinstance(content, tuple):
        return ", ".join(map(value, content)) or "none"
    return "–" if content is None else f"{content:g}" if isinstance(content, float) else str(content)


def count(how_many: int, what: str) -> str:
    return f"{how_many:,} {what}{'s' * (how_many != 1)}"


def short(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{number:,}"


def unit_of(seconds: float) -> tuple[float, str]:
    """A unit that suits this duration: its seconds, and its name."""
    return next((each for each in UNITS if seconds >= 2 * each[0]), (1.0, "s"))


def duration(seconds: float) -> str:
    """3.2 s, 47 min, 2.5 h, 3.1 d."""
    size, unit = unit_of(seconds)
    return f"{seconds / size:.3g} {unit}" if math.isfinite(seconds) else "–"


def clock(seconds: float) -> str:
    """A running time: 47 s, 3:05 min, 2:10 h or 3 d 4 h."""
    if not math.isfinite(seconds):
        return "? s"
    whole = round(seconds)
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h")):
        if whole < limit:
            return f"{whole} s" if size == 1 else f"{whole // size}:{whole % size * 60 // size:02} {unit}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
