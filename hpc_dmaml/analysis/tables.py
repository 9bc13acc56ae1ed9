"""Tables: the thesis's by their numbers, and the final results of any files.

    python analysis/tables.py 6.4 results/scaling                        # Markdown on the screen, results/scaling/table_6.4.csv
    python analysis/tables.py final results/x --by optimizer.lr --output final.tex

The file is CSV (all digits), Markdown or LaTeX by suffix. Options, notes and errors are those of figures.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from hpc_dmaml.analysis import command, figures, measures, pieces, plots, reader, style
from hpc_dmaml.analysis.measures import Options, Settings

TABLES = {
    "6.2": "the points of the scaling sweep: workers, epochs, tasks, and the files that are there",
    "6.4": "duration of a run over the ratio, beside the thesis's",
    "final": "final loss or metric of each setting, before and after each adaptation step",
}
SUFFIXES = (".csv", ".md", ".tex")
Rows = list[list[str]]
"""As they are read: the first is the head."""


def scaling_points(found: reader.Collection) -> tuple[Rows, pd.DataFrame]:
    """Table 6.2: what each point of the sweep is, from its files."""
    settings = _scaling(found, "6.2")
    table = []
    for key, jobs in settings.jobs.items():
        fields = {name: jobs[0].fields[name] for name in ("workers", "epochs", "tasks")}
        a_run = fields["workers"] * fields["epochs"] * fields["tasks"]
        seeds = ", ".join(str(job.seed) for job in jobs)
        more = {"tasks_a_run": a_run, "ranks": jobs[0].ranks, "runs": max(job.fields["runs"] for job in jobs)}
        table.append({"point": settings.label(key), **fields, **more, "seeds": seeds})
    frame = pd.DataFrame(table)
    head = ["point", "workers", "epochs", "tasks", "tasks a run", "ranks", "runs", "seeds"]
    return [head, *frame.astype(str).to_numpy().tolist()], frame


def run_durations(found: reader.Collection, options: Options) -> tuple[Rows, pd.DataFrame]:
    """Table 6.4: a row for each ratio; for each way to scale ours with half its interval, and the thesis's, in percent."""
    settings = _scaling(found, "6.4")
    table = measures.durations(settings, ("baseline",), options)
    families = plots.families(settings)
    shown: dict[float, dict[str, str]] = {}
    rows = []
    for family, part in families.items():
        for key in part.jobs:
            row = table[[value == key[0] for value in table[figures.SCALING]]].iloc[0]
            scaled = style.scaled(key[0])
            ratio = scaled[1] if scaled else 1.0
            told = figures.RUN_PERCENT[family].get(int(ratio))
            own = {name: 100 * float(row[name]) for name in ("relative", "low", "high")}
            base = key == ("baseline",)
            text = "100" if base else pieces.with_half(own["relative"], own["high"] - own["relative"], 1)
            shown.setdefault(ratio, {}).update({family: text, f"{family}, thesis": "" if told is None else f"{told:g}"})
            rows.append({"scaled": family, "ratio": ratio, **{f"{k}_percent": v for k, v in own.items()},
                         "run_s": row["run_s"], "n": row["n"], "thesis_percent": told})  # fmt: skip
    head = [name for family in families for name in (family, f"{family}, thesis")]
    lines = [[f"{ratio:g}", *(shown[ratio].get(name, "") for name in head)] for ratio in sorted(shown)]
    return [["ratio", *(f"{name} %" for name in head)], *lines], pd.DataFrame(rows)


def spread(settings: Settings, options: Options) -> str:
    """What ± is, under a table."""
    return (
        f"± is half the {options.words}. {settings.few_seeds}".rstrip()
        if settings.repeated
        else "One seed: no interval."
    )


def final(settings: Settings, options: Options, variable: str | None) -> tuple[Rows, pd.DataFrame]:
    """Where the validation of each setting ended, with half the interval."""
    variable = plots.chosen_variable(settings, variable)
    quantity = settings.quantity(variable)
    frame = measures.final(settings, variable, options)
    steps = sorted(frame["step"].unique())
    head = ["setting", "runs", "seeds", *("before" if s == 0 else f"step {s}" for s in steps)]
    lines = []
    for key in settings.jobs:
        rows = frame[plots.matching(frame, settings.by, key)]
        if rows.empty:
            continue
        values = [pieces.number(row, quantity.is_share) for _, row in rows.iterrows()]
        lines.append([settings.label(key), f"{rows['runs'].iloc[0]:g}", str(rows["n"].iloc[0]), *values])
    head[3:] = [f"{name} {quantity.suffix}".strip() for name in head[3:]]
    return [head, *lines], frame.drop(columns="values")


def markdown(rows: Rows) -> str:
    head, *lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines))


def latex(rows: Rows, note: str) -> str:
    """A tabular with booktabs' rules, no larger than the text of a page, and the note under it."""
    signs = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "×": r"$\times$",
                           "β": r"$\beta$", "α": r"$\alpha$", "λ": r"$\lambda$"})  # fmt: skip
    head, *lines = [" & ".join(cell.translate(signs) for cell in row) + r" \\" for row in rows]
    under = f"\n\n\\smallskip\n{{\\footnotesize {note.translate(signs)}}}" if note else ""
    columns = "l" + "r" * (len(rows[0]) - 1)
    body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    tabular = f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"
    size = r"max width=\linewidth, max totalheight=0.9\textheight"
    return (
        f"% \\usepackage{{booktabs, adjustbox}}\n\\begin{{adjustbox}}{{{size}}}\n{tabular}\n\\end{{adjustbox}}{under}"
    )


def _settings(found: reader.Collection, by: Sequence[str] | None) -> Settings:
    by = figures.default_by(found) if by is None else list(by)
    return Settings(found.jobs, by, figures.every(found, by))


def _scaling(found: reader.Collection, number: str) -> Settings:
    by = [figures.SCALING]
    settings = Settings(figures.jobs_for(number, found, by), by, figures.every(found, by))
    figures.check_scaling(settings)
    return settings


@command.command("tables")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print a table of the thesis by its number, or the final results.")
    parser.add_argument("table", nargs="?", help="number or name; --list shows them")
    figures.add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="file to write (.csv, .md, .tex); default: CSV beside the files"
    )
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{name:8}{text}" for name, text in TABLES.items()))
        return 0
    if given.table not in TABLES:
        raise ValueError(f"there is no table {given.table!r}; there are {', '.join(TABLES)}")
    if given.output and given.output.suffix not in SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(SUFFIXES)}, not {given.output.suffix!r}")
    options = Options(given.interval, given.level, None, given.step, given.last)
    found = reader.read(given.sources)
    if given.table == "6.2":
        (rows, frame), under = scaling_points(found), ""
    elif given.table == "6.4":
        rows, frame = run_durations(found, options)
        under = spread(_scaling(found, "6.4"), options)
    else:
        settings = _settings(found, given.by)
        rows, frame = final(settings, options, given.variable)
        under = spread(settings, options)
    output = given.output or figures.default_folder(given.sources, found) / f"table_{given.table}.csv"
    output.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        ".csv": lambda: frame.to_csv(index=False),
        ".md": lambda: markdown(rows) + "\n",
        ".tex": lambda: latex(rows, under) + "\n",
    }
    output.write_text(texts[output.suffix](), encoding="utf-8", errors="backslashreplace")
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(markdown(rows))
    if under:
        print(f"\n{under}")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
