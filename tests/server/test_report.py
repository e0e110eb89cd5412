"""The report: self-contained, escaped, equal to the summary, and never at a loss."""

import json
import re

import numpy as np
import pytest
from rich.console import Console

from common.errors import ArtifactError
from server.exchange import Exchange
from server.recorder import Recorder
from server.report import number, size, write_report
from server.rounds import Hooks, run_job
from server.summary_table import print_summary


@pytest.fixture
def finished(server_job, scripted, exchange_with, tmp_path):
    """Make a run directory with scripted hospitals."""

    def make(hospitals=None, name="run", **changes):
        job = server_job(method={"name": "fedavg", "rounds": 3}, **changes)
        recorder = Recorder(tmp_path / name, job, "test")
        exchange: Exchange = exchange_with(hospitals or {"alpha": scripted(), "beta": scripted(step=0.3)})
        outcome = run_job(job, exchange, Hooks(judged=[recorder.judged], checkpoint=[recorder.save]))
        recorder.finish(outcome)
        return recorder.folder

    return make


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def change(folder, **changes):
    (folder / "summary.json").write_text(json.dumps({**summary_of(folder), **changes}))


def test_it_is_one_file_that_opens_offline(finished):
    page = write_report(finished()).read_text()
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http" not in re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE[^>]*>", "", without_namespaces, flags=re.DOTALL)
    assert "<script" not in page
    assert "<link" not in page
    assert page.count("<svg") == 4


def test_its_numbers_are_those_of_the_summary(finished):
    folder = finished()
    page = write_report(folder).read_text()
    pooled = summary_of(folder)["metrics"]["pooled"]
    row = re.search(r'<tr class="pooled">(.*?)</tr>', page, re.DOTALL).group(1)
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[:4] == ["pooled", str(pooled["n"]), f"{pooled['auroc']:.3f}", f"{pooled['accuracy']:.3f}"]
    low, high = pooled["intervals"]["auroc"]
    assert f"{low:.3f} to {high:.3f}" in page.replace("\n", " ")


def test_equal_runs_give_equal_pages(finished):
    folder = finished()
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_names_are_escaped(finished, scripted):
    nasty = "<script>alert(1)</script>"
    page = write_report(finished({nasty: scripted(), "beta": scripted()})).read_text()
    assert nasty not in page
    assert "&lt;script&gt;" in page


def test_missing_classes_and_undefined_metrics_are_said(finished, scripted):
    one_class = np.array([[50, 0], [10, 0], [16, 0]])
    no_test = np.array([[30, 20], [6, 4], [0, 0]])
    folder = finished({"alpha": scripted(), "beta": scripted(images=one_class), "gamma": scripted(images=no_test)})
    page = write_report(folder).read_text()
    assert "beta has no image of opacity." in page
    assert summary_of(folder)["metrics"]["hospitals"]["beta"]["auroc"] is None
    assert summary_of(folder)["metrics"]["hospitals"]["gamma"]["n"] == 0
    console = Console(record=True, width=100)
    print_summary(summary_of(folder), console)
    text = console.export_text()
    assert "beta has no image of: opacity" in text
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"gamma +0 +–", text)


def test_a_run_where_nothing_is_defined_still_has_a_report(finished, scripted):
    page = write_report(finished({"alpha": scripted(images=np.array([[30, 20], [0, 0], [0, 0]]))})).read_text()
    assert "–" in page


def test_many_hospitals_are_readable(finished, scripted):
    page = write_report(finished({f"h{i:02}": scripted(step=i / 100) for i in range(30)})).read_text()
    assert "h29" in page


def test_more_classes_lost_rounds_and_a_resumed_run(finished, scripted):
    three = np.array([[30, 20, 10], [6, 4, 3], [9, 7, 5]])
    folder = finished({"alpha": scripted(images=three)}, classes=["normal", "pneumonia", "covid19"])
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1].update(lost=True, validation=None, train_loss=None)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    change(folder, resumed_after_round=2)
    page = write_report(folder).read_text()
    assert "resumed after round\n2" in page
    assert "no quorum" in page


def test_random_weights_are_shouted(finished):
    assert "Random backbone weights." in write_report(finished()).read_text()


@pytest.mark.parametrize("name", ["summary.json", "counts.json", "rounds.jsonl"])
def test_a_damaged_directory_is_an_error_that_says_so(name, finished):
    folder = finished()
    (folder / name).write_text('{"classes": ')
    with pytest.raises(ArtifactError, match="damaged"):
        write_report(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="expected the directory of a finished run"):
        write_report(folder)


def test_a_summary_of_something_else_is_an_error(finished):
    folder = finished()
    (folder / "summary.json").write_text('{"hello": 1}')
    with pytest.raises(ArtifactError, match="do not fit together"):
        write_report(folder)


def test_a_second_run_into_the_same_directory_is_refused(finished):
    from common.errors import ConfigError

    finished()
    with pytest.raises(ConfigError, match="holds a run already"):
        finished()


def test_units():
    assert [size(0), size(999), size(10_248), size(2.5e6), size(3e9)] == ["0 B", "999 B", "10.2 kB", "2.5 MB", "3.0 GB"]
    assert [number(None), number(3), number(0.12345)] == ["–", "3", "0.123"]
