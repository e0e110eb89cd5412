import errno
import logging
import shutil
import sqlite3

import numpy as np
import pytest
import torch

from client import preparation as module
from client.training import Examples, seed_of, train_head
from common.errors import ConfigError, DataError, RefusalCode, WeightsError
from common.messages import Description, unpack_counts
from common.metrics import count
from common.model import Model
from common.phases import PHASE_REQUESTS
from common.wire import (
    EVALUATED_PARTS,
    MAX_HEADS,
    PARTS,
    PERSONALISED,
    REFUSAL,
    REQUESTS,
    Packed,
    dimensions,
    problem_with,
    reply_schema,
)

SECRET = "/data/patient-0815/Doe^Jane.dcm"


def code(reply: Packed) -> str:
    assert not reply.arrays
    assert set(reply.fields) == {REFUSAL}
    return str(reply.fields[REFUSAL])


@pytest.fixture
def hospital(phantoms, hospital_with):
    return hospital_with(phantoms["hospital-a"])


@pytest.fixture
def asked(job, hospital, requests_of):
    return requests_of(job(), hospital)


@pytest.fixture
def parts_of(phantoms, hospital_with, requests_of, manifest_of, tmp_path):
    """A pooled hospital and two others that divide its images, and the requests to them all."""

    def make(job):
        folder = phantoms["hospital-a"]
        halves = [manifest_of(tmp_path / f"{step}.csv", folder, slice(step, None, 2)) for step in (0, 1)]
        hospitals = [hospital_with(manifest_of(tmp_path / "all.csv", folder)), *map(hospital_with, halves)]
        return hospitals, requests_of(job, hospitals[0])

    return make


EVERYTHING = {
    "method": {"name": "fedavg", "rounds": 4, "warm_start": "analytic"},
    "evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2, "cross_site": True},
    "personalisation": {"epochs": 1},
}
"""A job that asks for every kind but the pretrained arrays."""


def test_every_reply_is_on_the_allow_list(hospital, job, requests_of):
    asked = requests_of(job(**EVERYTHING), hospital)

    def problem(kind, request, heads=1):
        reply = hospital.answer(kind, request)
        return problem_with(reply, reply_schema(kind, asked.job, {}), dimensions(asked.job, heads))

    assert problem("describe", asked.describe()) is None
    assert problem("fit", asked.fit()) is None
    assert problem("statistics", asked.statistics()) is None
    assert problem("own", asked.statistics()) is None
    for part in EVALUATED_PARTS:
        assert problem("evaluate", asked.evaluate(part, heads=2), 2) is None
        assert problem("personalise", asked.personalise(part), len(PERSONALISED)) is None


def in_kind(asked, kind, number=1):
    """A well-formed request of a kind."""
    made = {
        "describe": asked.describe,
        "initial": asked.about,
        "statistics": asked.statistics,
        "own": asked.statistics,
        "distances": asked.distances,
        "fit": lambda: asked.fit(number),
        "evaluate": lambda: asked.evaluate(number=number),
        "personalise": lambda: asked.personalise(number=number),
        "groups": lambda: asked.fit(number),
    }
    return made[kind]()


ANALYTIC = {"method": "analytic", "features": {"stages": "last"}}
CROSS_SITE = {"evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2, "cross_site": True}}
ASKED = {
    "describe": ([{}, ANALYTIC], []),
    "evaluate": ([{}, ANALYTIC], []),
    "distances": ([{}, ANALYTIC, EVERYTHING], [{"privacy": {"secure_aggregation": True}}]),
    "statistics": ([ANALYTIC, EVERYTHING], [{}, {"method": "scaffold"}, CROSS_SITE]),
    "fit": ([{}, EVERYTHING], [ANALYTIC, {**ANALYTIC, **CROSS_SITE}]),
    "own": ([CROSS_SITE, {**ANALYTIC, **CROSS_SITE}], [{}, ANALYTIC, {"personalisation": {}}]),
    "personalise": ([{"personalisation": {"epochs": 1}}, EVERYTHING], [{}, ANALYTIC, CROSS_SITE]),
    "groups": ([{"evaluation": {"groups": ["sex"]}}], [{}, ANALYTIC, EVERYTHING]),
    "initial": ([{"tune": {"part": "last-blocks", "blocks": 1}}], [{}, ANALYTIC, EVERYTHING]),
}
"""By kind: jobs that ask for it, and jobs that do not."""


OF_DUPLICATES = ("duplicates", "collisions")  # tests/client/test_duplicate_keys.py


@pytest.mark.parametrize(
    "kind", [kind for kind in REQUESTS if kind not in PHASE_REQUESTS and kind not in OF_DUPLICATES]
)
def test_a_hospital_answers_what_the_job_asks_for_and_nothing_else(kind, phantoms, hospital_with, job, requests_of):
    hospital = hospital_with(phantoms["hospital-a"], allow_tuning=("head", "last-blocks"), allow_groups=("sex",))
    asking, others = ASKED[kind]
    for changes in asking:
        assert REFUSAL not in hospital.answer(kind, in_kind(requests_of(job(**changes), hospital), kind)).fields
    for changes in others:
        assert code(hospital.answer(kind, in_kind(requests_of(job(**changes), hospital), kind))) == "bad-request"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("fit", (1, 4), (-1, 0, 5, 10**9)), ("evaluate", (0, 1, 4), (-1, 5, 2**62)), ("personalise", (0, 4), (-1, 5))],
)
def test_a_request_is_about_a_round_of_the_job(kind, good, bad, hospital, job, requests_of):
    """A round is a file at the hospital, and another seed: no more of them than were agreed on."""
    asked = requests_of(job(**EVERYTHING), hospital)
    for number in good:
        assert REFUSAL not in hospital.answer(kind, in_kind(asked, kind, number)).fields
    for number in bad:
        assert code(hospital.answer(kind, in_kind(asked, kind, number))) == "bad-request"


def test_a_closed_form_job_has_one_round(hospital, job, requests_of):
    asked = requests_of(job(**ANALYTIC), hospital)
    assert [REFUSAL in hospital.answer("evaluate", asked.evaluate(number=number)).fields for number in (0, 1, 2)] == [
        False,
        False,
        True,
    ]


def test_a_reply_that_departs_from_the_allow_list_stays_here(hospital, asked, monkeypatch):
    leaky = {**hospital.answer("describe", asked.describe()).fields, "first-path": SECRET}
    monkeypatch.setattr(type(hospital), "_describe", lambda *_: Packed({}, leaky))
    assert code(hospital.answer("describe", asked.describe())) == "internal-error"


def test_a_description_counts_what_is_there(hospital, asked, phantoms):
    told = Description.unpack(hospital.answer("describe", asked.describe()))
    assert told.images.sum() == 40
    assert told.examples == told.images[0].sum()
    assert (told.patients <= told.images.sum(axis=1)).all()
    assert (told.decoded, told.cached) == (0, 40)
    assert told.space.job_id == asked.job.job_id


@pytest.mark.parametrize("views", [1, 3])
def test_sums_of_any_split_are_the_pooled_sums(parts_of, job, views):
    hospitals, asked = parts_of(job(features={"views": views}))
    pooled, *others = [Description.unpack(one.answer("describe", asked.describe())) for one in hospitals]
    assert all(one.examples > 0 for one in others)
    assert pooled.examples == sum(one.examples for one in others) == views * pooled.images[0].sum()
    np.testing.assert_array_equal(pooled.images, sum(one.images for one in others))
    np.testing.assert_allclose(pooled.sums, sum(one.sums for one in others), rtol=1e-12)
    np.testing.assert_allclose(pooled.squares, sum(one.squares for one in others), rtol=1e-12)


def test_counts_of_any_split_are_the_pooled_counts(parts_of, job):
    hospitals, asked = parts_of(job())
    for part in EVALUATED_PARTS:
        replies = [one.answer("evaluate", asked.evaluate(part)) for one in hospitals]
        pooled, left, right = [unpack_counts(reply.arrays) for reply in replies]
        for whole, one, other in zip(pooled, left, right, strict=True):
            assert whole.n > 0
            both = one + other
            for name in ("confusion", "histograms", "calibration", "losses"):
                np.testing.assert_array_equal(getattr(whole, name), getattr(both, name))


def test_fit_is_local_training_on_standardised_training_examples(hospital, asked):
    reply = hospital.answer("fit", asked.fit(number=4))
    raw = hospital._part.prepared.parts
    parts = {part: Examples(asked.standardisation.apply(raw[part].features), raw[part].labels) for part in PARTS}
    seed = seed_of(asked.job.seed, 4, "st-marys")
    trained = train_head(asked.head(), parts["train"], asked.job.method.local, seed)
    np.testing.assert_array_equal(Model.from_arrays(reply.arrays).head.weight, trained.head.weight)
    assert reply.fields["loss-sum"] == trained.loss_sum
    assert reply.fields["examples"] == len(parts["train"])
    probabilities = asked.head().probabilities(parts["validation"].features)
    expected = count(probabilities, parts["validation"].labels)
    np.testing.assert_array_equal(unpack_counts(reply.arrays)[0].histograms, expected.histograms)


def test_every_request_is_answered_with_its_own_standardisation(hospital, asked):
    first = hospital.answer("evaluate", asked.evaluate())
    other = with_arrays(asked.evaluate(), mean=np.full(512, 3, np.float16))
    assert not np.array_equal(hospital.answer("evaluate", other).arrays["losses"], first.arrays["losses"])
    again = hospital.answer("evaluate", asked.evaluate())
    np.testing.assert_array_equal(again.arrays["losses"], first.arrays["losses"])


def test_an_image_added_or_changed_is_seen_when_describing_again(phantoms, job, hospital_with, requests_of, tmp_path):
    shutil.copytree(phantoms["hospital-a"], tmp_path / "own")
    hospital = hospital_with(tmp_path / "own")
    asked = requests_of(job(evaluation={"test_fraction": 0.0, "validation_fraction": 0.0}), hospital)
    before = Description.unpack(hospital.answer("describe", asked.describe()))
    one, other = sorted((tmp_path / "own" / "images").iterdir())[:2]
    one.write_bytes(other.read_bytes())
    hospital.answer("fit", asked.fit())
    after = Description.unpack(hospital.answer("describe", asked.describe()))
    assert not np.array_equal(before.sums, after.sums)
    np.testing.assert_array_equal(before.images, after.images)


def with_arrays(request: Packed, **arrays) -> Packed:
    return Packed({**request.arrays, **arrays}, request.fields)


def with_fields(request: Packed, **fields) -> Packed:
    return Packed(request.arrays, {**request.fields, **fields})


def test_malformed_requests_are_refused(hospital, asked):
    fit, evaluate = asked.fit(), asked.evaluate()
    weight = np.full((2, 512), np.nan, np.float32)
    bad = {
        "NaN": ("fit", with_arrays(fit, weight=weight)),
        "dtype": ("fit", with_arrays(fit, weight=weight.astype(np.float64))),
        "shape": ("fit", with_arrays(fit, bias=np.zeros(3, np.float32))),
        "scale 0": ("fit", with_arrays(fit, scale=np.zeros(512, np.float16))),
        "no array": ("fit", with_arrays(fit, weight=[[1.0]])),
        "extra": ("fit", with_fields(fit, path="/etc/passwd")),
        "round": ("fit", with_fields(fit, round=-1)),
        "no head": (
            "evaluate",
            with_arrays(evaluate, **{name: evaluate.arrays[name][:0] for name in ("weight", "bias")}),
        ),
        "part": ("evaluate", with_fields(evaluate, part="everything")),
        "training patients": ("evaluate", with_fields(evaluate, part="train")),
        "too many heads": ("evaluate", asked.evaluate(heads=MAX_HEADS + 1)),
        "fingerprint": ("fit", with_fields(fit, fingerprint="0" * 64)),
        "fingerprint of evaluate": ("evaluate", with_fields(evaluate, fingerprint="0" * 64)),
        "kind": ("images", fit),
        "job": ("describe", Packed({}, {"job": "{}"})),
        "no text": ("describe", Packed({}, {"job": 7})),
        "nothing": ("describe", Packed()),
        "not canonical": ("describe", Packed({}, {"job": asked.job.model_dump_json(indent=1)})),
    }
    codes = {name: code(hospital.answer(kind, request)) for name, (kind, request) in bad.items()}
    assert codes == dict.fromkeys(bad, "bad-request")


def test_the_policy_is_asked_before_anything_is_read(phantoms, hospital_with, job, monkeypatch):
    monkeypatch.setattr(module, "read_rows", lambda source: pytest.fail("read"))
    request = Packed({}, {"job": job().canonical_json()})
    careful = hospital_with(phantoms["hospital-a"], approve="manual")
    assert code(careful.answer("describe", request)) == "job-not-approved"
    other = hospital_with(phantoms["hospital-a"], allow_backbones=("resnet50",))
    assert code(other.answer("describe", request)) == "against-policy"


@pytest.mark.parametrize("views", [1, 8])
def test_too_few_training_images_are_refused_however_many_views_they_have(phantoms, hospital_with, job, views):
    request = Packed({}, {"job": job(features={"views": views}).canonical_json()})
    careful = hospital_with(phantoms["hospital-a"], min_examples=40)
    assert code(careful.answer("describe", request)) == "too-few-examples"
    assert REFUSAL not in hospital_with(phantoms["hospital-a"], min_examples=10).answer("describe", request).fields


def test_unreadable_images_are_a_data_problem_or_are_counted(phantoms, job, hospital_with, tmp_path):
    shutil.copytree(phantoms["hospital-b"], tmp_path / "own")
    for path in sorted((tmp_path / "own" / "images").iterdir())[:2]:
        path.write_bytes(b"")
    request = Packed({}, {"job": job().canonical_json()})
    assert code(hospital_with(tmp_path / "own").answer("describe", request)) == "data-problem"
    told = Description.unpack(hospital_with(tmp_path / "own", skip_unreadable=True).answer("describe", request))
    assert (told.unreadable, told.images.sum()) == (2, 38)


def disk_full(cause: Exception) -> DataError:
    error = DataError(SECRET)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError(SECRET), "data-problem"),
        (WeightsError(SECRET), "weights-problem"),
        (ConfigError(SECRET), "bad-request"),
        (MemoryError(SECRET), "out-of-memory"),
        (torch.OutOfMemoryError(SECRET), "out-of-memory"),
        (RuntimeError(f"DefaultCPUAllocator: can't allocate memory {SECRET}"), "out-of-memory"),
        (OSError(errno.ENOSPC, "No space left on device", SECRET), "disk-full"),
        (sqlite3.OperationalError("database or disk is full"), "disk-full"),
        (disk_full(OSError(errno.ENOSPC, "No space left on device")), "disk-full"),
        (disk_full(sqlite3.OperationalError("database or disk is full")), "disk-full"),
        (PermissionError(errno.EACCES, "Permission denied", SECRET), "internal-error"),
        (ValueError(SECRET), "internal-error"),
        (RecursionError(SECRET), "internal-error"),
    ],
)
def test_no_exception_s_text_leaves_only_a_neutral_code(hospital, asked, monkeypatch, caplog, error, expected):
    def fail(*_):
        raise error

    monkeypatch.setattr(module, "read_rows", fail)
    with caplog.at_level(logging.INFO):
        assert code(hospital.answer("describe", asked.describe())) == expected
    assert expected in {code.value for code in RefusalCode}
    assert SECRET not in caplog.text


def test_a_full_disk_under_the_cache_is_told_as_such(hospital, asked, monkeypatch):
    def full(*arguments, **options):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("client.feature_cache.sqlite3.connect", full)
    assert code(hospital.answer("describe", asked.describe())) == "disk-full"


def test_a_refusal_is_forgotten_when_its_reason_is_gone(hospital, asked, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(module, "read_rows", lambda source: 1 / 0)
        assert code(hospital.answer("describe", asked.describe())) == "internal-error"
    assert (
        problem_with(hospital.answer("fit", asked.fit()), reply_schema("fit", asked.job, {}), dimensions(asked.job))
        is None
    )


@pytest.mark.parametrize("min_count", [1, 3])
def test_distances_are_counts_of_the_validation_images_in_multiples(
    phantoms, hospital_with, job, requests_of, min_count
):
    hospital = hospital_with(phantoms["hospital-c"], min_count=min_count)
    parts = {"test_fraction": 0.1, "validation_fraction": 0.4}
    asked = requests_of(job(**ANALYTIC, evaluation=parts), hospital)
    told = hospital.answer("distances", asked.distances()).arrays["distances"]
    images = hospital.answer("describe", asked.describe()).arrays["images"][1]
    assert told.sum(axis=1).tolist() == images.tolist()
    assert images.sum() > 3
    assert (told % min_count == 0).all()
    assert (told.sum(axis=0) > 0).sum() > 1
