"""Standard streams whose errors (locale, closed terminal, full disk) never end a program."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

PLAIN = {"→": "->", "≤": "<=", "≥": ">=", "−": "-", "·": "*", "×": "x", "±": "+-", "…": "...", "—": "-", "–": "-",
         "α": "alpha", "β": "beta", "θ": "theta", "λ": "lambda", "σ": "sigma", "Σ": "sum", "∝": "~"}  # fmt: skip
"""Replacements for characters that a terminal's encoding lacks; all others are written as escapes."""


def settle() -> None:
    """Make the standard streams safe to write to. Every command calls this once, before anything else."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file to be opened would get this number, and the messages
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  (open to the end)
        setattr(sys, name, _Unfailing(stream))


class _Unfailing(io.TextIOWrapper):
    """A stream that ignores errors in writing: without a reader, output must neither end the program nor change its
    exit code."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            stream.encoding,
            "plain",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._stream = stream  # kept, as it closes the file when it is deleted

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()

    def close(self) -> None:
        """Only flush, also on deletion: the underlying stream belongs to others."""
        self.flush()


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
