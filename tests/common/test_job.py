"""Jobs: what is accepted, what is refused, and the id that names one exactly."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.job import SELECTABLE, Job, job_from_json, load_job, parse_job
from common.metrics import HIGHER_IS_BETTER

MINIMAL: dict[str, Any] = {
    "name": "pneumonia-xray",
    "classes": ["normal", "pneumonia"],
    "backbone": {"name": "resnet18", "weights": "IMAGENET1K_V1"},
}
DIGEST = "ab" * 32
GOLDEN_ID = "6c65c11c1e40dc9e929e21d4a264c6c56231c07e7289487fc286c0a5d7b10880"


def job(**changes: Any) -> Job:
    return parse_job({**MINIMAL, **changes})


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        job(**changes)
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


def problem(**changes: Any) -> str:
    (only,) = problems(**changes)
    return only


def shuffled(value: Any) -> Any:
    """The same content with the keys of every mapping in the opposite order."""
    return {key: shuffled(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def test_a_minimal_job_has_the_documented_defaults() -> None:
    found = job()
    assert (found.num_classes, found.size_px, found.seed, found.other_labels) == (2, 224, 0, "error")
    assert (found.method.name, found.method.rounds, found.method.proximal_mu) == ("analytic", 1, None)
    assert (found.modality, found.tune.part, found.personalisation) == ("other", "head", None)
    assert not found.evaluation.cross_site
    assert (found.evaluation.test_fraction, found.evaluation.select_by) == (0.2, "auroc")
    assert found.quorum.min_hospitals == 2
    assert not found.privacy.secure_aggregation


def test_the_size_is_that_of_the_backbone_unless_given() -> None:
    inception = {"name": "inception_v3", "weights": "random"}
    assert job(backbone=inception).size_px == 299
    assert job(backbone=inception, image={"size": 96}).size_px == 96


def test_the_id_of_this_job_never_changes() -> None:
    """Hospitals approve a job by its id. If this fails, ids that were approved no longer name their jobs."""
    assert job().job_id == GOLDEN_ID


def test_the_id_is_the_sha256_of_the_canonical_json() -> None:
    text = job().canonical_json()
    assert job().job_id == hashlib.sha256(text.encode()).hexdigest()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_the_id_ignores_the_order_of_keys_and_defaults_written_out() -> None:
    full = json.loads(job().canonical_json())
    assert len(full) > len(MINIMAL)
    assert parse_job(shuffled(full)).job_id == parse_job(full).job_id == job().job_id
    assert parse_job(shuffled(MINIMAL)).job_id == job().job_id


def test_a_whole_number_for_a_float_names_the_same_job() -> None:
    assert job(quorum={"deadline_s": 60}).job_id == job(quorum={"deadline_s": 60.0}).job_id


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"classes": ["pneumonia", "normal"]},
        {"method": "fedprox"},
        {"image": {"size": 225}},
        {"backbone": {"name": "resnet18", "weights": "random"}},
    ],
)
def test_another_job_has_another_id(changes: dict[str, Any]) -> None:
    assert job(**changes).job_id != job().job_id


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classes": ["Prüfung", "日本"]},
        {"method": {"name": "multikrum", "malicious_hospitals": 1}},
        {"privacy": {"secure_aggregation": True, "differential_privacy": {"epsilon": 3}}},
        {"backbone": {"name": "vgg16", "weights": {"file": "vgg16.safetensors", "sha256": DIGEST}}},
    ],
)
def test_a_job_comes_back_from_its_canonical_json(changes: dict[str, Any]) -> None:
    sent = job(**changes)
    assert job_from_json(sent.canonical_json()) == sent
    assert sent.canonical_json().isascii()


@given(st.integers(0, 2**63 - 1), st.floats(1e-9, 1e3), st.floats(0, 0.49), st.sampled_from(SELECTABLE))
def test_every_number_survives_the_canonical_json(seed: int, lr: float, share: float, select_by: str) -> None:
    sent = job(
        seed=seed, method={"name": "fedavg", "lr": lr}, evaluation={"test_fraction": share, "select_by": select_by}
    )
    assert job_from_json(sent.canonical_json()) == sent


def test_json_that_is_not_canonical_is_refused() -> None:
    text = job().canonical_json()
    content = json.loads(text)
    for other in (
        text + " ",
        json.dumps(content),
        json.dumps(shuffled(content), separators=(",", ":")),
        json.dumps(MINIMAL, sort_keys=True, separators=(",", ":")),
        text.replace('"deadline_s":600.0', '"deadline_s":600'),
        text.replace('"seed":0,"tune"', '"seed":1,"seed":0,"tune"'),
    ):
        assert other != text
        with pytest.raises(ConfigError, match="not in canonical form"):
            job_from_json(other)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "\ud800"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid JSON"):
        job_from_json(text)


@pytest.mark.parametrize("text", ["null", "3", "[]", "{}", '"job"', '{"seed":NaN}'])
def test_json_that_is_not_a_job_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="job in message: "):
        job_from_json(text)


def test_all_problems_of_a_file_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: Pneumonia X-ray\nclasses: [normal]\nbackbone: {name: resnet19, weights: IMAGENET1K_V1}\n"
        "image: {sise: 224}\nmethod: {name: fedpox, lr: -1}\nevaluation: {select_by: auc}\nseed: '7'\nquorom: {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 9 problems:"
    for expected in (
        "  - name: string should match pattern '^[a-z0-9][a-z0-9-]{0,62}$', got 'Pneumonia X-ray'",
        "  - classes: list should have at least 2 items after validation, not 1, got a list",
        "  - backbone.name: unknown backbone 'resnet19'; did you mean 'resnet18'?; choose one of: resnet18, resnet34, ",
        "  - image.sise: unknown key; did you mean 'size'?; the keys here are: fit, size",
        "  - method.name: unknown method 'fedpox'; did you mean 'fedprox'?; choose one of: analytic, ",
        "  - method.lr: input should be greater than or equal to 0.000000001, got -1",
        "  - evaluation.select_by: input should be 'auroc', ",
        "  - seed: expected a number, got '7'",
        "  - quorom: unknown key; did you mean 'quorum'?; ",
    ):
        assert sum(line.startswith(expected) for line in lines) == 1, expected


def test_a_job_file_and_its_small_numbers(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{json.dumps(MINIMAL)[:-1]}, method: {{name: fedavg, lr: 1e-3}}, seed: 7}}")
    assert load_job(path) == job(method={"name": "fedavg", "lr": 0.001}, seed=7)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", ".NaN", "1e999"])
def test_numbers_without_end_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{json.dumps(MINIMAL)[:-1]}, guard: {{max_update_norm: {text}}}}}")
    with pytest.raises(ConfigError, match=r"guard\.max_update_norm: input should be a finite number, got "):
        load_job(path)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"seed": True}, "seed"),
        ({"seed": "3"}, "seed"),
        ({"image": {"size": "224"}}, "image.size"),
        ({"method": {"rounds": True}}, "method.rounds"),
        ({"method": {"name": "fedavg", "lr": "0.1"}}, "method.lr"),
        ({"tune": {"part": "full", "views": "8"}}, "tune.views"),
        ({"personalisation": {"epochs": True}}, "personalisation.epochs"),
        ({"evaluation": {"test_fraction": False}}, "evaluation.test_fraction"),
        ({"quorum": {"deadline_s": True}}, "quorum.deadline_s"),
        ({"privacy": {"differential_privacy": {"epsilon": "3"}}}, "privacy.differential_privacy.epsilon"),
    ],
)
def test_words_and_truth_values_are_no_numbers(changes: dict[str, Any], place: str) -> None:
    assert problem(**changes).startswith(f"{place}: expected a number, got ")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 16**5000}, "seed"),
        ({"image": {"size": 31}}, "image.size"),
        ({"image": {"size": 1025}}, "image.size"),
        ({"method": {"name": "fedavg", "batch_size": 16**5000}}, "method.batch_size"),
        ({"features": {"views": 0}}, "features.views"),
        ({"features": {"views": 33}}, "features.views"),
        ({"features": {"pool": []}}, "features.pool"),
        ({"features": {"stages": []}}, "features.stages"),
        ({"features": None}, "features"),
        ({"personalisation": {"epochs": 0}}, "personalisation.epochs"),
        ({"personalisation": {"lr": 0}}, "personalisation.lr"),
        ({"evaluation": {"test_fraction": 1.0}}, "evaluation.test_fraction"),
        ({"privacy": {"differential_privacy": {"epsilon": 0}}}, "privacy.differential_privacy.epsilon"),
        ({"privacy": {"differential_privacy": {"epsilon": 1, "delta": 1}}}, "privacy.differential_privacy.delta"),
        ({"quorum": {"min_hospitals": 0}}, "quorum.min_hospitals"),
        ({"quorum": {"deadline_s": 0}}, "quorum.deadline_s"),
        ({"guard": {"max_update_norm": 0}}, "guard.max_update_norm"),
        ({"tune": "all"}, "tune.part"),
        ({"tune": 3}, "tune"),
        ({"method": "fedavg", "tune": {"part": "full", "views": 1001}}, "tune.views"),
        ({"other_labels": "keep"}, "other_labels"),
        ({"privacy": None}, "privacy"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], place: str) -> None:
    assert problem(**changes).startswith(f"{place}: ")


@pytest.mark.parametrize("name", ["", "-x", "X", "a b", "ä", "x" * 64, "x\n", "../x"])
def test_job_names_that_are_refused(name: str) -> None:
    assert problem(name=name).startswith("name: ")


@pytest.mark.parametrize("name", ["", " normal", "normal\n", "a\tb", "a,b", "-x", "x" * 65, "a\x00", "<b>"])
def test_class_names_that_are_refused(name: str) -> None:
    assert problem(classes=["other", name]).startswith("classes: a class name is 1 to 64 ")


def test_class_names_that_are_accepted_and_repeated_ones() -> None:
    names = ["a", "HER2+", "non-small cell", "T1/T2", "2", "_x", "Ödem", "x" * 64]
    assert job(classes=names).classes == names
    assert problem(classes=["a", "b", "a"]) == "classes: each class once, got twice: a"
    assert problem(classes=["yes", False]) == "classes[1]: input should be a valid string, got False; put it in quotes"


def test_fractions_must_leave_patients_for_training() -> None:
    found = problem(evaluation={"test_fraction": 0.6, "validation_fraction": 0.4})
    assert found == (
        "evaluation: test_fraction + validation_fraction: expected less than 1 so that patients are left for training, "
        "got 0.6 + 0.4"
    )


def test_every_metric_a_round_is_selected_by_exists() -> None:
    assert set(SELECTABLE) <= set(HIGHER_IS_BETTER)


def test_deep_tuning_needs_rounds() -> None:
    found = problem(tune="full")
    assert found.startswith("tune: full needs rounds of training, which method analytic has not; write method: {name: ")
    warm = job(tune="full", method={"name": "fedavg", "warm_start": "analytic"})
    assert (warm.tune.deep, warm.method.iterative, warm.method.analytic) == (True, True, True)


def test_batch_normalisation_of_its_own_leaves_no_common_network_to_compare_heads_on() -> None:
    fedbn = {"method": "fedavg", "tune": {"part": "full", "batch_norm": "local"}}
    assert problem(**fedbn, evaluation={"cross_site": True}).startswith("evaluation.cross_site: with tune.batch_norm: ")
    assert job(**fedbn).tune.local_batch_norm
    assert job(method="fedavg", tune="full", evaluation={"cross_site": True}).evaluation.cross_site


def test_a_projection_mixes_the_stages() -> None:
    assert problem(method={"projection": 4, "stage_subsets": True}) == (
        "method.projection mixes all stages: it goes with stage_subsets: false"
    )
    assert job(method={"projection": 4}).method.projection == 4


def test_a_projection_is_narrower_than_the_features() -> None:
    most = job().num_features - 1
    assert job(method={"projection": most}).method.projection == most
    for projection in (most + 1, 65_536):
        assert problem(method={"projection": projection}) == (
            f"method.projection: expected fewer than the {most + 1} features, got {projection}; for none write projection: null"
        )
    # It counts the features the job takes, not those the backbone has.
    small = {"stages": ["layer1.1"], "pool": ["mean"]}
    assert problem(features=small, method={"projection": 64}) == (
        "method.projection: expected fewer than the 64 features, got 64; for none write projection: null"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "chest-xray"},
        {"features": {"stages": "last"}},
        {"features": {"pool": ["mean", "max"]}},
        {"method": {"ridge": [0.1]}},
        {"method": {"stage_subsets": True}},
        {"method": {"projection": 4}},
        {"method": {"class_weights": "none"}},
        {"evaluation": {"cross_site": True}},
        {"personalisation": {}},
    ],
)
def test_every_new_choice_is_in_the_id(changes: dict[str, Any]) -> None:
    found = job(**changes)
    assert found.job_id != job().job_id
    assert job_from_json(found.canonical_json()) == found


def test_a_personalised_job_has_the_documented_defaults() -> None:
    found = job(personalisation={}).personalisation
    assert found is not None
    assert (found.epochs, found.lr) == (5, 0.002)
