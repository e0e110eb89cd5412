"""Which row is marked, by hand; and the table as text."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.metrics import ClassificationCounts, count
from simulation.comparison.page import to_html
from simulation.comparison.results import COLUMNS, Comparison, RowResult, RunResult, best, run_metrics
from simulation.comparison.table import print_comparison
from simulation.comparison.text import to_csv, to_markdown, to_plain


def row(name, *aurocs, ece=None, **changes):
    """A row with an AUROC for each seed; its other metrics are 0.5."""
    runs = []
    for seed, auroc in enumerate(aurocs):
        metrics = {**dict.fromkeys(COLUMNS, 0.5), "auroc": auroc, "ece": 0.5 if ece is None else ece[seed]}
        runs.append(RunResult(seed, metrics, "hospital-a", 80, 4, 1500.0, 0.25, "0" * 64, Path("runs") / name))
    return RowResult(name, f"what {name} is", runs, **changes)


def table(*rows, notes=()):
    seeds = max(len(one.runs) for one in rows)
    return Comparison("quick", ["no", "yes"], ["hospital-a"], list(range(seeds)), rows, notes, 12, 3.5)


def test_the_best_is_marked_where_its_paired_lead_exceeds_the_spread_of_the_lead():
    # Leads 0.01, 0.02, 0.03: mean 0.02, standard deviation 0.01. The rows themselves spread by 0.1.
    first, second = row("first", 0.71, 0.82, 0.93), row("second", 0.70, 0.80, 0.90)
    assert best([second, first], "auroc") == "first"
    # Leads 0.03, -0.02, 0.02: mean 0.01, standard deviation 0.026.
    assert best([row("first", 0.73, 0.78, 0.92), second], "auroc") is None
    # Leads 0.0, 0.02: mean 0.01 is below the standard deviation 0.0141.
    assert best([row("first", 0.7, 0.82), row("second", 0.7, 0.8)], "auroc") is None


def test_only_the_next_row_counts():
    close = row("close", 0.71, 0.79, 0.91)
    assert best([row("first", 0.71, 0.80, 0.90), close, row("far", 0.1, 0.1, 0.1)], "auroc") is None


def test_of_the_calibration_error_less_is_better():
    good, bad = row("good", 0.5, 0.5, ece=[0.1, 0.11]), row("bad", 0.5, 0.5, ece=[0.2, 0.21])
    assert best([bad, good], "ece") == "good"


def test_one_seed_marks_nothing():
    assert best([row("first", 0.9), row("second", 0.1)], "auroc") is None


def test_what_only_a_simulation_can_do_is_not_marked_and_takes_no_mark():
    pooled = row("pooled", 0.9, 0.91, simulation_only=True)
    assert best([pooled, row("first", 0.8, 0.81), row("second", 0.7, 0.72)], "auroc") == "first"
    assert best([pooled, row("first", 0.8, 0.81)], "auroc") is None  # nobody to lead


def test_a_row_that_failed_or_is_undefined_with_a_seed_does_not_compete():
    rows = [row("first", 0.8, 0.81), row("second", 0.7, 0.71)]
    failed, undefined = row("failed", 0.9, 0.91, reason="no quorum"), row("undefined", 0.9, None)
    assert best([*rows, failed, undefined], "auroc") == "first"
    assert failed.mean("auroc") is None
    assert undefined.mean("auroc") is None


def test_mean_and_spread_by_hand():
    one = row("one", 0.7, 0.8, 0.9)
    assert one.mean("auroc") == pytest.approx(0.8)
    assert one.spread("auroc") == pytest.approx(0.1)
    assert row("one", 0.7).spread("auroc") is None
    assert one.cost == {"rounds": 4, "bytes_per_hospital": 1500, "seconds": 0.25}


def test_the_metrics_of_a_run_are_those_of_the_sum_of_its_counts():
    rng = np.random.default_rng(0)
    second = rng.uniform(size=60)
    probabilities, labels = np.stack([1 - second, second], axis=1), rng.integers(0, 2, 60)
    parts = {"a": count(probabilities[:20], labels[:20]), "b": count(probabilities[20:], labels[20:])}
    metrics, where, images = run_metrics(parts, 2)
    whole, _, _ = run_metrics({"all": count(probabilities, labels)}, 2)
    assert {**metrics, "worst_auroc": 0} == {**whole, "worst_auroc": 0}
    assert (where, images) == (min(parts, key=lambda name: run_metrics({name: parts[name]}, 2)[0]["auroc"]), 60)
    assert run_metrics({}, 2)[2] == 0
    assert run_metrics({"a": ClassificationCounts.zeros(2)}, 2)[:2] == (dict.fromkeys(COLUMNS), None)


@pytest.fixture
def shown():
    return table(
        row("plain", 0.70, 0.72),
        row("<b>best</b>", 0.80, 0.82),
        row("pooled", 0.9, 0.9, simulation_only=True),
        RowResult("broken", "what broken is", [], "failed with seed 0: no quorum"),
        notes=["plain is the job as it is written."],
    )


def test_the_texts_agree(shown):
    rows = list(csv.DictReader(io.StringIO(to_csv(shown))))
    plain = to_plain(shown)
    assert [one["row"] for one in plain["rows"]] == ["plain", "<b>best</b>", "pooled", "broken"]
    means = {one["row"]: one for one in rows if one["seed"] == "mean"}
    for one in plain["rows"]:
        assert means[one["row"]]["auroc"] == ("" if one["mean"]["auroc"] is None else str(one["mean"]["auroc"]))
        assert means[one["row"]]["best_in"] == ("auroc" if one["row"] == "<b>best</b>" else "")
        assert one["best_in"] == (["auroc"] if one["row"] == "<b>best</b>" else [])
    assert [float(one["auroc"]) for one in rows if one["seed"] == "1"] == [0.72, 0.82, 0.9]
    assert means["broken"]["reason"] == "failed with seed 0: no quorum"


def test_the_markdown_says_everything(shown):
    lines = to_markdown(shown).splitlines()
    assert lines[0].startswith("| trained by | accuracy | recall | F1 | AUROC | ECE | worst hospital | rounds |")
    assert all(line.count("|") == lines[0].count("|") for line in lines[:6])
    assert r"**0.810 ± 0.014**\*" in lines[3]
    assert lines[4].startswith("| pooled (simulation only) |")
    assert "- broken: failed with seed 0: no quorum." in lines
    assert "- plain is the job as it is written." in lines


def test_the_terminal_table_is_at_most_110_wide(shown):
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    print_comparison(shown, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 110
    assert "<b>best</b>" in lines[3]
    assert "0.810*" in lines[3]
    assert "1.5 kB" in lines[3]
    assert "± 0.014" in lines[4]


def test_the_page_opens_offline_and_escapes_names(shown):
    page = to_html(shown)
    assert "&lt;b&gt;best&lt;/b&gt;" in page
    assert "<b>best" not in page
    assert page.count("<svg") == 3
    assert "prefers-color-scheme: dark" in page
    for outside in ("http://", "https://", "<script", "<link", "src="):
        assert outside not in page
    assert page.count('class="best"') + page.count("class=best") == 1
    assert "failed with seed 0: no quorum" in page


def test_a_page_without_figures_is_a_page():
    assert "<svg" not in to_html(table(RowResult("broken", "", [], "no quorum")))
