"""Tables: their numbers, beside the thesis's, in the format that the suffix says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("pandas")
import pandas as pd

from hpc_dmaml import sweep
from hpc_dmaml.analysis import tables
from hpc_dmaml.config import Validation
from hpc_dmaml.results import read
from hpc_dmaml.tasks import Glyphs, Sinusoid
from tests.analysis.synthetic import write_job, write_sweep
from tests.helpers import small_config


def command(capsys, *arguments):
    """Exit code, lines of stdout, text of stderr."""
    code = tables.main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err


def test_durations_stand_beside_the_thesiss(scaling, tmp_path, capsys):
    code, shown, err = command(capsys, "6.4", scaling, "--output", tmp_path / "t.csv")
    assert (code, err) == (0, "")
    assert shown[0] == "| ratio | workers % | workers, thesis % | tasks % | tasks, thesis % |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown[2:5]]
    assert [[row[0], row[2], row[4]] for row in rows] == [
        ["1", "100", "100"],
        ["2", "97.67", "195.8"],
        ["4", "124.96", "376.96"],
    ]
    assert "Student's t" in shown[6]
    numbers = pd.read_csv(tmp_path / "t.csv").set_index(["scaled", "ratio"])
    assert numbers.loc[("tasks", 4), "thesis_percent"] == 376.96
    half = numbers["high_percent"] - numbers["relative_percent"]
    assert rows[2][3] == f"{numbers.loc[('tasks', 4), 'relative_percent']:.1f} ± {half[('tasks', 4)]:.1f}"


def test_what_is_not_complete_is_noted_and_hides_nothing(scaling, tmp_path, capsys):
    part = tmp_path / "scaling"
    shutil.copytree(scaling, part)
    (part / "scaling=baseline,seed=0.h5").unlink()
    code, shown, err = command(capsys, "final", part, "--output", tmp_path / "t.csv")
    assert code == 0
    assert err.startswith("note: ")
    assert "accuracy in % before adaptation" in shown[-2].lower()
    assert "± is half the 95% confidence interval" in shown[-2]
    assert not any(line in shown for line in err.splitlines())


def test_files_that_a_table_leaves_out_are_named(partial, tmp_path, capsys):
    shutil.copy(partial / "scaling=baseline,seed=0.h5", partial / "copy.h5")
    code, _, err = command(capsys, "final", partial, "--by", "workers,tasks", "--output", tmp_path / "t.csv")
    assert code == 0
    assert err == "note: 1 worker, 8 tasks: left out, as their seeds are there already: copy.h5\n"


def test_different_losses_in_a_table_are_noted(tmp_path, capsys):
    for name, task in (("a", Sinusoid()), ("b", Glyphs())):
        write_job(tmp_path / f"{name}.h5", small_config(task=task, workers=1))
    code, shown, err = command(capsys, "final", tmp_path, "--by", "task")
    assert code == 0
    assert all("different losses (cross entropy and squared error)" in text for text in (shown[-2], err))


def test_a_setting_of_fewer_adaptation_steps_than_another_has_empty_cells(tmp_path, capsys):
    for steps in (1, 2):
        write_job(
            tmp_path / f"{steps}.h5",
            small_config(runs=20, workers=1, validation=Validation(tasks=5, every=2, steps=steps)),
        )
    _, shown, _ = command(capsys, "final", tmp_path)
    few, many = ([cell.strip() for cell in line.split("|")[1:-1]] for line in shown[2:4])
    assert len(few) == len(many) == 6
    assert few[5] == "" != many[5]


def test_the_points_are_those_of_the_files(scaling, capsys, tmp_path):
    _, shown, _ = command(capsys, "6.2", scaling, "--output", tmp_path / "t.md")
    assert shown[2] == "| baseline | 1 | 1 | 8 | 8 | 1 | 40 | 0, 1, 2 |"
    assert shown[4] == "| workers 4× | 4 | 1 | 8 | 32 | 4 | 40 | 0, 1, 2 |"
    assert (tmp_path / "t.md").read_text().splitlines() == shown[:-1]


def test_final_values_are_means_over_the_last_validations_of_each_seed(scaling, tmp_path, capsys):
    output = tmp_path / "t.csv"
    assert command(capsys, "final", scaling, "--last", "0.2", "--output", output)[0] == 0
    files = [read(scaling / f"scaling=baseline,seed={seed}.h5")["validation/metric"] for seed in range(3)]
    ends = [values[-4:].mean(axis=(0, 2)) for values in files]  # the last 4 of 20
    numbers = pd.read_csv(output)
    rows = numbers[numbers["scaling"] == "baseline"]
    np.testing.assert_allclose(rows["mean"], np.mean(ends, axis=0))
    np.testing.assert_allclose(rows["high"] - rows["mean"], 4.302652729911275 * np.std(ends, axis=0, ddof=1) / 3**0.5)


def test_latex_is_a_tabular_without_signs_that_it_does_not_know(scaling, tmp_path, capsys):
    assert command(capsys, "final", scaling, "--output", tmp_path / "t.tex")[0] == 0
    text = (tmp_path / "t.tex").read_text()
    assert text.startswith(
        "% \\usepackage{booktabs, adjustbox}\n"
        "\\begin{adjustbox}{max width=\\linewidth, max totalheight=0.9\\textheight}\n"
        "\\begin{tabular}{lrrrrr}\n\\toprule\nsetting & runs & seeds & before \\% & step 1 \\% & step 2 \\% \\\\\n"
    )
    assert text.isascii()
    assert text.count("\\\\\n") == 6
    note = "and the seeds. $\\pm$ is half the 95\\% confidence interval (Student's t)."
    assert text.endswith(f"{note}}}\n")
    assert "\\end{adjustbox}\n\n\\smallskip\n{\\footnotesize Accuracy in \\% before adaptation" in text


def test_latex_shows_signs_that_it_would_take_for_commands():
    assert r"10\^{}-3 \$x\$ \{b\} \textbackslash{}c \~{}" in tables.latex([["a"], [r"10^-3 $x$ {b} \c ~"]], "")


def test_a_ratio_that_the_thesis_has_not_stands_beside_nothing_of_it(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(
        "set: {runs: 20, workers: 1, tasks: 8}\ngrid: {scaling: {baseline: {}, tasks 1.5x: {tasks: 12}}}\n"
    )
    found = sweep.load(tmp_path / "s.yaml", tmp_path / "results")
    write_sweep(found)
    code, shown, _ = command(capsys, "6.4", found.folder)
    assert code == 0
    assert [line.split("|")[-2].strip() for line in shown[2:4]] == ["100", ""]


def test_bad_input_is_one_message(scaling, tmp_path, capsys):
    for arguments, message in (
        (["6.5", scaling], "there is no table '6.5'; there are 6.2, 6.4, final"),
        (["6.4", tmp_path], "no result file"),
        (["final", scaling, "--output", tmp_path / "t.doc"], "--output must end in .csv, .md, .tex"),
        (["final", scaling, "--by", "epochs"], "different experiments are mixed"),
    ):
        code, shown, err = command(capsys, *arguments)
        assert (code, shown) == (2, [])
        assert err.startswith("tables: ")
        assert message in err
