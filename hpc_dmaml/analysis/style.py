"""How all pictures look: sizes, colours, words. One setting has one colour and one name, in every figure.

    with style.used():
        figure, axes = style.subplots(1, 2)          # one row of a two-column page
        axes[0, 0].plot(x, y, label=style.words("workers", 4), **style.line("workers", 4, [1, 4, 16]))
        style.save(figure, Path("picture.pdf"))      # PNG, SVG or PDF by suffix

Colours are those of Okabe & Ito, and viridis where settings are numbers, so that the colour-blind can read them; families
of ordered settings go from light to dark, and line styles repeat what colours say, for print without colour.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from hpc_dmaml.analysis.command import printable

LONGEST = 60
"""Characters of a value in words; a longer one is cut."""
FORMATS = (".pdf", ".png", ".svg")
COLUMN_IN, PAGE_IN = 3.5, 7.2
"""Widths of a column and of a page of two columns, in inches."""
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
MANY = 5
"""More curves than these get the width of a page, their legend beside them, and fainter bands."""
ROWS = 13
"""Entries in a column of a legend beside the axes."""
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#6B6B6B"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 1, 1, 1, 1, 1)))
DARK_PAPER, DARK_INK, DARK_RULE = "#14161a", "#e8e9eb", "#363b43"
"""Of pictures for dark pages: what they are seen on, their texts, their grids."""
CONTRAST = 5.0
"""Of a line to the page, at least (by WCAG, which asks 3 of lines and 4.5 of texts)."""
FIXED = {
    "baseline": BLACK, "workers": BLUE, "epochs": VERMILION, "tasks": GREEN,  # the ways to scale
    "work": BLUE, "exchange": ORANGE, "wait": GREY, "validation": GREEN, "rest": "#C8C8C8",  # the parts of a run
    "ArithmeticMean": BLACK, "LossMedian": BLUE, "LossWeighted": VERMILION, "LossMovingAverage": GREEN,
    "GradientNorm": PURPLE, "GeometricMedian": ORANGE,
    "sum": BLUE, "mean": VERMILION,
}  # fmt: skip
FIELDS = {
    "optimizer.lr": "β", "algorithm.inner_lr": "α", "local_lr": "local β", "algorithm.inner_steps": "inner steps",
    "weight_generator": "weights", "task_reduction": "reduction over tasks", "algorithm.first_order": "first order",
    "task.ways": "ways", "task.shots": "shots", "task.queries": "queries", "validation.steps": "validation steps",
}  # fmt: skip
"""Short words for fields of the configuration; others are named as they are."""
VALUES = {
    "ArithmeticMean": "arithmetic mean", "LossMedian": "loss median", "LossWeighted": "loss weighted",
    "LossMovingAverage": "loss, moving average", "GradientNorm": "gradient norm",
    "GeometricMedian": "geometric median", "sum": "gradient sum", "mean": "arithmetic mean",
}  # fmt: skip
COUNTED = {"workers", "epochs", "tasks", "ranks", "algorithm.inner_steps"}
"""Fields that read better behind their number."""
SETTINGS: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "figure.titlesize": 9,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#E3E3E3", "grid.linewidth": 0.5, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "lines.linewidth": 1.3, "lines.markersize": 3.5, "legend.framealpha": 0.8, "legend.edgecolor": "none",
    "legend.handlelength": 2.2, "figure.constrained_layout.use": True, "figure.facecolor": "white", "savefig.dpi": 300,
    "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "hpc_dmaml",
    "text.parse_math": False,  # a $ in a name is a $
}  # fmt: skip


@contextmanager
def used() -> Iterator[None]:
    """Pictures made within look like this."""
    with matplotlib.rc_context(SETTINGS):
        yield


def subplots(
    rows: int = 1, columns: int = 1, height: float = 2.4, wide: bool = False, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure as wide as a column or, with several panels or `wide`, a page; axes (rows, columns). `height` of a row in
    inches."""
    width = PAGE_IN if wide or columns > 1 else COLUMN_IN
    figure = Figure(figsize=(width, height * rows))  # without pyplot: nothing global, and no display
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def colour(value: Any, values: Sequence[Any]) -> str:
    """The colour of one of an axis's `values`, in hexadecimal. All values of the axis, also those that are not drawn."""
    ratio = scaled(value)
    if ratio and ratio[0] in FIXED:
        same = _ratios(ratio[0], values)
        return _shade(FIXED[ratio[0]], same.index(ratio[1]), len(same))
    if str(value) in FIXED:
        return FIXED[str(value)]
    place = list(values).index(value)
    if is_ordered(values):
        return to_hex(matplotlib.colormaps["viridis"](0.85 * place / max(1, len(values) - 1)))
    return COLOURS[place % len(COLOURS)]


def line(value: Any, values: Sequence[Any]) -> dict[str, Any]:
    """Colour and line style of one of an axis's values, as options of `Axes.plot`."""
    ratio = scaled(value)
    place = 1 + _ratios(ratio[0], values).index(ratio[1]) if ratio else list(values).index(value)
    return {"color": colour(value, values), "linestyle": DASHES[place % len(DASHES)]}


def scaled(label: Any) -> tuple[str, float] | None:
    """What a label such as "workers 2x" scales, and how many times; None for another label."""
    found = re.fullmatch(r"(\w+) (\d+(?:\.\d+)?)x", str(label))
    return (found[1], float(found[2])) if found else None


def steps(count: int) -> list[str]:
    """Colours of so many adaptation steps, the first before adaptation."""
    return [to_hex(c) for c in matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count))]


def is_ordered(values: Sequence[Any]) -> bool:
    """Are all of them numbers?"""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def words(name: str, value: Any) -> str:
    """A setting in words: "4 workers", "β 0.01", "loss median", "workers 2×"."""
    return printable(_words(name, value), LONGEST)


def _words(name: str, value: Any) -> str:
    if isinstance(value, str):
        if ratio := scaled(value):
            return f"{ratio[0]} {ratio[1]:g}×"
        return VALUES.get(value, value.rpartition(".")[2] if "." in value else value)
    if isinstance(value, bool) or value is None:
        return f"{FIELDS.get(name, name)}: {'none' if value is None else 'yes' if value else 'no'}"
    shown = f"{value:g}" if isinstance(value, int | float) else str(value)
    if name in COUNTED:
        field = FIELDS.get(name, name)
        return f"{shown} {field.removesuffix('s') if value == 1 else field}"
    return f"{FIELDS.get(name, name)} {shown}"


def title(figure: Figure, text: str) -> None:
    """Above the figure, in as many lines as it takes."""
    figure.suptitle("\n".join(textwrap.wrap(printable(text, 5 * LONGEST), int(figure.get_figwidth() * 14))))


def caption(figure: Figure, text: str) -> None:
    """A small line or two below the figure: how it was made, and what to mind."""
    lines = textwrap.wrap(printable(text), int(figure.get_figwidth() * 25))
    figure.supxlabel("\n".join(lines), fontsize=5.5, color=GREY, x=0.01, ha="left")


def legend(axis: Axes, entries: int) -> None:
    """Outside the axes, where it hides no curve: below them or, of many entries, beside them."""
    if entries > MANY:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), labelspacing=0.3, ncols=-(-entries // ROWS))
    elif entries > 1:
        legend_below(axis, columns=2)


def legend_below(axis: Axes, columns: int = 1) -> None:
    """Under the name of the x axis, however high the axes are."""
    figure = axis.figure
    under = axis.transAxes + ScaledTranslation(0, -0.36, figure.dpi_scale_trans)
    axis.legend(loc="upper center", bbox_to_anchor=(0.47, 0), bbox_transform=under, ncols=columns, labelspacing=0.3)


def plot(axis: Axes, x: np.ndarray, y: np.ndarray, **line: Any) -> None:
    """A line with gaps where there are NaN; a point between two gaps, of which a line shows nothing, is a dot."""
    there = np.pad(np.isfinite(np.asarray(y, float)) & np.isfinite(np.asarray(x, float)), 1)
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    dots: dict[str, Any] = {"marker": ".", "markevery": np.flatnonzero(alone).tolist()} if alone.any() else {}
    axis.plot(x, y, **dots, **line)


class LogNumbers(LogFormatter):
    """On a logarithmic axis: plain numbers, where there is room for them."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def log(axis: Axes, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis."""
    axis.set(**{f"{which}scale": "log"})
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_formatter(LogNumbers())
    target.set_minor_formatter(LogNumbers())


def percent(axis: Axes, which: str = "y") -> None:
    """An axis of shares between 0 and 1, in percent."""
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_formatter(PercentFormatter(1.0, decimals=0))


def on_dark(colour: Any) -> str:
    """The colour on a dark page: mixed with as much white as makes it stand out; black is the colour of the text."""
    own = np.array(to_rgb(colour))
    if own.max() < 0.1:
        return DARK_INK
    lighter = (own + share * (1 - own) for share in np.linspace(0, 1, 41))
    return to_hex(next(each for each in lighter if contrast(each, DARK_PAPER) >= CONTRAST))


def contrast(one: Any, other: Any) -> float:
    """Of two colours, 1 to 21, as WCAG 2 defines it."""
    channels = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def darken(figure: Figure) -> None:
    """Recolour a figure for a dark page. Images of numbers keep their colours, which the bar beside them explains."""
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(on_dark(artist.get_color()))
        elif isinstance(artist, Line2D):
            fill, edge = artist.get_markerfacecolor(), artist.get_markeredgecolor()
            artist.set_color(on_dark(artist.get_color()))
            artist.set_markerfacecolor("none" if str(fill) == "none" else on_dark(fill))
            artist.set_markeredgecolor("none" if str(edge) == "none" else on_dark(edge))
        elif isinstance(artist, Patch):
            artist.set(facecolor=on_dark(artist.get_facecolor()), edgecolor=on_dark(artist.get_edgecolor()))
        elif isinstance(artist, Collection) and artist.get_array() is None:
            artist.set_facecolor([on_dark(each) for each in artist.get_facecolor()])
            artist.set_edgecolor([on_dark(each) for each in artist.get_edgecolor()])
        elif isinstance(artist, Legend):
            artist.set_frame_on(False)
    for axis in figure.axes:
        axis.tick_params(which="both", colors=DARK_INK, grid_color=DARK_RULE)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, the same bytes for the same figure. Raises ValueError for a suffix other than `FORMATS`."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--output must end in {', '.join(FORMATS)}, not {path.suffix!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    figure.savefig(path, metadata=dates.get(path.suffix.lower()))


def _ratios(family: str, values: Sequence[Any]) -> list[float]:
    return sorted({ratio[1] for value in values if (ratio := scaled(value)) and ratio[0] == family})


def _shade(base: str, place: int, count: int) -> str:
    """The place-th of `count` shades of a colour, from light to the colour itself and a little darker."""
    share = (place + 1) / count
    mix = np.array(to_rgb(base)) * share**0.8 + np.ones(3) * (1 - share**0.8) * 0.85
    return to_hex(np.clip(mix * (1 - 0.15 * max(0.0, share - 0.75) / 0.25), 0, 1))
