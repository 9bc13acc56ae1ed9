"""Every command starts and ends alike: safe streams, a user's paths, one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas")
from hpc_dmaml.analysis.command import command
from hpc_dmaml.analysis.words import printable
from hpc_dmaml.files import locked
from tests.analysis.synthetic import write_job
from tests.helpers import small_config

ANALYSIS = Path(__file__).parents[2] / "analysis"
ARGUMENTS = {
    "curves": ["~/{job}"], "figures": ["curves", "~/{job}"], "merge": ["$HERE/{job}", "--output", "~/all.h5"],
    "report": ["~/{job}"], "scaling_model": ["$HERE/{job}"], "tables": ["final", "~/{job}"],
    "watch": ["${{HERE}}/{job}", "--once"],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the file of a job whose name not every terminal can write."""
    folder = tmp_path_factory.mktemp("home")
    write_job(folder / "β→ж.h5", small_config(runs=30, workers=2), 2)
    return folder


def start(home, name, arguments, **options):
    """The command as a process in an ASCII locale, where ~ and $HERE are `home`."""
    environment = {**os.environ, "HOME": str(home), "HERE": str(home), "PYTHONIOENCODING": "ascii"}
    words = [word.format(job="β→ж.h5") for word in arguments]
    script = str(ANALYSIS / f"{name}.py")
    return subprocess.run([sys.executable, script, *words], env=environment, check=False, **options)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_paths_are_as_a_shell_has_them_and_any_terminal_will_do(home, name):
    done = start(home, name, ARGUMENTS[name], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", ["curves", "report", "tables", "watch"])
def test_nobody_needs_to_listen(home, name):
    gone = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    gone.wait()
    done = start(home, name, ARGUMENTS[name], stdout=gone.stdin, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert b"Error" not in done.stderr
    words = [word.format(job="β→ж.h5") for word in ARGUMENTS[name]]
    shell = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, str(ANALYSIS / f"{name}.py"), *words]
    environment = {**os.environ, "HOME": str(home), "HERE": str(home)}
    assert subprocess.run(shell, env=environment, check=False).returncode == 0


def test_an_unknown_variable_and_an_error_are_one_message(home):
    done = start(home, "tables", ["final", "$NOWHERE_TO_BE_FOUND/x.h5"], capture_output=True)
    assert done.returncode == 2
    assert b"there is no environment variable NOWHERE_TO_BE_FOUND" in done.stderr
    done = start(home, "tables", ["final", "~/none.h5"], capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"tables: there is no file or folder")


def test_ctrl_c_is_130_and_a_full_disk_is_a_message(capsys):
    def main(arguments=None):
        raise {"c": KeyboardInterrupt(), "disk": OSError(28, "No space\x1b[2J left")}[arguments]

    run = command("name")(main)
    assert run("c") == 130
    assert run("disk") == 2
    assert capsys.readouterr().err == "\nname: [Errno 28] No space?[2J left\n"


def test_what_is_shown_is_one_line_that_says_nothing_to_a_terminal_and_can_be_encoded():
    assert printable("a\nb\tc\x1b\udc80λ") == "a b c??λ"
    assert printable("x" * 20, 10) == "x" * 9 + "…"


def test_a_command_that_is_run_as_a_module_can_be_stopped(home):
    path = home / "running.h5"
    write_job(path, small_config(runs=30, workers=2), 2, status="running", runs=5)
    with locked(path):
        command = [sys.executable, "-m", "hpc_dmaml.analysis.watch", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.send_signal(signal.SIGTERM)  # SIGINT is ignored in what a script starts in the background
            process.communicate(timeout=60)
    path.unlink()
    assert process.returncode == -signal.SIGTERM
