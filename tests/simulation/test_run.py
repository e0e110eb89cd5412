"""Whole runs through the real ServerApp and ClientApp, with both engines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.diagnosis import Diagnostician
from client.records import assign, read_rows
from common.artifact import load_model
from common.errors import ConfigError, DataError, WeightsError
from common.job import parse_job
from simulation.hospitals import find_hospitals, first_hospitals
from simulation.run import simulate

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "auroc",
    "average_precision",
    "ece",
    "n",
)


@pytest.fixture(scope="module")
def run(job, phantoms, cache_dir, tmp_path_factory):
    """A finished run in process, and its job."""
    quick = job(method={"name": "fedprox", "rounds": 4})
    return quick, simulate(quick, phantoms, tmp_path_factory.mktemp("runs") / "one", cache_dir=cache_dir)


def test_the_run_directory_is_complete(run):
    _, result = run
    found = {path.name for path in result.folder.iterdir()}
    assert found == {
        "job.json",
        "summary.json",
        "counts.json",
        "rounds.jsonl",
        "model.safetensors",
        "report.html",
        "MODEL_CARD.md",
        "model_card.html",
        "checkpoints",
        "run.lock",
    }


def test_the_summary_has_what_is_promised(run):
    job, result = run
    summary = result.summary
    assert summary["job_id"] == job.job_id
    assert summary["method"] == "fedprox"
    assert summary["rounds"] == 4
    for group in (summary["metrics"]["pooled"], summary["metrics"]["worst"], *summary["metrics"]["hospitals"].values()):
        assert set(METRICS) <= set(group)
    assert set(summary["metrics"]["hospitals"]) == {"hospital-a", "hospital-b", "hospital-c"}
    assert summary["communication"]["bytes_up"] > 0 < summary["communication"]["bytes_down"]
    assert {"describe", "fit", "evaluate", "total"} <= set(summary["seconds"])
    assert summary["metrics"]["pooled"]["n"] == sum(
        one["images"]["test"][0] + one["images"]["test"][1] for one in summary["hospitals"].values()
    )


def test_a_second_run_decodes_no_image_and_gives_the_same_head(run, phantoms, cache_dir, tmp_path):
    job, first = run
    second = simulate(job, phantoms, tmp_path / "two", cache_dir=cache_dir)
    assert second.summary["images"] == {"decoded": 0, "cached": 120, "unreadable": 0, "other_labels": 0}
    assert second.model.head.weight.tobytes() == first.model.head.weight.tobytes()
    assert second.summary["metrics"] == first.summary["metrics"]


def test_the_order_of_the_hospitals_changes_no_bit(run, phantoms, cache_dir, tmp_path):
    job, first = run
    backwards = dict(reversed(list(phantoms.items())))
    assert (
        simulate(job, backwards, tmp_path / "two", cache_dir=cache_dir).model.head.weight.tobytes()
        == first.model.head.weight.tobytes()
    )


def test_the_model_diagnoses_as_it_was_evaluated(run, phantoms, cache_dir):
    """The folded head on raw features, image by image, gives the confusion matrix the hospitals counted."""
    job, result = run
    records = [record for folder in phantoms.values() for record in assign(read_rows(folder), job).of("test")]
    diagnostician = Diagnostician(result.folder / "model.safetensors")
    said = diagnostician.diagnose([record.path for record in records], threshold=0.0)
    confusion = np.zeros((2, 2), int)
    for record, one in zip(records, said, strict=True):
        confusion[record.label, job.classes.index(one.label)] += 1
    counted = json.loads((result.folder / "counts.json").read_text())["pooled"]["confusion"]
    assert confusion.tolist() == counted


@pytest.mark.system
def test_ray_gives_the_same_head_and_leaves_nothing_running(run, phantoms, cache_dir, tmp_path):
    job, first = run
    result = simulate(job, phantoms, tmp_path / "ray", engine="ray", cache_dir=cache_dir)
    np.testing.assert_allclose(result.model.head.weight, first.model.head.weight, atol=1e-6)
    np.testing.assert_allclose(result.model.head.bias, first.model.head.bias, atol=1e-6)
    assert result.summary["metrics"]["hospitals"].keys() == first.summary["metrics"]["hospitals"].keys()
    log = (result.folder / "ray.log").read_text()
    port = log.split("http://127.0.0.1:")[1].split()[0]
    assert not [line for line in _processes() if f"--port {port}" in line or str(tmp_path) in line]


def _processes() -> list[str]:
    """Command lines of all other processes (none where there is no /proc)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            try:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def test_what_is_wrong_is_said_before_anything_runs(job, phantoms, tmp_path):
    with pytest.raises(DataError, match=r"hospital-a: labels that are no class"):
        simulate(job(classes=["normal", "fracture"]), phantoms, tmp_path / "a")
    unknown = job(backbone={"name": "resnet18", "weights": {"file": "none.safetensors", "sha256": "0" * 64}})
    with pytest.raises(WeightsError, match="Three ways out"):
        simulate(unknown, phantoms, tmp_path / "b", weights_dir=tmp_path)
    with pytest.raises(ConfigError, match="needs 4"):
        simulate(job(quorum={"min_hospitals": 4}), phantoms, tmp_path / "c")
    with pytest.raises(ConfigError, match="unknown engine 'rai'; did you mean 'ray'"):
        simulate(job(), phantoms, tmp_path / "d", engine="rai")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_overwritten(run, phantoms, cache_dir):
    job, first = run
    before = (first.folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a finished run"):
        simulate(job, phantoms, first.folder, cache_dir=cache_dir)
    assert (first.folder / "model.safetensors").read_bytes() == before


def test_hospitals_are_found(phantoms, tmp_path):
    parent = next(iter(phantoms.values())).parent
    assert list(find_hospitals([parent])) == ["hospital-a", "hospital-b", "hospital-c"]
    assert list(find_hospitals([parent], include=["hospital-b"])) == ["hospital-b"]
    assert list(find_hospitals([parent / "hospital-c", parent / "hospital-a"])) == ["hospital-a", "hospital-c"]
    assert list(first_hospitals(find_hospitals([parent]), 2)) == ["hospital-a", "hospital-b"]
    for name in ("normal", "opacity"):
        (tmp_path / "by-class" / name).mkdir(parents=True)
    assert find_hospitals([tmp_path / "by-class"]) == {"by-class": tmp_path / "by-class"}
    with pytest.raises(ConfigError, match="did you mean 'hospital-b'"):
        find_hospitals([parent], include=["hospital_b"])
    with pytest.raises(ConfigError, match="only 3 hospitals"):
        first_hospitals(find_hospitals([parent]), 9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no hospital"):
        find_hospitals([tmp_path / "empty"])
    with pytest.raises(DataError, match="there is no folder"):
        find_hospitals([tmp_path / "none"])


def test_the_model_says_what_it_is(run):
    job, result = run
    _, manifest = load_model(result.folder / "model.safetensors")
    assert manifest.job == job
    assert manifest.hospitals == 3
    assert manifest.metrics["auroc"] == result.summary["metrics"]["pooled"]["auroc"]
    assert {"flwr", "numpy", "torch"} <= set(manifest.versions)


def test_a_killed_run_is_resumed_to_the_same_head(run, phantoms, cache_dir, tmp_path):
    """The process is killed by SIGKILL after some rounds; --resume ends with the bits of the run that was not killed."""
    job, _ = run
    long = parse_job({**job.model_dump(mode="json"), "method": {"name": "fedadam", "rounds": 60}})
    whole = simulate(long, phantoms, tmp_path / "whole", cache_dir=cache_dir)
    out = tmp_path / "killed"
    code = f"""
import os, signal
from pathlib import Path
from common.job import job_from_json
from server.recorder import Recorder
from simulation.run import simulate
save = Recorder.save
def killing(self, state):
    save(self, state)
    if state.last.number == 23:
        os.kill(os.getpid(), signal.SIGKILL)
Recorder.save = killing
job = job_from_json({long.canonical_json()!r})
simulate(job, {{k: Path(v) for k, v in { ({name: str(path) for name, path in phantoms.items()})!r}.items()}}, Path({str(out)!r}),
         cache_dir=Path({str(cache_dir)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -9, done.stderr.decode()
    assert not (out / "summary.json").exists()
    resumed = simulate(long, phantoms, out, cache_dir=cache_dir, resume=True)
    assert resumed.model.head.weight.tobytes() == whole.model.head.weight.tobytes()
    assert resumed.summary["resumed_after_round"] == 23
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, 61))
