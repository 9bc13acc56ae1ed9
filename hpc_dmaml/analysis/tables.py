"""Tables of the thesis by number, and of the final results of any files.

    hpc_dmaml tables 6.4 results/scaling                        # Markdown on the screen, results/scaling/table_6.4.csv
    hpc_dmaml tables final results/x --by optimizer.lr --output final.tex

The file is CSV (all digits), Markdown or LaTeX by suffix. Options, notes and errors are those of figures.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from typing import NamedTuple

import pandas as pd

from hpc_dmaml.analysis import command, comparison, figures, reader, stats, timing, words
from hpc_dmaml.analysis.settings import BASELINE, Options, Settings, add_options, ratio

SUFFIXES = (".csv", ".md", ".tex")
Rows = list[list[str]]
"""The cells of a table as text; the first row is the head."""


class Table(NamedTuple):
    rows: Rows
    numbers: pd.DataFrame
    notes: tuple[str, ...] = ()
    """Sentences on what is not as one would expect."""
    text: str = ""
    """A sentence on what the numbers are."""


def scaling_points(settings: Settings, options: Options) -> Table:
    """Table 6.2: the settings of each point of the sweep, from its files."""
    table = []
    for key, same in settings.jobs.items():
        fields = {name: same[0].fields[name] for name in ("workers", "epochs", "tasks")}
        ranks = ", ".join(reader.numbers_of_ranks(same))
        more = {"tasks_a_run": same[0].tasks_of_a_run, "ranks": ranks, "runs": max(job.fields["runs"] for job in same)}
        seeds = ", ".join(str(job.seed) for job in same)
        table.append({"point": settings.label(key), **fields, **more, "seeds": seeds})
    frame = pd.DataFrame(table)
    return Table([[name.replace("_", " ") for name in frame], *frame.astype(str).to_numpy().tolist()], frame)


def run_durations(settings: Settings, options: Options) -> Table:
    """Table 6.4: a row for each ratio; for each way to scale, in percent, ours ± half the interval and the thesis's."""
    table = timing.durations(settings, BASELINE, options)
    shown: dict[float, dict[str, str]] = {}
    rows = []
    for family, part in settings.families.items():
        for key in part.jobs:
            row, told = part.rows(table, key).iloc[0], figures.RUN_PERCENT[family].get(ratio(key))
            own = {name: 100 * float(row[name]) for name in ("relative", "low", "high")}
            text = words.with_half(own["relative"], own["high"] - own["relative"], 1)
            cells = {
                family: "100" if key == BASELINE else text,
                f"{family}, thesis": "" if told is None else f"{told:g}",
            }
            shown.setdefault(ratio(key), {}).update(cells)
            rows.append({"scaled": family, "ratio": ratio(key), **{f"{k}_percent": v for k, v in own.items()},
                         "run_s": row["run_s"], "n": row["n"], "thesis_percent": told})  # fmt: skip
    head = [name for family in settings.families for name in (family, f"{family}, thesis")]
    lines = [[f"{each:g}", *(shown[each].get(name, "") for name in head)] for each in sorted(shown)]
    return Table([["ratio", *(f"{name} %" for name in head)], *lines], pd.DataFrame(rows))


def final(settings: Settings, options: Options) -> Table:
    """The final validation of each setting ± half the interval."""
    variable = settings.variable(options)
    quantity = settings.quantity(variable)
    frame = comparison.final(settings, variable, options)
    steps = sorted(frame["step"].unique())
    head = [f"{'before' if step == 0 else f'step {step}'} {quantity.suffix}".strip() for step in steps]
    lines = []
    for key in settings.jobs:
        rows = settings.rows(frame, key)
        if len(rows):
            values = [words.mean_and_half(row, quantity.is_share) for _, row in rows.iterrows()]
            values += [""] * (len(steps) - len(values))  # another setting has more steps
            lines.append([settings.label(key), f"{rows['runs'].iloc[0]:.0f}", str(rows["n"].iloc[-1]), *values])
    numbers = frame.drop(columns=["values", "runs_of"])
    text = comparison.explained(settings, variable, options)
    notes = (*comparison.notes(settings, frame), *filter(None, [settings.mixed(variable)]))
    return Table([["setting", "runs", "seeds", *head], *lines], numbers, notes, text)


TABLES: dict[str, tuple[str, Callable[[Settings, Options], Table]]] = {
    "6.2": ("the points of the scaling sweep: workers, epochs, tasks, and the files that are there", scaling_points),
    "6.4": ("duration of a run over the ratio, beside the thesis's", run_durations),
    "final": ("final loss or metric of each setting, before and after each adaptation step", final),
}


def spread(counts: Collection[int], options: Options) -> str:
    """The text under a table that explains ±. `counts`: of how many seeds its means are."""
    half = f"± is half the {options.words}." if max(counts) >= stats.FEWEST else ""
    return f"{half} {words.few_seeds(counts)}".strip()


def markdown(rows: Rows) -> str:
    head, *lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines))


def latex(rows: Rows, note: str) -> str:
    """A LaTeX tabular with booktabs' rules, no larger than the text of a page, and the note under it."""
    signs = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "×": r"$\times$",
                           "β": r"$\beta$", "α": r"$\alpha$", "λ": r"$\lambda$",
                           "$": r"\$", "{": r"\{", "}": r"\}", "^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}"})  # fmt: skip
    head, *lines = [" & ".join(cell.translate(signs) for cell in row) + r" \\" for row in rows]
    under = f"\n\n\\smallskip\n{{\\footnotesize {note.translate(signs)}}}" if note else ""
    body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    tabular = f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}\n{body}\n\\end{{tabular}}"
    box = r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.9\textheight}"
    return f"% \\usepackage{{booktabs, adjustbox}}\n{box}\n{tabular}\n\\end{{adjustbox}}{under}"


@command.command("tables")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print a table of the thesis by its number, or the final results.")
    parser.add_argument("table", nargs="?", help="number or name; --list shows them")
    parser.add_argument("--list", action="store_true", help="list all tables, and exit")
    add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="file to write (.csv, .md, .tex); default: CSV beside the files"
    )
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{name:8}{text}" for name, (text, _) in TABLES.items()))
        return 0
    if given.table not in TABLES:
        raise ValueError(f"there is no table {given.table!r}; there are {', '.join(TABLES)}")
    if given.output and given.output.suffix not in SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(SUFFIXES)}, not {given.output.suffix!r}")
    options = Options.of(given)
    found = reader.read(given.sources)
    if figures.is_thesis(given.table):
        settings = figures.of_thesis(given.table, found, [figures.SCALING])
    else:
        settings = Settings.of(found, given.by)
    rows, frame, notes, text = TABLES[given.table][1](settings, options)
    under = f"{text} {spread(frame['n'], options) if 'n' in frame else ''}".strip()
    output = given.output or found.folder / f"table_{given.table}.csv"
    texts = {
        ".csv": lambda: frame.to_csv(index=False),
        ".md": lambda: markdown(rows) + "\n",
        ".tex": lambda: latex(rows, under) + "\n",
    }
    with command.writing(output) as file:
        file.write_text(texts[output.suffix](), encoding="utf-8", errors="backslashreplace")
    for note in (*found.notes, *settings.notes, *notes):
        print(f"note: {note}", file=sys.stderr)
    print(markdown(rows))
    if under:
        print(f"\n{under}")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
