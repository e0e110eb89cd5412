"""The table of modalities, and what follows from it for a job's mirrored views."""

from typing import Any

import pytest

from common.errors import ConfigError
from common.job import Job, parse_job
from common.modalities import MODALITIES, OTHER

CLOSED: list[Any] = ["analytic", {"name": "fedavg", "warm_start": "analytic"}]


def job(**changes: Any) -> Job:
    content = {"name": "j", "classes": ["a", "b"], "backbone": {"name": "resnet18", "weights": "random"}}
    return parse_job({**content, **changes})


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_says_why(name: str) -> None:
    row = MODALITIES[name]
    assert len(row.why) > 15
    assert isinstance(row.mirror, bool)


@pytest.mark.parametrize("name", MODALITIES)
@pytest.mark.parametrize("method", CLOSED)
def test_the_closed_form_mirrors_where_the_modality_allows_it(name: str, method: Any) -> None:
    assert job(modality=name, method=method).features.mirror is MODALITIES[name].mirror


@pytest.mark.parametrize("name", MODALITIES)
def test_other_methods_mirror_only_where_the_job_says_so(name: str) -> None:
    assert not job(modality=name, method="fedavg").features.mirror
    if MODALITIES[name].mirror:
        assert job(modality=name, method="fedavg", features={"mirror": True}).features.mirror


@pytest.mark.parametrize("name", [name for name, row in MODALITIES.items() if not row.mirror])
@pytest.mark.parametrize("method", [*CLOSED, "fedavg"])
def test_mirrored_views_are_refused_where_they_are_other_images_with_the_reason(name: str, method: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        job(modality=name, method=method, features={"mirror": True})
    assert str(caught.value).splitlines()[1:] == [
        f"  - features.mirror: not for modality {name}: {MODALITIES[name].why}"
    ]
    assert not job(modality=name, method=method, features={"mirror": False}).features.mirror


def test_mirrored_views_can_be_switched_off() -> None:
    assert not job(modality="chest-xray", features={"mirror": False}).features.mirror


def test_of_some_modalities_everybody_knows_which_way_they_lie() -> None:
    assert MODALITIES["chest-xray"].mirror
    assert MODALITIES["histology"].mirror
    assert not MODALITIES["ecg"].mirror
    assert not MODALITIES["abdominal-ct"].mirror
    assert job().modality == OTHER
    assert not MODALITIES[OTHER].mirror


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        (
            "chest-xrays",
            "  - modality: unknown modality 'chest-xrays'; did you mean 'chest-xray'?; choose one of: chest-",
        ),
        (3, "  - modality: input should be a valid string, got 3"),
        (["ecg"], "  - modality: input should be a valid string, got a list"),
        (None, "  - modality: input should be a valid string, got None"),
    ],
)
def test_an_unknown_modality_is_refused(modality: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(modality=modality)
    (only,) = str(caught.value).splitlines()[1:]
    assert only.startswith(expected)
