"""Pieces of a page of HTML: tables, pictures, lists, numbers as they are read. Texts are escaped where they are put in."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpc_dmaml.analysis import plots, style
from hpc_dmaml.analysis.command import printable

HEAVY = 400_000
"""A vector picture of more bytes than these is embedded as pixels."""
LONGEST = 500
"""Characters of a text; a longer one is cut."""


def escape(text: str) -> str:
    """A text as HTML."""
    return html.escape(printable(text, LONGEST))


def grid(pictures: Iterable[tuple[str, Callable[[], plots.Picture]]]) -> str:
    return f'<div class="pictures">{"".join(_figure(name, draw) for name, draw in pictures)}</div>'


def _figure(name: str, draw: Callable[[], plots.Picture]) -> str:
    """A picture under its name; where it cannot be drawn, why."""
    try:
        picture = draw()
        picture.figure.suptitle("")  # the page's own heading stands above
        light = _embedded(picture)
        style.darken(picture.figure)
        dark = _embedded(picture)
    except ValueError as error:
        return f"<figure><figcaption><b>{escape(name)}</b>: {escape(str(error))}.</figcaption></figure>"
    kind = ' class="wide"' if picture.figure.get_figwidth() > style.COLUMN_IN else ""
    return (
        f"<figure{kind}><figcaption><b>{escape(name)}</b></figcaption>"
        f'<div class="scroll"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(name)}"></picture></div></figure>'
    )


def _embedded(picture: plots.Picture) -> str:
    """A picture as a data URL, transparent: vectors, or, of very many points, pixels."""
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    kind = "svg+xml"
    if buffer.tell() > HEAVY:
        buffer, kind = io.BytesIO(), "png"
        picture.figure.savefig(buffer, format="png", transparent=True, dpi=250)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def table(head: Sequence[str], lines: Sequence[str], caption: str, texts: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    cells = "".join(
        f'<th scope="col"{" class=text" if n in texts else ""}>{escape(name)}</th>' for n, name in enumerate(head)
    )
    told = f'<p class="note">{escape(caption)}</p>' if caption else ""  # outside, so that it does not scroll
    body = f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{body}</div>{told}'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<dl>{items}</dl>"


def whisker(low: float, mean: float, high: float, least: float, most: float, colour: str) -> str:
    """Mean and interval as a picture in a line of text, on a scale from `least` to `most`."""
    if not least <= mean <= most:  # NaN, too
        return ""
    spread = most - least or 1.0

    def place(value: float) -> str:
        return f"{min(100.0, max(0.0, 4 + 92 * (value - least) / spread)):.1f}%"

    line = ""
    if low == low and high == high:
        line = f'<line x1="{place(low)}" x2="{place(high)}" y1="50%" y2="50%" stroke="currentColor" stroke-width="2"/>'
    dot = f'<circle cx="{place(mean)}" cy="50%" r="4" fill="currentColor"/>'
    return f'<svg class="whisker" style="{colours(colour)}" aria-hidden="true">{line}{dot}</svg>'


def colours(colour: str) -> str:
    """A colour in light and in dark mode, as the style of an element."""
    return f"--light:{colour};--dark:{style.on_dark(colour)}"


def number(row: Any, is_share: bool) -> str:
    """Mean ± half the interval; shares in percent."""
    factor, digits = (100, 1) if is_share else (1, 3)
    return with_half(factor * float(row["mean"]), factor * float(row["half"]), digits)


def with_half(mean: float, half: float, digits: int) -> str:
    kind = f".{digits}f" if abs(mean) < 1e6 else ".3g"
    return "–" if mean != mean else f"{mean:{kind}}" + (f" ± {half:{kind}}" if half == half else "")


def value(content: Any) -> str:
    if isinstance(content, tuple):
        return ", ".join(map(value, content)) or "none"
    return "–" if content is None else f"{content:g}" if isinstance(content, float) else str(content)


def count(how_many: int, what: str) -> str:
    return f"{how_many:,} {what}{'s' * (how_many != 1)}"


def short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            return f"{count / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{count:,}"


def duration(seconds: float) -> str:
    if seconds != seconds:
        return "–"
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
