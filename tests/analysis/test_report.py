"""The page, parsed: it stands alone, shows the reader's numbers, and says what is missing."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("pandas")
import numpy as np

from hpc_dmaml import results
from hpc_dmaml.analysis import comparison, reader, report, style, validation, words
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.config import Validation
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.tasks import Glyphs
from hpc_dmaml.weight_generators import LossMedian
from tests.analysis.synthetic import write_job
from tests.helpers import small_config


class Page(HTMLParser):
    """Tables as texts, sources of pictures, links and all text of a page."""

    def __init__(self, text):
        super().__init__()
        self.dark = []
        self.tags, self.sources, self.links, self.tables, self.text, self._open = [], [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.sources += [values["src"]] if "src" in values else []
        self.dark += [values["srcset"]] if values.get("media") == "(prefers-color-scheme: dark)" else []
        self.links += [values["href"]] if "href" in values else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("style", "td", "th"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open == ["style"]:
            return
        self.text += data
        if self._open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def scaling_page(scaling):
    return Page(report.page(reader.read([scaling]), Options()))


@pytest.fixture
def rates(tmp_path):
    """Two rates, two seeds."""
    for rate in (0.01, 0.1):
        for seed in (0, 1):
            config = small_config(runs=12, workers=2, seed=seed, optimizer=SGD(lr=rate))
            write_job(tmp_path / f"{rate}_{seed}.h5", config, 2)
    return tmp_path


def test_a_page_stands_alone(scaling_page):
    assert len(scaling_page.sources) >= 8
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
               for source in scaling_page.sources)  # fmt: skip
    assert all(link.startswith("#") for link in scaling_page.links)
    assert not {"script", "link", "iframe"} & set(scaling_page.tags)


def test_every_picture_is_drawn_for_dark_pages_too(scaling_page):
    assert len(scaling_page.dark) == len(scaling_page.sources)
    assert not set(scaling_page.dark) & set(scaling_page.sources)
    assert all(source.startswith("data:image/") and not set(" \n") & set(source) for source in scaling_page.dark)


@pytest.mark.parametrize("colour", [*style.COLOURS, style.GREY, *style.steps(6), "#C8C8C8"])
def test_colours_stand_out_on_dark_pages(colour):
    assert style.contrast(style.on_dark(colour), style.DARK_PAPER) >= 4.5


def test_a_dark_picture_has_no_line_or_text_that_the_page_swallows(scaling):
    with style.used():
        figure = validation.over(Settings(reader.read([scaling]).jobs, ["scaling"]), Options()).figure
        style.darken(figure)
    (axis,) = figure.axes
    texts = [axis.xaxis.label, axis.yaxis.label, *axis.get_xticklabels(), *axis.get_legend().get_texts()]
    colours = [each.get_color() for each in (*texts, *axis.lines)] + [axis.spines["left"].get_edgecolor()]
    assert min(style.contrast(each, style.DARK_PAPER) for each in colours) >= 4.5
    assert style.contrast(axis.get_xgridlines()[0].get_color(), style.DARK_PAPER) < 2


def test_the_final_table_has_the_readers_numbers(scaling, scaling_page):
    settings = Settings(reader.read([scaling]).jobs, ["scaling"])
    table = comparison.final(settings, "metric", Options())
    assert set(table["variable"]) == {"accuracy"}
    rows = {row[0]: row for row in scaling_page.tables[0][1:]}
    assert len(rows) == 5
    for (name,), _ in settings.jobs.items():
        expected = [words.mean_and_half(row, True) for _, row in table[table["scaling"] == name].iterrows()]
        assert rows[settings.label((name,))][3:-1] == expected


def test_a_scaling_sweep_shows_durations_beside_the_thesis(scaling_page):
    assert scaling_page.tables[1][0][:3] == ["ratio", "workers %", "workers, thesis %"]
    assert scaling_page.tables[1][1][1:3] == ["100", "100"]


def test_missing_and_unreadable_points_are_named(partial):
    (partial / "scaling=tasks-2x,seed=1.h5").unlink()
    (partial / "scaling=tasks-2x,seed=2.h5").write_bytes(b"cut off")
    page = Page(report.page(reader.read([partial]), Options()))
    assert "1 of 15 points are missing: scaling=tasks-2x,seed=1" in page.text
    assert "scaling=tasks-2x,seed=2.h5 is not a readable result file" in page.text
    assert ["scaling=tasks-2x,seed=1", "missing"] in [row[:2] for row in page.tables[-1]]


def test_restarts_failures_slow_ranks_and_workers_that_are_not_finite_are_warned_of(rates):
    path = (rates / "0.1_1.h5").rename(rates / "job_1.h5")
    found = results.read(path)
    loss = found["workers/loss"].copy()
    loss[3:5, 1] = np.nan
    work_s = np.ones_like(found["ranks/work_s"]) * [1.0, 3.0]
    arrays = {**found.arrays, "workers/loss": loss, "ranks/work_s": work_s}
    results.write(path, arrays, {**found.attributes, "restarts": 2, "status": "failed"})
    text = report.page(reader.read([rates]), Options())
    assert "job_1.h5 was restarted 2 times" in text
    assert "job_1.h5: not finite in 2 of 12 runs: worker 1" in text
    assert "job_1.h5: slow, and all wait for them: rank 1 (node1) 3.0 × the usual time" in text
    assert "failed, shown as far as it got: job_1.h5" in text


def test_any_files_of_one_task_are_told_apart_by_what_differs(rates):
    page = Page(report.page(reader.read(sorted(rates.glob("*.h5"))), Options()))
    assert [row[0] for row in page.tables[0][1:]] == ["β 0.01", "β 0.1"]
    assert "Difference from β 0.01" in page.text
    assert "node1 (cpu): 4 jobs" in page.text


def test_of_two_seeds_nothing_is_best_and_there_is_no_interval(rates, scaling, scaling_page):
    text = report.page(reader.read([rates]), Options())
    assert 'class="best"' not in text
    assert "Bold" not in text
    assert "Fewer than 3 seeds: no interval." in text
    assert "<line" not in text  # no whisker
    assert "Bold: the best mean" in scaling_page.text
    assert "no interval" not in scaling_page.text


def test_settings_of_different_adaptation_steps_are_judged_after_the_last_that_all_have(tmp_path):
    for steps in (1, 3):
        for seed in range(3):
            config = small_config(runs=12, workers=1, seed=seed, validation=Validation(every=2, tasks=5, steps=steps))
            write_job(tmp_path / f"{steps}_{seed}.h5", config)
    text = report.page(reader.read([tmp_path]), Options())
    head, few, many = Page(text).tables[0]
    assert head[3:] == ["before", "step 1", "step 2", "step 3", "after 1 adaptation step"]
    assert (few[2], many[2]) == ("3", "3")
    assert few[5:7] == ["", ""]
    assert "" not in many[3:7]
    best = ' class="best"' + text.partition(' class="best"')[2].partition("</tr>")[0]
    ends = {row[0]: float(row[4].partition(" ")[0]) for row in (few, many)}
    assert min(ends, key=ends.get) in best


def test_weights_are_drawn_where_they_differ(rates):
    assert "Weight of each worker" not in report.page(reader.read([rates]), Options())
    write_job(rates / "w.h5", small_config(runs=12, workers=2, weight_generator=LossMedian()), 2)
    assert "Weight of each worker" in report.page(reader.read([rates / "w.h5"]), Options())


def test_experiments_of_different_tasks_get_a_part_each(rates):
    write_job(rates / "letters.h5", small_config(runs=12, workers=1, task=Glyphs()))
    page = Page(report.page(reader.read([rates]), Options()))
    assert page.links == ["#part-0", "#part-1"]
    assert "letters.h5" in page.text


def test_a_single_job_and_one_without_a_validation_have_a_page(tmp_path):
    write_job(tmp_path / "one.h5", small_config(runs=12, workers=1))
    write_job(tmp_path / "new.h5", small_config(runs=12, workers=1, seed=1), 1, "running", 0)
    assert Page(report.page(reader.read([tmp_path / "one.h5"]), Options())).sources
    assert (
        "running, shown as far as it got: new.h5" in report.page(reader.read([tmp_path / "new.h5"]), Options()).lower()
    )


def test_what_comes_from_files_is_escaped(tmp_path):
    path = tmp_path / "<img src=x>.h5"
    write_job(path, small_config(runs=12, workers=1))
    found = results.read(path)
    attributes = {**found.attributes, "git_commit": "<script>alert(1)</script>", "start": "<b>"}
    results.write(path, {**found.arrays, "ranks/host": ["<iframe>"]}, attributes)
    found = replace(reader.read([tmp_path]), notes=("<script>",))
    page = Page(report.page(found, Options(), title="<object>"))
    assert not {"script", "iframe", "object", "b>"} & set(page.tags)
    assert "x" not in page.sources
    assert "<iframe> (cpu): 1 job" in page.text


def test_very_long_texts_are_cut_and_no_text_breaks_a_page(tmp_path):
    path = tmp_path / "a.h5"
    write_job(path, small_config(runs=12, workers=1, init_from="$x_{" + "long" * 10_000))
    found = results.read(path)
    attributes = {**found.attributes, "git_commit": "\x1b" * 10_000, "versions": "$_{" * 10_000}
    results.write(path, found.arrays, attributes)
    text = report.page(reader.read([path]), Options(), title="\udc80" + "$title_{" * 1000)
    assert max(map(len, Page(text).text.splitlines())) < 20_000
    assert "\x1b" not in text
    assert len(Page(text).sources) >= 6
    text.encode()


def test_the_command_writes_beside_the_files_and_refuses_other_suffixes(rates, capsys):
    assert report.main([str(rates)]) == 0
    assert (rates / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert report.main([str(rates), "--output", "page.pdf"]) == 2
    assert "--output must end in .html" in capsys.readouterr().err
    assert report.main([str(rates / "nothing.h5")]) == 2
