"""The report: self-contained, escaped, equal to the summary, and never at a loss."""

import html
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from common.errors import ArtifactError, ConfigError
from common.job import parse_job
from common.metrics import ClassificationCounts, count, derive, intervals, worst
from server import plots
from server.exchange import Exchange
from server.numbers import number
from server.recorder import Recorder
from server.report import COLUMNS, write_report
from server.rounds import Hooks, run_job
from server.summary_table import auroc_error

TWO, THREE = ["normal", "opacity"], ["normal", "pneumonia", "covid19"]
NOTHING = ClassificationCounts.zeros(2)


def scored(*images: int, seed: int = 0) -> ClassificationCounts:
    """Counts of a fair model on so many images of each class."""
    labels = np.repeat(np.arange(len(images)), images)
    logits = np.random.default_rng(seed).normal(2 * np.eye(len(images))[labels], 1.2)
    return count(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)


def judged(number: int, **changes):
    validation = asdict(derive(scored(8, 6, seed=number)))
    line = {"round": number, "lost": False, "answered": ["a", "b"], "train_loss": 0.9 / number}
    return {
        **line,
        "update_norms": {"a": 0.1, "b": 0.2},
        "dropped": {},
        "outside": {},
        "bytes_down": 900,
        "bytes_up": 700,
        "seconds": 0.1,
        "validation": validation,
        **changes,
    }


def missing(hospital, phase, reason, *rounds):
    """A failure as in a summary."""
    return {"hospital": hospital, "phase": phase, "rounds": list(rounds), "reason": reason}


@pytest.fixture
def run_dir(job, tmp_path):
    """Write a run directory as the recorder does, from test counts by hospital."""

    def make(hospitals, classes=TWO, rounds=None, name="run", **changes):
        folder, made = tmp_path / name, job(classes=classes)
        folder.mkdir()
        zeros = ClassificationCounts.zeros(len(classes))
        pooled = sum(hospitals.values(), zeros)
        derived = {hospital: derive(counts) for hospital, counts in hospitals.items()}
        lowest = worst(derived)

        def shown(counts):
            bounds = {key: [one.low, one.high] if one else None for key, one in intervals(counts).items()}
            return {**asdict(derive(counts)), "intervals": bounds}

        parts = ("train", "validation", "test")
        described = {
            "images": {part: [12_345, *[0] * (len(classes) - 1)] for part in parts},
            "patients": dict.fromkeys(parts, 7),
            **{"examples": 12_345, "other_labels": 3, "unreadable": 2, "decoded": 1, "cached": 4},
        }
        summary = {
            "job": made.model_dump(mode="json"),
            **{"job_id": made.job_id, "engine": "test", "method": "fedavg", "rounds": 4, "best_round": 2},
            **{"classes": classes, "fingerprint": "f" * 64, "backbone_digest": "b" * 64, "random_weights": False},
            "versions": {"numpy": "2.0"},
            "metrics": {
                "pooled": shown(pooled),
                "hospitals": {hospital: shown(counts) for hospital, counts in hospitals.items()},
                "worst": {**{key: value for key, (_, value) in lowest.items()}, "n": 1},
                "worst_hospital": {key: hospital for key, (hospital, _) in lowest.items()},
            },
            "hospitals": dict.fromkeys(hospitals, described),
            "taking_part": list(hospitals),
            "patients": None,
            **{"closed_form": None, "cross_site": {}, "personalisation": {}, "missing_classes": {}, "failures": []},
            "images": {"decoded": 1, "cached": 4, "unreadable": 2, "other_labels": 3},
            "communication": {
                **{
                    "bytes_up": 1_500_000,
                    "bytes_down": 2_500,
                    "head_bytes": 10_248,
                    "model_bytes": 10_248,
                    "whole_model_bytes": 4_200_000_000,
                },
                "times_less_than_whole_model": 2795.3,
            },
            "seconds": {"describe": 1.25, "fit": 2.5, "total": 4.0},
            **changes,
        }
        plain = {key: {name: array.tolist() for name, array in asdict(one).items()} for key, one in hospitals.items()}
        whole = {name: array.tolist() for name, array in asdict(pooled).items()}
        (folder / "job.json").write_text(made.canonical_json())
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "counts.json").write_text(json.dumps({"pooled": whole, "hospitals": plain}))
        lines = [judged(at) for at in range(1, 5)] if rounds is None else rounds
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


def page_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def table_of(page, name):
    """Rows of a table as texts, the small print in brackets."""
    found = re.search(rf'<table class="wide" id="{name}">(.*?)</table>', page, re.DOTALL).group(1)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found, re.DOTALL)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]+>", " ", cell).split() for cell in row] for row in plain]


def test_it_is_one_file_that_opens_offline_and_is_sound_in_itself(run_dir):
    page = page_of(run_dir({"a": scored(20, 15), "b": scored(9, 12, seed=1)}))
    assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|src=", page)
    assert re.findall(r"url\((?!#)", page) == []
    assert page.count("<svg") == 5
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_the_tables_say_what_the_files_say(run_dir):
    folder = run_dir({"a": scored(20, 15), "b": scored(9, 12, seed=1)})
    summary, page = json.loads((folder / "summary.json").read_text()), page_of(folder)
    heading, *rows = table_of(page, "metrics")
    assert [" ".join(cell) for cell in heading[1:]] == list(COLUMNS.values())
    metrics = summary["metrics"]
    for row, found in zip(rows, [metrics["pooled"], *metrics["hospitals"].values(), metrics["worst"]], strict=True):
        assert [cell[0] for cell in row[1:]] == [number(found[metric]) for metric in COLUMNS]
    low, high = metrics["pooled"]["intervals"]["auroc"]
    assert rows[0][1][1:] == [f"{low:.3f}", "to", f"{high:.3f}"]
    assert [cell[-1] for cell in rows[-1][1:-1]] == [metrics["worst_hospital"][key] for key in COLUMNS if key != "n"]
    assert table_of(page, "data")[1][1:3] == [["12,345"], ["0"]]
    _, first, *_ = table_of(page, "rounds")
    assert first[1:3] == [[number(judged(1)["validation"][key])] for key in ("auroc", "accuracy")]
    assert first[5] == ["2", "of", "2"]
    for told in (
        "1.5 MB",
        "2.5 kB",
        "350 B / 450 B",
        "10.2 kB",
        "4.2 GB",
        "2,795",
        summary["job_id"],
        "f" * 64,
        "numpy 2.0",
    ):
        assert told in page


def test_images_that_two_hospitals_have_are_shown_if_they_were_counted(run_dir):
    rows = [{"hospitals": ["a", "b"], "exact": 3, "near": [1, 2]}]
    page = page_of(run_dir({"a": scored(3, 3), "b": scored(3, 3)}, duplicates=rows))
    assert table_of(page, "duplicates")[1:] == [[["a", "and", "b"], ["3"], ["1"], ["2"]]]
    assert "Images that two hospitals have" not in page_of(run_dir({"a": scored(3, 3)}, name="plain"))


def test_the_job_at_the_end_is_the_job(run_dir):
    folder = run_dir({"a": scored(20, 15)})
    written = yaml.safe_load(html.unescape(re.search(r"<pre>(.*?)</pre>", page_of(folder), re.DOTALL).group(1)))
    assert parse_job(written).job_id == json.loads((folder / "summary.json").read_text())["job_id"]


def test_the_error_of_the_auroc_is_rounded_up(run_dir):
    counts = scored(20, 15)
    error = float(auroc_error(counts))
    exact = (counts.histograms[1][0] * counts.histograms[1][1]).sum() / 20 / 15 / 2
    assert exact <= error < exact + 1e-4
    assert f"within {error:.4f} of" in page_of(run_dir({"a": counts}))


def test_equal_runs_give_equal_bytes(run_dir):
    hospitals = {"a": scored(20, 15), "b": scored(9, 12, seed=1)}
    first, second = (write_report(run_dir(hospitals, name=name)).read_bytes() for name in ("one", "two"))
    assert first == second


@pytest.mark.parametrize(
    "nasty", ["<script>alert(1)</script>", '--><b id="x">', "{{ 7 * 7 }} $x_1$ & co", "_x", "北京医院"]
)
def test_a_name_is_a_text_and_nothing_else(nasty, run_dir):
    folder = run_dir(
        {nasty: scored(20, 15), "b": scored(9, 12, seed=1)},
        rounds=[judged(1, dropped={nasty: nasty})],
        missing_classes={nasty: ["opacity"]},
        failures=[missing(nasty, "test", nasty, 1)],
    )
    page = page_of(folder)
    legend = "".join(re.findall(r"<text[^>]*>(.*?)</text>", page))
    assert nasty[:12] in html.unescape(legend)
    assert html.unescape(page).count(nasty) >= 5
    if "<" in nasty:
        assert nasty not in page
        assert "<script" not in page
        assert '<b id="x">' not in page


def test_what_is_undefined_is_a_dash_with_the_reason(run_dir):
    page = page_of(run_dir({"a": scored(20, 15), "one": scored(6, 0), "none": scored(0, 0)}))
    rows = {row[0][0]: row for row in table_of(page, "metrics")[1:]}
    auroc, sensitivity, specificity, images = (
        1 + list(COLUMNS).index(key) for key in ("auroc", "sensitivity", "specificity", "n")
    )
    assert rows["one"][auroc] == rows["one"][sensitivity] == ["–", "a"]
    assert rows["one"][specificity][0] != "–"
    assert rows["none"][auroc] == ["–", "b"]
    assert rows["none"][images] == ["0"]
    assert "<sup>a</sup> – is undefined: every test image is of class normal." in page
    assert "<sup>b</sup> – is undefined: no test image." in page


@pytest.mark.parametrize("classes", [TWO, THREE])
def test_a_run_where_nothing_is_defined_still_has_a_report(classes, run_dir):
    nothing = ClassificationCounts.zeros(len(classes))
    undefined = asdict(derive(nothing))
    folder = run_dir({"a": nothing}, classes, rounds=[judged(1, validation=undefined, train_loss=None, seconds=0)])
    page = page_of(folder)
    assert "<svg" not in page
    assert "there is no test image" in page
    assert "defined at no hospital" in page


def test_no_hospital_tested_and_no_round_recorded(run_dir):
    page = page_of(run_dir({}, rounds=[], failures=[missing("a", "test", "timeout", 3)]))
    assert "No round was recorded." in page
    assert "<b>a</b> is missing from the test: timeout" in page


def test_hospitals_of_one_class_are_warned_of(run_dir):
    hospitals = dict.fromkeys("abc", ClassificationCounts.zeros(3))
    page = page_of(run_dir(hospitals, THREE, [], missing_classes={"b": THREE[:2], "c": THREE[2:]}))
    assert "<b>b</b> has no image of normal, pneumonia." in page
    assert "At b the class is tied to the site." in page
    page = page_of(run_dir(hospitals, THREE, [], name="milder", missing_classes={"c": THREE[2:]}))
    assert "<b>c</b> has no image of covid19." in page
    assert "tied to the site" not in page


def test_thirty_hospitals_do_not_fill_the_legend(run_dir):
    page = page_of(run_dir({f"h{at:02}": scored(9, 8, seed=at) for at in range(30)}))
    assert len(table_of(page, "metrics")) == 33
    legend = re.findall(r"<text[^>]*>(.*?)</text>", page)
    assert legend.count("each of 30 hospitals") == 2
    assert not any("h29" in text for text in legend)


def test_a_hospital_with_few_images_gets_no_curve():
    few, enough = scored(4, 30), scored(5, 5)
    drawn = plots.roc_curves(few + enough, {"few": few, "enough": enough}, TWO)
    assert "enough" in drawn
    assert "few" not in drawn


def test_lost_rounds_and_a_resumed_run(run_dir):
    rounds = [judged(1), judged(2), judged(3, lost=True, validation=None, train_loss=None, dropped={"b": "timeout"})]
    page = page_of(run_dir({"a": scored(20, 15)}, rounds=rounds, resumed_after_round=2))
    assert "3 (no quorum)" in page
    assert "without b: timeout" in page
    assert page.count(">no quorum</text>") == 2
    assert "resumed after round 2" in page
    assert "are of all processes of the run" in page


def test_random_weights_are_shouted(run_dir):
    assert 'role="alert"><b>Random backbone weights.' in page_of(
        run_dir({"a": NOTHING}, random_weights=True, rounds=[])
    )
    assert "Random backbone" not in page_of(run_dir({"a": NOTHING}, rounds=[], name="other"))


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="expected the directory of a finished run"):
        write_report(tmp_path)


@pytest.mark.parametrize("lacking", ["metrics", "hospitals", "communication", "best_round", "versions"])
def test_a_summary_that_lacks_something_is_an_error(lacking, run_dir):
    folder = run_dir({"a": NOTHING}, rounds=[])
    summary = json.loads((folder / "summary.json").read_text())
    del summary[lacking]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ArtifactError, match=rf"summary.json is damaged.*{lacking}"):
        write_report(folder)


def test_a_run_of_the_real_round_loop_has_a_report(server_job, scripted, exchange_with, tmp_path):
    made = server_job(method={"name": "fedavg", "rounds": 3})
    recorder = Recorder(tmp_path / "run", made, "test")
    one_class = np.array([[50, 0], [10, 0], [16, 0]])
    exchange: Exchange = exchange_with({"alpha": scripted(), "beta": scripted(images=one_class)})
    recorder.finish(run_job(made, exchange, Hooks(judged=[recorder.judged], checkpoint=[recorder.save])))
    page = page_of(recorder.folder)
    assert "At beta the class is tied to the site." in page
    assert "Random backbone weights." in page
    recorder.close()
    with pytest.raises(ConfigError, match="holds a run already"):
        Recorder(tmp_path / "run", made, "test")
