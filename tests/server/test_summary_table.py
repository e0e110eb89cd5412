"""A run directory read and checked, and the table at the end of a run: equal to the summary, narrow, safe to show."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from common.errors import ArtifactError
from server.numbers import number, size
from server.recorder import Recorder
from server.rounds import Hooks, run_job
from server.run_directory import read_run
from server.summary_table import print_summary


@pytest.fixture
def finished(server_job, scripted, exchange_with, tmp_path):
    """Make a run directory with scripted hospitals."""

    def make(hospitals=None, name="run", **changes):
        job = server_job(**changes)
        recorder = Recorder(tmp_path / name, job, "test")
        exchange = exchange_with(hospitals or {"alpha": scripted(), "beta": scripted(step=0.3)})
        recorder.finish(run_job(job, exchange, Hooks(judged=[recorder.judged])))
        return recorder.folder

    return make


@pytest.fixture
def summary_of(finished):
    """The summary of a run with scripted hospitals."""

    def make(hospitals):
        return json.loads((finished(hospitals) / "summary.json").read_text())

    return make


def printed(summary, width=200, **options):
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=width, **options))
    return file.getvalue()


def test_the_figures_are_those_of_the_summary(summary_of, scripted):
    summary = summary_of({"alpha": scripted(), "beta": scripted(step=0.3)})
    text = printed(summary)
    assert re.search(r"AUROC +accuracy +sensitivity +specificity +F1 +images", text)
    metrics = summary["metrics"]
    rows = {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if re.match(r"(pooled|alpha|beta|worst) ", line)
    }
    for name, found in {**metrics["hospitals"], "worst": metrics["worst"]}.items():
        shown = [found.get(key) for key in ("auroc", "accuracy", "sensitivity", "specificity", "f1", "n")]
        assert rows[name] == [number(value) for value in shown]
    low, high = metrics["pooled"]["intervals"]["auroc"]
    assert f"pooled AUROC 95 % CI {low:.3f} to {high:.3f}" in text


def test_what_is_missing_is_said(summary_of, scripted):
    one_class, no_test = np.array([[50, 0], [10, 0], [16, 0]]), np.array([[30, 20], [6, 4], [0, 0]])
    hospitals = {"alpha": scripted(), "beta": scripted(images=one_class), "gamma": scripted(images=no_test)}
    summary = summary_of(hospitals)
    summary["failures"] = [{"hospital": "delta", "phase": "describe", "rounds": [0], "reason": "another feature space"}]
    text = printed(summary)
    assert "beta has no image of: opacity" in text
    assert "delta was left out: another feature space" in text
    assert re.search(r"gamma( +–){5} +0", text)


def test_a_run_without_test_patients(summary_of, scripted):
    text = printed(summary_of({"alpha": scripted(images=np.array([[30, 20], [6, 4], [0, 0]]))}))
    assert re.search(r"pooled( +–){5} +0", text)
    assert "CI" not in text


def test_it_is_at_most_a_hundred_characters_wide(summary_of, scripted):
    hospitals = {f"hospital-{'x' * 80}-{at:02}": scripted(images=np.array([[9, 0], [2, 0], [3, 0]])) for at in range(3)}
    text = printed(summary_of({**hospitals, "whole": scripted()}))
    assert max(map(len, text.splitlines())) <= 100
    assert "specificity" in text


def test_a_name_cannot_steer_the_terminal(summary_of, scripted):
    summary = summary_of({"[red]x[/red]": scripted(), "beta": scripted()})
    evil = {"hospital": "evil\x1b[2J", "phase": "describe", "rounds": [0], "reason": "[bold]no[/bold]"}
    summary["failures"] = [evil]
    text = printed(summary, force_terminal=True, color_system=None)
    assert "[red]x[/red]" in text
    assert "[bold]no[/bold]" in text
    assert "\x1b[2J" not in text


def test_what_it_cost(summary_of, scripted):
    summary = summary_of({"alpha": scripted()})
    summary["communication"].update(bytes_up=1_500_000, bytes_down=2_500, times_less_than_whole_model=2795.3)
    summary["images"].update(decoded=7, cached=8)
    summary["seconds"] = {"total": 4.0, "fit": 2.5}
    text = printed(summary)
    assert "round 1 of 1 kept; sent 1.5 MB up, 2.5 kB down, 2,795 times less than the whole model" in text
    assert "7 images decoded, 8 from the cache; 4.0 s, of which 2.5 s of rounds" in text
    summary["communication"]["times_less_than_whole_model"] = None
    assert "times less" not in printed(summary)


def test_a_run_directory_is_read_whole(finished):
    folder = finished()
    run = read_run(folder)
    assert run.pooled.n == run.summary["metrics"]["pooled"]["n"]
    assert sorted(run.hospitals) == ["alpha", "beta"]
    assert [one["round"] for one in run.rounds] == [1]
    assert run.job["classes"] == run.summary["classes"]


@pytest.mark.parametrize("name", ["job.json", "summary.json", "counts.json", "rounds.jsonl"])
def test_a_damaged_file_is_an_error_that_names_it(name, finished):
    folder = finished()
    for content in (b'{"classes": ', b"[]\n", b'"hello"', b"[" * 100_000, b"\xff"):
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"{name}.*expected"):
            read_run(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}.*expected the directory of a finished run"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda counts: counts["pooled"].pop("losses"), "KeyError: 'losses'"),
        (lambda counts: counts["pooled"].update(confusion=[[1]]), r"shape \(2, 2\)"),
        (lambda counts: counts["pooled"].update(losses=[0.5, 1]), "losses should be whole numbers"),
        (lambda counts: counts["hospitals"]["alpha"].update(losses=[-1, 1]), "losses should be whole numbers"),
        (lambda counts: counts["hospitals"].clear(), "do not add up"),
    ],
)
def test_counts_that_cannot_be_are_an_error(change, match, finished):
    folder = finished()
    counts = json.loads((folder / "counts.json").read_text())
    change(counts)
    (folder / "counts.json").write_text(json.dumps(counts))
    with pytest.raises(ArtifactError, match=match):
        read_run(folder)


def test_files_of_two_runs_are_an_error(finished):
    folder, other = finished(), finished(name="other", seed=9)
    (folder / "job.json").write_bytes((other / "job.json").read_bytes())
    with pytest.raises(ArtifactError, match="do not belong together"):
        read_run(folder)


def test_a_damaged_line_of_a_round_is_named(finished):
    folder = finished()
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2}\n')
    with pytest.raises(ArtifactError, match=r"rounds.jsonl, line 2 .* expected the keys lost, answered, train_loss"):
        read_run(folder)


def test_units():
    assert [size(0), size(999), size(10_248), size(2.5e6), size(3e9)] == ["0 B", "999 B", "10.2 kB", "2.5 MB", "3.0 GB"]
    assert [number(None), number(3), number(12_345), number(0.12345)] == ["–", "3", "12,345", "0.123"]
