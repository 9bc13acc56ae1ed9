"""Standard streams that never end a program, whatever the locale, a closed terminal or a full disk make of them."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

PLAIN = {"→": "->", "≤": "<=", "≥": ">=", "−": "-", "·": "*", "×": "x", "±": "+-", "…": "...", "—": "-", "–": "-",
         "α": "alpha", "β": "beta", "θ": "theta", "λ": "lambda", "σ": "sigma", "Σ": "sum", "∝": "~"}  # fmt: skip
"""What stands for a character that a terminal's encoding lacks; any other is written as its escape."""


def settle() -> None:
    """Make the standard streams safe to write to. Called once, first of all, by every command."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file that is opened would get this number, and the messages
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  (open to the end)
        setattr(sys, name, _Unfailing(stream))


class _Unfailing(io.TextIOWrapper):
    """A stream that takes what it cannot write for written: nobody is there to read it, and it must not end the program,
    nor change its exit code."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            stream.encoding,
            "plain",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._stream = stream  # which would close the file, were it gone

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()

    def close(self) -> None:
        """Also at the end of its life: the stream beneath is another's."""
        self.flush()


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
