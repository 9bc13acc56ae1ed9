"""Start and end of the analysis commands: safe streams, expanded paths, errors as one message."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_dmaml import console, files, stopping
from hpc_dmaml.analysis.words import printable

Main = Callable[..., int]


def command(name: str) -> Callable[[Main], Main]:
    """Make a command of a main function, from arguments (None: the command line's) to exit code.

    Bad input, a ValueError or OSError, gives one message and 2; Ctrl-C gives 130. A reader that closes the pipe, as
    `| head` does, is no error: 0.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(arguments: list[str] | None = None) -> int:
            console.settle()
            stopping.release()
            try:
                code = main(arguments)
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
                return 0
            except (ValueError, OSError) as error:
                print(f"{name}: {printable(str(error))}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(file=sys.stderr)
                return 130
            return code

        return run

    return decorate


@contextmanager
def writing(output: Path) -> Iterator[Path]:
    """Write a temporary file that replaces `output` when the block succeeds. Raises ValueError, naming it, where it
    cannot be written; a file that was there is then unchanged."""
    with naming(output), files.replacing(output) as temporary:
        yield temporary


@contextmanager
def naming(output: Path) -> Iterator[None]:
    """Raise ValueError, naming `output`, where the block cannot write it; that another process does is said as it is."""
    try:
        yield
    except files.Busy:
        raise
    except OSError as error:
        raise ValueError(f"cannot write {output}: {error.strerror or error}") from error


def path(text: str) -> Path:
    """An expanded path, as the type of an argument."""
    try:
        return files.expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
