"""Jobs with secure aggregation: the same head as without, whoever drops out when, and nothing of a single hospital on the way."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

import simulation.run
from client.app import app as client_app
from client.diagnosis import Diagnostician
from client.phantom import make_phantoms
from client.records import assign, read_rows
from common.errors import FederationError
from common.flower_records import MESSAGE_TYPES, from_records
from common.job import parse_job
from common.packed import REFUSAL
from common.wire import problem_with, reply_schema
from server.recorder import Recorder
from server.summary_table import print_summary
from simulation.run import simulate

KINDS = {kind: name for name, kind in MESSAGE_TYPES.items()}
ANALYTIC = {"name": "analytic", "ridge": [0.1, 1.0]}
SECURE = {"secure_aggregation": True}
PHASES = ("keys", "shares", "masked", "confirm", "unmask")


def job(method=ANALYTIC, name="secure", **changes):
    return parse_job(
        {
            "name": name,
            "classes": ["normal", "opacity"],
            "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 3}},
            "image": {"size": 64},
            "features": {"stages": "last", "pool": ["mean"]},
            "method": method,
            "seed": 5,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("phantoms"), hospitals=20, images=24)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(phantoms, cache, tmp_path):
    def make(one, hospitals, out, **options):
        chosen = dict(list(phantoms.items())[:hospitals]) if isinstance(hospitals, int) else hospitals
        return simulate(one, chosen, tmp_path / out, cache_dir=cache, device="cpu", **options)

    return make


@pytest.fixture
def silent(monkeypatch):
    """Makes hospitals silent in some phase of every session, and collects all replies of the others."""
    replies = []

    def make(names=(), phase=None):
        def answering(message, context):
            kind = KINDS[message.metadata.message_type]
            hospital = str(context.node_config["hospital-name"])
            if hospital in names and kind == phase:
                raise RuntimeError("this hospital has gone")
            reply = client_app(message, context)
            replies.append((hospital, kind, from_records(message.content), from_records(reply.content)))
            return reply

        monkeypatch.setattr(simulation.run, "client_app", answering)
        return replies

    return make


def dies_at(number, monkeypatch):
    """The coordinator dies before it saves the checkpoint of a round; gives what saves it."""
    real = Recorder.save

    def dying(self, state):
        if state.last.number == number:
            raise KeyboardInterrupt
        real(self, state)

    monkeypatch.setattr(Recorder, "save", dying)
    return real


def far(one, other):
    """Largest difference of two heads, relative to the largest weight."""
    size = np.abs(other.model.head.weight).max()
    both = zip(
        (one.model.head.weight, one.model.head.bias), (other.model.head.weight, other.model.head.bias), strict=True
    )
    return max(np.abs(a - b).max() for a, b in both) / size


def with_sex(folders, folder, column=True):
    """A hospital of the images of some others: every second patient of a class is a woman, twelve are in test."""
    folder.mkdir()
    rows = sorted(
        (row.label, f"{one.name}-{row.patient_id}", row.path.resolve()) for one in folders for row in read_rows(one)
    )
    numbers = {}
    for label in ("normal", "opacity"):
        patients = sorted({patient for other, patient, _ in rows if other == label} - set(numbers))
        numbers |= {patient: number for number, patient in enumerate(patients)}
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id", "split", *(["sex"] if column else [])])
        for label, patient, path in rows:
            number = numbers[patient]
            part = "test" if number < (12 if column else 4) else "train"
            writer.writerow([path, label, patient, part, *([("f", "m")[number % 2]] if column else [])])
    return folder


def test_counts_by_group_are_those_without_secure_aggregation(run, phantoms, silent, tmp_path):
    replies = silent()
    folders = [phantoms[f"hospital-{letter}"] for letter in "bdcge"]
    hospitals = {
        "a": with_sex(folders[:2], tmp_path / "a"),
        "b": with_sex(folders[2:4], tmp_path / "b"),
        "c": with_sex(folders[4:], tmp_path / "c", column=False),
    }
    by_sex = {"evaluation": {"groups": ["sex"]}}
    plain, secure = (
        run(job(name="groups", **by_sex), hospitals, "plain"),
        run(job(name="groups", privacy=SECURE, **by_sex), hospitals, "secure"),
    )
    sexes, summed = (one.summary["groups"]["sex"] for one in (plain, secure))
    own = json.loads((plain.folder / "counts.json").read_text())["groups"]["confusion"]
    assert not np.any(own["c"])
    assert [sexes[sex]["hospitals"] for sex in ("female", "male")] == [2, 2]
    assert [summed[sex]["hospitals"] for sex in ("female", "male")] == [None, None]
    for sex in ("female", "male"):
        assert summed[sex]["n"] == sexes[sex]["n"] > 20
        assert summed[sex]["accuracy"] == pytest.approx(sexes[sex]["accuracy"], abs=0.05)
    told = json.loads((secure.folder / "counts.json").read_text())["groups"]["confusion"]
    assert list(told) == ["pooled"]
    assert "saw sums over hospitals only" in (secure.folder / "MODEL_CARD.md").read_text()
    secured = [kind for _, kind, request, _ in replies if '"secure_aggregation":true' in str(request.fields["job"])]
    assert "masked" in secured
    assert not {"groups", "evaluate"} & set(secured)


@pytest.mark.parametrize("hospitals", [3, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_the_head_is_that_without_secure_aggregation(run, hospitals):
    plain, secure = run(job(), hospitals, "plain"), run(job(privacy=SECURE), hospitals, "secure")
    assert far(secure, plain) < 1e-4
    found, expected = (result.summary["metrics"]["pooled"] for result in (secure, plain))
    assert {name: found[name] for name in ("n", "auroc", "accuracy")} == {
        name: expected[name] for name in ("n", "auroc", "accuracy")
    }
    assert found["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-5)
    assert secure.summary["metrics"]["hospitals"] == {}
    assert secure.summary["taking_part"] == plain.summary["taking_part"]


@pytest.mark.parametrize("method", ["fedavg", "fedadam"])
def test_rounds_of_training_give_the_same_head(run, method):
    plain = run(job({"name": method, "rounds": 3}), 4, "plain")
    secure = run(job({"name": method, "rounds": 3}, privacy=SECURE), 4, "secure")
    assert far(secure, plain) < 1e-4
    assert secure.summary["best_round"] == plain.summary["best_round"]


@pytest.mark.parametrize(
    ("hospitals", "lost", "phase"),
    [
        *((3, 1, phase) for phase in PHASES),
        *((5, 1, phase) for phase in ("masked", "unmask")),
        *(pytest.param(5, 1, phase, marks=pytest.mark.slow) for phase in ("keys", "shares", "confirm")),
        *(pytest.param(20, 6, phase, marks=pytest.mark.slow) for phase in PHASES),
    ],
)
def test_hospitals_may_drop_out_in_any_phase(run, silent, phantoms, phase, hospitals, lost):
    names = list(phantoms)[:hospitals]
    replies = silent(names[:lost], phase)
    secure = run(job(privacy=SECURE), hospitals, "secure")
    # Who sent its masked numbers is in the sum, whatever happens to it afterwards; the confirmation is asked after a loss only.
    counted = names[lost:] if phase in ("keys", "shares", "masked") else names
    silent()
    plain = run(job(), {name: phantoms[name] for name in counted}, "plain")
    assert far(secure, plain) < 1e-4
    if phase == "masked":
        assert any(kind == "confirm" for _, kind, _, _ in replies)


@pytest.mark.parametrize("phase", ["keys", "shares", "masked", "unmask"])
def test_below_the_threshold_nothing_is_opened(run, silent, phantoms, tmp_path, phase, monkeypatch):
    kept = tmp_path / "kits"
    kept.mkdir()
    monkeypatch.setattr(simulation.run, "make_kits", lambda _, names: made(kept, names))
    made = simulation.kits.make_kits
    replies = silent(list(phantoms)[:2], phase)
    monkeypatch.setattr(simulation.run, "ROSTER", str(kept / "roster.txt"))
    with pytest.raises(FederationError, match=rf"could not be summed: .*{phase}: the hospital's app failed"):
        run(job(privacy=SECURE), 3, "run")
    assert not [path for path in (tmp_path / "run").rglob("opened/*")]
    if phase != "unmask":
        assert not list(kept.rglob("opened-sums/*"))
        assert not [kind for _, kind, _, _ in replies if kind == "unmask"]


def test_no_plain_number_is_in_any_reply(run, silent):
    replies = silent()
    one = job({"name": "fedavg", "rounds": 2, "warm_start": "analytic"}, privacy=SECURE)
    run(one, 3, "secure")
    assert {kind for _, kind, _, _ in replies} == {"describe", "keys", "shares", "masked", "unmask"}
    for _, kind, _, reply in replies:
        assert REFUSAL not in reply.fields
        if kind == "masked":
            vector = reply.arrays["vector"]
            # Uniform over 2^64: the top bytes of plain numbers, which are far below it, would be 0 or 255.
            top = np.bincount((vector >> np.uint64(56)).astype(int), minlength=256)
            assert top.max() < len(vector) / 256 + 8 * np.sqrt(len(vector) / 256) + 8
            continue
        sizes = {"P": 3, "C": 2, "D": one.num_features}
        assert problem_with(reply, reply_schema(kind, one, {}), sizes) is None
        assert not [name for name, array in reply.arrays.items() if array.dtype != np.uint8]
    # Of the plain answer only digests and names are left.
    described = [reply for _, kind, _, reply in replies if kind == "describe"]
    assert all(
        not reply.arrays and not [v for v in reply.fields.values() if not isinstance(v, str)] for reply in described
    )


def test_a_coordinator_that_dies_between_a_sum_and_its_checkpoint_goes_on_to_the_same_bits(run, monkeypatch, tmp_path):
    kept = tmp_path / "kits"
    kept.mkdir()
    made = simulation.kits.make_kits
    found = made(kept, ["hospital-a", "hospital-b", "hospital-c"])
    monkeypatch.setattr(
        simulation.run, "make_kits", lambda folder, _: (shutil.copy(kept / "roster.txt", folder), found)[1]
    )
    one = job({"name": "fedavg", "rounds": 3}, privacy=SECURE)
    real = dies_at(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(one, 3, "broken")
    assert list((tmp_path / "broken").rglob("opened/fit-of-2-*"))
    monkeypatch.setattr(Recorder, "save", real)
    resumed = run(one, 3, "broken", resume=True)
    monkeypatch.undo()
    whole = run(one, 3, "whole")
    assert resumed.model.head.weight.tobytes() == whole.model.head.weight.tobytes()
    # The same hospitals open nothing a second time.
    monkeypatch.setattr(
        simulation.run, "make_kits", lambda folder, _: (shutil.copy(kept / "roster.txt", folder), found)[1]
    )
    with pytest.raises(FederationError, match="declined: secure-sum"):
        run(one, 3, "again")


def test_a_private_job_leaves_no_count_of_training_patients(run, silent, tmp_path):
    replies = silent()
    privacy = {**SECURE, "differential_privacy": {"epsilon": 1000.0}}
    result = run(job({"name": "dp-gd", "rounds": 3}, privacy=privacy), 3, "private")
    purposes = {str(reply.fields["purpose"]) for _, kind, _, reply in replies if kind == "masked"}
    assert {one.partition(":")[0] for one in purposes} == {"centre", "gradient", "evaluate"}
    assert not [one for one in purposes if one.startswith("evaluate:validation")]
    assert result.summary["hospitals"] == {}
    assert 30 <= result.summary["patients"] <= 60
    page = (tmp_path / "private" / "report.html").read_text()
    assert "epsilon 1000, delta 1e-05" in page
    assert "validation" not in {path.name for path in (tmp_path / "private").iterdir()}


def test_a_private_closed_form_runs(run):
    privacy = {**SECURE, "differential_privacy": {"epsilon": 1000.0}}
    result = run(job({"name": "analytic", "projection": 64}, privacy=privacy), 3, "private")
    assert result.summary["metrics"]["pooled"]["n"] > 0
    assert np.isfinite(result.model.head.weight).all()


def test_a_private_run_that_dies_goes_on_and_asks_no_sum_again(run, silent, monkeypatch, tmp_path):
    kept = tmp_path / "kits"
    kept.mkdir()
    found = simulation.kits.make_kits(kept, ["hospital-a", "hospital-b", "hospital-c"])
    monkeypatch.setattr(
        simulation.run, "make_kits", lambda folder, _: (shutil.copy(kept / "roster.txt", folder), found)[1]
    )
    one = job({"name": "dp-gd", "rounds": 4}, privacy={**SECURE, "differential_privacy": {"epsilon": 1000.0}})
    replies = silent()
    real = dies_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(one, 3, "private")
    monkeypatch.setattr(Recorder, "save", real)
    resumed = run(one, 3, "private", resume=True)
    assert resumed.summary["rounds"] == resumed.summary["best_round"] == 4
    assert resumed.summary["resumed_after_round"] == 2
    asked = [
        str(reply.fields["purpose"]) for name, kind, _, reply in replies if kind == "masked" and name == "hospital-a"
    ]
    assert asked[:5] == ["centre", *(f"gradient:{number}" for number in range(1, 5))]
    assert len(set(asked)) == len(asked)


def test_a_private_model_diagnoses_images_as_it_counted_them(run, phantoms, tmp_path):
    privacy = {**SECURE, "differential_privacy": {"epsilon": 1000.0}}
    one = job({"name": "dp-gd", "rounds": 5}, privacy=privacy)
    result = run(one, 3, "private")
    records = [record for name in list(phantoms)[:3] for record in assign(read_rows(phantoms[name]), one).of("test")]
    found = Diagnostician(tmp_path / "private" / "model.safetensors", device="cpu").diagnose(
        [record.path for record in records], 0.0
    )
    right = sum(each.label == one.classes[record.label] for each, record in zip(found, records, strict=True))
    assert len(records) == result.summary["metrics"]["pooled"]["n"]
    assert right / len(records) == pytest.approx(result.summary["metrics"]["pooled"]["accuracy"])


def test_the_report_of_a_secure_run_has_no_row_of_a_hospital(run, tmp_path):
    secure = run(job(privacy=SECURE), 3, "secure")
    page = (tmp_path / "secure" / "report.html").read_text()
    assert "secure aggregation: the coordinator saw sums over hospitals only" in page
    assert "<h2>Test patients</h2>" in page
    assert "Not known: nothing was told by hospital." in page
    assert 'class="hospital"' not in page and 'class="worst"' not in page  # noqa: PT018
    assert list(secure.summary["hospitals"]) == ["all hospitals"]
    console = Console(file=io.StringIO(), width=100)
    print_summary(secure.summary, console)
    told = console.file.getvalue()
    assert "worst" not in told and "3 hospitals took part" in told  # noqa: PT018
