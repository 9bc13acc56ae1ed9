"""The style of all pictures: sizes, colours, axes. A setting has the same colour in every figure.

    with style.used():
        figure, axes = style.subplots(1, 2)          # one row of a two-column page
        style.plot(axes[0, 0], x, y, "workers 4×", **style.line("workers 4x", ["baseline", "workers 4x"]))
        style.save(figure, Path("picture.pdf"))      # PNG, SVG or PDF by suffix

Colours are those of Okabe & Ito, and viridis where settings are numbers, so that colour-blind people can read them;
families of ordered settings go from light to dark. Line styles also distinguish settings, for print without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation

if TYPE_CHECKING:
    import pandas as pd

from hpc_dmaml.analysis import command
from hpc_dmaml.analysis.words import LONGEST, printable, scaled

FORMATS = (".pdf", ".png", ".svg")
COLUMN_IN, PAGE_IN = 3.5, 7.2
"""Widths of a column and of a page of two columns, in inches."""
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
MANY = 5
"""Figures with more curves than this are as wide as a page, with the legend beside the axes and fainter bands."""
ROWS = 13
"""Entries in a column of a legend beside the axes."""
BESIDE = 40
"""Most characters on a line of a legend beside the axes."""
LONG = 22
"""Figures with longer names (in characters) beside the axes are as wide as a page."""
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#6B6B6B"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 1, 1, 1, 1, 1)))
DARK_PAPER, DARK_INK, DARK_RULE = "#14161a", "#e8e9eb", "#363b43"
"""Colours of pictures for dark pages: of the page, of texts, of grids."""
CONTRAST = 5.0
"""Least contrast between a line and the page (WCAG asks 3 for lines and 4.5 for text)."""
FIXED = {
    "baseline": BLACK, "workers": BLUE, "epochs": VERMILION, "tasks": GREEN,  # the ways to scale
    "data": SKY, "gradient": BLUE, "exchange": ORANGE, "wait": GREY, "validation": GREEN, "rest": "#C8C8C8",  # the parts of a run
    "ArithmeticMean": BLACK, "LossMedian": BLUE, "LossWeighted": VERMILION, "LossMovingAverage": GREEN,
    "GradientNorm": PURPLE, "GeometricMedian": ORANGE,
    "sum": BLUE, "mean": VERMILION,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    figure: Figure
    numbers: pd.DataFrame
    """The numbers drawn, and their intervals."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not as one would expect."""


def used() -> AbstractContextManager[None]:
    """A context in which pictures have this style."""
    return matplotlib.style.context(Path(__file__).with_name("house.mplstyle"))


def subplots(
    rows: int = 1, columns: int = 1, height: float = 2.4, wide: bool = False, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure as wide as a column or, with several panels or `wide`, a page; axes (rows, columns). `height` of a row in
    inches."""
    width = PAGE_IN if wide or columns > 1 else COLUMN_IN
    figure = Figure(figsize=(width, height * rows))  # without pyplot: nothing global, and no display
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def named_rows(names: Sequence[str], height: float) -> tuple[Figure, Axes]:
    """A figure with a row for each name, as wide as a page if one is long. `height`: inches besides the rows."""
    figure, ((axis,),) = subplots(height=height + 0.2 * len(names), wide=max(map(len, names)) > LONG)
    axis.set_yticks(range(len(names)), names)
    return figure, axis


def colour(value: Any, values: Sequence[Any]) -> str:
    """The colour of one of an axis's `values`, in hexadecimal; they include those that are not drawn."""
    ratio = scaled(value)
    if ratio and ratio[0] in FIXED:
        same = _ratios(ratio[0], values)
        return _shade(FIXED[ratio[0]], same.index(ratio[1]), len(same))
    if str(value) in FIXED:
        return FIXED[str(value)]
    place = list(values).index(value)
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return to_hex(matplotlib.colormaps["viridis"](0.85 * place / max(1, len(values) - 1)))
    taken = {FIXED[str(each)] for each in values if str(each) in FIXED}
    free = [each for each in COLOURS if each not in taken] or COLOURS
    others = [each for each in values if str(each) not in FIXED]
    return free[others.index(value) % len(free)]


def line(value: Any, values: Sequence[Any]) -> dict[str, Any]:
    """Colour and line style of one of an axis's values, as options of `Axes.plot`."""
    ratio = scaled(value)
    place = 1 + _ratios(ratio[0], values).index(ratio[1]) if ratio else list(values).index(value)
    return {"color": colour(value, values), "linestyle": DASHES[place % len(DASHES)]}


def steps(count: int) -> list[str]:
    """Colours of `count` adaptation steps, the first before adaptation."""
    return [to_hex(c) for c in matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count))]


def title(figure: Figure, text: str) -> None:
    """Write a title above the figure, in as many lines as it takes."""
    figure.suptitle("\n".join(textwrap.wrap(printable(text, 5 * LONGEST), int(figure.get_figwidth() * 14))))


def caption(figure: Figure, text: str) -> None:
    """Write a small text below the figure: how it was made, and caveats."""
    lines = textwrap.wrap(printable(text), int(figure.get_figwidth() * 25))
    figure.supxlabel("\n".join(lines), fontsize=5.5, color=GREY, x=0.01, ha="left")


def legend(axis: Axes, entries: int) -> None:
    """Put the legend outside the axes, where it hides no curve: below them or, for many entries, beside them."""
    if entries > MANY:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02)}
        axis.legend(*_wrapped(axis, BESIDE), **place, labelspacing=0.3, ncols=-(-entries // ROWS))
    elif entries > 1:
        legend_below(axis, columns=2)


def legend_below(axis: Axes, columns: int = 1) -> None:
    """Put the legend under the label of the x axis, for axes of any height; in one column where labels are long."""
    figure = axis.figure
    across = int(figure.bbox.width / figure.dpi * 15)  # characters
    longest = max(map(len, axis.get_legend_handles_labels()[1]), default=0)
    columns = columns if longest <= across // columns else 1
    under = axis.transAxes + ScaledTranslation(0, -0.36, figure.dpi_scale_trans)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.47, 0), "bbox_transform": under}
    axis.legend(*_wrapped(axis, across), **place, ncols=columns, labelspacing=0.3)


def _wrapped(axis: Axes, width: int) -> tuple[list[Any], list[str]]:
    """The handles and labels of a legend, of at most `width` characters a line: wider legends leave axes no room."""
    handles, labels = axis.get_legend_handles_labels()
    return handles, [textwrap.fill(label, width) for label in labels]


def entry(label: str) -> str:
    """A label as an entry of a legend: matplotlib would hide one that begins with "_"."""
    return f" {label}" if label.startswith("_") else label


def plot(axis: Axes, x: np.ndarray, y: np.ndarray, label: str, **line: Any) -> None:
    """Draw a line with gaps at NaN; a point between two gaps, which a line would not show, is a dot."""
    there = np.pad(np.isfinite(np.asarray(y, float)) & np.isfinite(np.asarray(x, float)), 1)
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    dots: dict[str, Any] = {"marker": ".", "markevery": np.flatnonzero(alone).tolist()} if alone.any() else {}
    axis.plot(x, y, label=entry(label), **dots, **line)


class LogNumbers(LogFormatter):
    """Labels of a logarithmic axis: plain numbers, where there is room for them."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def log(axis: Axes, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic."""
    axis.set(**{f"{which}scale": "log"})
    target = getattr(axis, f"{which}axis")
    target.set_major_formatter(LogNumbers())
    target.set_minor_formatter(LogNumbers())


def doubling(axis: Axes, ticks: Sequence[float], which: Literal["x", "y"] = "x") -> None:
    """Make an axis logarithmic, with only these ticks."""
    set_scale, set_ticks = getattr(axis, f"set_{which}scale"), getattr(axis, f"set_{which}ticks")
    set_scale("log", base=2)
    set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def percent(axis: Axes, which: str = "y") -> None:
    """Label an axis of shares between 0 and 1 in percent."""
    getattr(axis, f"{which}axis").set_major_formatter(PercentFormatter(1.0, decimals=0))


def on_dark(colour: Any) -> str:
    """The colour for a dark page: mixed with white until its contrast is `CONTRAST`; black becomes the text colour."""
    if to_rgba(colour)[3] == 0:
        return "none"
    own = np.array(to_rgb(colour))
    if own.max() < 0.1:
        return DARK_INK
    lighter = (own + share * (1 - own) for share in np.linspace(0, 1, 41))
    return to_hex(next(each for each in lighter if contrast(each, DARK_PAPER) >= CONTRAST))


def contrast(one: Any, other: Any) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    channels = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def darken(figure: Figure) -> None:
    """Recolour a figure for a dark page. Images of numbers keep their colours, which their colour bar explains."""
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(on_dark(artist.get_color()))
        elif isinstance(artist, Line2D):
            fill, edge = artist.get_markerfacecolor(), artist.get_markeredgecolor()
            artist.set_color(on_dark(artist.get_color()))
            artist.set(markerfacecolor=on_dark(fill), markeredgecolor=on_dark(edge))
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
    kind = path.suffix.lower()
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with command.writing(path) as file:
        figure.savefig(file, format=kind[1:], metadata=dates.get(kind))


def _ratios(family: str, values: Sequence[Any]) -> list[float]:
    return sorted({ratio[1] for value in values if (ratio := scaled(value)) and ratio[0] == family})


def _shade(base: str, place: int, count: int) -> str:
    """The place-th of `count` shades of a colour, from light to the colour itself and a little darker."""
    share = (place + 1) / count
    mix = np.array(to_rgb(base)) * share**0.8 + np.ones(3) * (1 - share**0.8) * 0.85
    return to_hex(np.clip(mix * (1 - 0.15 * max(0.0, share - 0.75) / 0.25), 0, 1))
