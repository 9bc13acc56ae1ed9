"""Output never ends a program, nor changes its exit code."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_dmaml import console
from tests.processes import ROOT, SMALL

NO_UTF8 = {"LC_ALL": "POSIX", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SPEAKING = "from hpc_dmaml import console\nconsole.settle()\nimport sys\n"


def shell(line: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell, in which "$@" stands for Python and arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_encoding_lacks_is_written_in_plain_words_or_as_its_escape(encoding):
    text = "0.1 → 0.2 ± 0.1 für 日 \udcff"
    done = shell(
        '"$@"', "-c", f"{SPEAKING}print({text!r}); print({text!r}, file=sys.stderr)", PYTHONIOENCODING=encoding
    )
    expected = {
        "ascii": r"0.1 -> 0.2 +- 0.1 f\xfcr \u65e5 \udcff",
        "latin-1": r"0.1 -> 0.2 ± 0.1 für \u65e5 \udcff",
        "utf-8": r"0.1 → 0.2 ± 0.1 für 日 \udcff",
    }
    assert done.stdout.decode(encoding) == done.stderr.decode(encoding) == expected[encoding] + "\n"


@pytest.mark.parametrize(
    "where", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&- <&-", "| true"]
)
@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_streams_that_cannot_be_written_change_nothing(where, flags):
    code = f"{SPEAKING}print('x' * 100_000, flush=True)\nprint('y', file=sys.stderr)\nprint('z')\nsys.exit(7)"
    done = shell(f'"$@" {where}; exit ${{PIPESTATUS[0]}}', *flags, "-c", code)
    assert done.returncode == 7
    assert b"Error" not in done.stderr


def test_a_file_that_is_opened_next_does_not_get_the_place_of_a_closed_stream(tmp_path):
    code = f"{SPEAKING}file = open({str(tmp_path / 'x')!r}, 'w')\nprint('a message')\nassert file.fileno() > 2"
    assert shell('"$@" >&- <&- 2>&-', "-c", code).returncode == 0
    assert (tmp_path / "x").read_text() == ""


def test_a_job_runs_in_a_locale_without_utf8_in_a_folder_with_a_name_of_any_bytes(tmp_path):
    folder = os.fsencode(tmp_path) + b"/gr\xfcn"
    job = [*SMALL, "--runs", "3", "--validation.every", "1", "--output", os.fsdecode(folder + b"/x.h5")]
    done = shell('"$@"', "-m", "hpc_dmaml", *job, **NO_UTF8)
    assert done.returncode == 0, done.stderr
    assert b" -> " in done.stdout
    tested = shell('"$@"', "-m", "hpc_dmaml.evaluate", os.fsdecode(folder + b"/x.h5"), "--tasks", "4", **NO_UTF8)
    assert tested.returncode == 0, tested.stderr
    assert b" +- " in tested.stdout
    assert [p.name for p in Path(os.fsdecode(folder)).iterdir()] == ["x.h5"]


@pytest.mark.parametrize("arguments", [["hpc_dmaml", "--help"], ["hpc_dmaml", "--print_config"]])
@pytest.mark.parametrize("where", ["", "| head -1", ">/dev/full"])
def test_what_is_asked_for_can_be_printed_anywhere(arguments, where):
    done = shell(f'"$@" {where}; exit ${{PIPESTATUS[0]}}', "-m", *arguments, **NO_UTF8)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_streams_beneath_stay_open_when_the_safe_ones_are_gone(capfd, monkeypatch):
    """As where a command is called by another program, such as a test."""
    beneath = sys.stdout
    monkeypatch.setattr(sys, "stdout", beneath)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    console.settle()
    print("one", flush=True)
    monkeypatch.undo()
    gc.collect()
    assert sys.stdout is beneath
    print("two", flush=True)
    assert capfd.readouterr().out == "one\ntwo\n"
