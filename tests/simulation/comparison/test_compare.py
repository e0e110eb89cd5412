"""Whole comparisons of phantom hospitals."""

import csv
import json
import shutil

import pytest

import client.features
import simulation.comparison.trainings
from client.phantom import make_phantoms
from client.records import assign, read_rows
from common.errors import ConfigError, DataError, FederationError
from common.job import parse_job
from server.run_directory import read_run
from simulation.comparison.compare import compare
from simulation.comparison.files import write_comparison
from simulation.pooling import Machine, pool, records_of

CONTENT = {
    "name": "quick",
    "classes": ["normal", "opacity"],
    "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
    "image": {"size": 64},
    "method": {"name": "fedavg", "rounds": 3},
    "evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2},
    "seed": 3,
}
ROWS = ("alone", "pooled", "random-backbone", "job", "analytic-last", "fedavg", "krum")


@pytest.fixture(scope="module")
def hospitals(phantoms, tmp_path_factory):
    """The phantoms and one hospital that has a single class."""
    folder = tmp_path_factory.mktemp("one-class") / "hospital-d"
    shutil.copytree(
        make_phantoms(folder.parent / "made", hospitals=1, images=30, seed=5, size_px=64)["hospital-a"], folder
    )
    header, *lines = (folder / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if ",normal," in line]
    (folder / "manifest.csv").write_text("\n".join([header, *kept]) + "\n")
    return {**phantoms, "hospital-d": folder}


@pytest.fixture(scope="module")
def made(hospitals, tmp_path_factory):
    """A comparison with two seeds, its folder, its cache, how often each image was decoded, and what was told meanwhile."""
    out, cache = tmp_path_factory.mktemp("compare") / "out", tmp_path_factory.mktemp("compare-cache")
    decoded, told = [], []
    decode = client.features.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.features, "decode", lambda path, *rest: decoded.append(path) or decode(path, *rest))
        found = compare(CONTENT, hospitals, out, rows=ROWS, seeds=2, machine=Machine(None, cache), told=told.append)
    write_comparison(found, out)
    return found, out, cache, decoded, told


def by_name(found):
    return {row.name: row for row in found.rows}


def test_the_rows_are_there(made):
    found, *_ = made
    alone = [f"hospital-{letter} alone" for letter in "abcd"]
    assert [row.name for row in found.rows] == [
        *alone,
        "all images in one place",
        "random-backbone",
        "analytic-last",
        "fedavg",
        "krum",
    ]
    assert found.notes == ["fedavg is the job as it is written."]
    assert list(found.seeds) == [3, 4]


def test_all_rows_are_judged_on_the_same_test_images(made, hospitals):
    found, *_ = made
    for index, seed in enumerate((3, 4)):
        job = parse_job({**CONTENT, "seed": seed})
        images = sum(len(assign(read_rows(folder), job).of("test")) for folder in hospitals.values())
        assert {row.runs[index].images for row in found.rows if row.runs} == {images}


def test_what_has_no_figures_says_why(made):
    rows = by_name(made[0])
    assert "training images are of class normal" in rows["hospital-d alone"].reason
    assert "random weights" in rows["random-backbone"].reason
    assert {row.name for row in made[0].rows if row.reason} == {"hospital-d alone", "random-backbone"}


def test_costs(made):
    rows = by_name(made[0])
    assert rows["analytic-last"].cost["rounds"] == 1
    assert rows["fedavg"].cost["rounds"] == 3
    assert rows["all images in one place"].cost["bytes_per_hospital"] is None
    assert rows["hospital-a alone"].cost["bytes_per_hospital"] is None
    run = rows["fedavg"].runs[0]
    sent = read_run(made[1] / run.folder).summary["communication"]
    assert run.bytes_per_hospital == (sent["bytes_up"] + sent["bytes_down"]) / 4
    assert 0 < run.seconds < 60


def test_a_pooled_model_is_judged_at_the_hospitals_as_in_its_own_run(made):
    found, out, *_ = made
    for run in by_name(found)["all images in one place"].runs:
        own = read_run(out / run.folder).summary["metrics"]["pooled"]
        for metric in ("accuracy", "sensitivity", "f1", "auroc", "ece"):
            assert run.metrics[metric] == pytest.approx(own[metric], abs=1e-6)


def test_each_image_is_decoded_once(made):
    found, _, _, decoded, _ = made
    assert len(decoded) == len(set(decoded)) == found.decoded > 120


def test_progress_is_told(made):
    told = made[4]
    assert [step.done for step in told] == list(range(1, 15))
    assert {step.total for step in told} == {14}
    assert {step.seed for step in told if step.row == "krum"} == {3, 4}


def test_the_files_are_there_and_agree(made):
    found, out, *_ = made
    plain = json.loads((out / "compare.json").read_text())
    with (out / "compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [row["row"] for row in plain["rows"]] == [row.name for row in found.rows]
    for row in plain["rows"]:
        for run in row["runs"]:
            (line,) = [one for one in lines if (one["row"], one["seed"]) == (row["row"], str(run["seed"]))]
            assert float(line["auroc"]) == run["auroc"]
            assert (out / run["folder"] / "report.html").exists()
    page = (out / "compare.html").read_text()
    assert "krum" in page
    assert plain["test_images"] == list(found.images)


def test_going_on_trains_nothing_again_and_says_the_same(made, hospitals, monkeypatch):
    found, out, cache, *_ = made

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(simulation.comparison.trainings, "simulate", never)
    again = compare(CONTENT, hospitals, out, rows=ROWS, seeds=2, machine=Machine(None, cache))
    assert again.rows == found.rows
    assert again.decoded == 0


def test_a_training_that_was_cut_off_is_done_anew(made, hospitals, tmp_path):
    found, out, cache, *_ = made
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "runs" / "fedavg" / "seed-4" / "summary.json").unlink()
    again = compare(CONTENT, hospitals, copy, rows=("fedavg",), seeds=2, machine=Machine(None, cache))
    assert [run.metrics for run in again.rows[0].runs] == [run.metrics for run in by_name(found)["fedavg"].runs]


def test_a_row_that_fails_is_shown_and_ends_nothing(made, hospitals, tmp_path, monkeypatch):
    simulate = simulation.comparison.trainings.simulate

    def failing(job, *rest, **more):
        if job.method.name == "fedprox" and job.seed == 4:
            raise FederationError("no round had a quorum")
        return simulate(job, *rest, **more)

    monkeypatch.setattr(simulation.comparison.trainings, "simulate", failing)
    rows = ("fedprox", "fedavg")
    found = compare(CONTENT, hospitals, tmp_path / "out", rows=rows, seeds=2, machine=Machine(None, made[2]))
    failed, good = found.rows
    assert failed.reason == "failed with seed 4: no round had a quorum"
    assert failed.mean("auroc") is None
    assert len(failed.runs) == 1
    assert good.mean("auroc") is not None
    few = {name: hospitals[name] for name in ("hospital-a", "hospital-b")}
    found = compare(CONTENT, few, tmp_path / "few", rows=("krum",), machine=Machine(None, made[2]))
    assert "needs 3" in found.rows[0].reason


def test_the_folder_of_another_comparison_is_refused(made, hospitals, tmp_path):
    _, out, cache, *_ = made
    few = {name: hospitals[name] for name in ("hospital-a", "hospital-b")}
    with pytest.raises(ConfigError, match="comparison of another job, or of other images"):
        compare(CONTENT, few, out, rows=("fedavg",), machine=Machine(None, cache))
    with pytest.raises(ConfigError, match="comparison of another job, or of other images"):
        compare({**CONTENT, "seed": 8}, hospitals, out, rows=("fedavg",), machine=Machine(None, cache))
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="is of no comparison"):
        compare(CONTENT, hospitals, tmp_path, rows=("fedavg",), machine=Machine(None, cache))


def test_what_is_wrong_is_said_before_anything_runs(hospitals, tmp_path):
    with pytest.raises(ConfigError, match="unknown row 'fedprx'; did you mean 'fedprox'"):
        compare(CONTENT, hospitals, tmp_path / "a", rows=("fedprx",))
    with pytest.raises(DataError, match=r"hospital-a: labels that are no class"):
        compare({**CONTENT, "classes": ["normal", "fracture"]}, hospitals, tmp_path / "b")
    with pytest.raises(ConfigError, match=r"needs 9 \(quorum.min_hospitals\)"):
        compare({**CONTENT, "quorum": {"min_hospitals": 9}}, hospitals, tmp_path / "c")
    with pytest.raises(ConfigError, match="leave `privacy` out of the job"):
        compare({**CONTENT, "privacy": {"secure_aggregation": True}}, hospitals, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_hospital_without_training_images_is_left_out(hospitals, tmp_path, made):
    folder = tmp_path / "hospital-e"
    shutil.copytree(hospitals["hospital-d"], folder)
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text(
        "\n".join([f"{lines[0]},split", *(f"{line},test" for line in lines[1:])]) + "\n"
    )
    some = {**hospitals, "hospital-e": folder}
    found = compare(CONTENT, some, tmp_path / "out", rows=("fedavg",), machine=Machine(None, made[2]))
    assert found.notes == ["hospital-e is left out: with seed 3 it has no training image."]
    assert list(found.hospitals) == list(hospitals)


def test_pooling_keeps_every_patient_in_its_part(hospitals, tmp_path):
    """Also where two hospitals call different patients the same."""
    twice = {"one": hospitals["hospital-a"], "two": hospitals["hospital-b"]}
    for seed in (3, 4):
        job = parse_job({**CONTENT, "seed": seed})
        apart = {one.path.resolve(): one.part for found in records_of(twice, job).values() for one in found.records}
        pooled = assign(read_rows(pool(twice, job, tmp_path / "pooled")), job)
        assert {one.path: one.part for one in pooled.records} == apart
        assert len({one.patient_id for one in pooled.records}) == sum(
            len({one.patient_id for one in found.records}) for found in records_of(twice, job).values()
        )


def test_a_tuned_backbone_is_judged_with_its_tuned_arrays(made, hospitals, tmp_path):
    deep = {
        **CONTENT,
        "tune": {"part": "last-blocks", "blocks": 1, "views": 1, "lr": 0.003},
        "method": {"name": "fedavg", "rounds": 2, "optimizer": "adam", "lr": 0.003},
    }
    some = {name: hospitals[name] for name in ("hospital-a", "hospital-b")}
    found = compare(deep, some, tmp_path / "out", rows=("pooled",), machine=Machine(None, made[2]))
    (row,) = found.rows
    assert row.reason is None
    own = read_run(tmp_path / "out" / row.runs[0].folder).summary["metrics"]["pooled"]
    assert row.runs[0].metrics["auroc"] == pytest.approx(own["auroc"], abs=1e-6)
