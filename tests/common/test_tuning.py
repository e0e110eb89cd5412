"""What of the network a job trains: defaults, and options that belong to other parts."""

from typing import Any

import pytest

from common.config_file import parse
from common.errors import ConfigError
from common.tuning import OPTIONS, PARTS_TUNED, Tune


def problem(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Tune, content, "tune")
    _, only = str(caught.value).splitlines()
    return only.removeprefix("  - ")


def test_only_the_head_is_trained_unless_the_job_says_otherwise() -> None:
    found = Tune()
    assert found.model_dump() == {"part": "head", **dict.fromkeys(OPTIONS["last-blocks"])}
    assert (found.deep, found.local_batch_norm) == (False, False)


def test_the_defaults_by_hand() -> None:
    last = Tune.model_validate("last-blocks")
    assert (last.part, last.blocks, last.lr, last.schedule) == ("last-blocks", 4, 0.001, "cosine")
    assert (last.views, last.accumulate, last.batch_norm) == (4, 1, "frozen")
    full = Tune.model_validate("full")
    assert (full.part, full.blocks, full.lr, full.schedule) == ("full", None, 0.001, "cosine")
    assert (last.deep, full.deep, last.local_batch_norm) == (True, True, False)
    assert Tune(part="full", batch_norm="local").local_batch_norm


@pytest.mark.parametrize("part", PARTS_TUNED)
def test_a_bare_word_is_a_part_with_its_defaults_which_may_be_written_out(part: str) -> None:
    found = Tune.model_validate(part)
    assert found == parse(Tune, {"part": part}, "tune") == parse(Tune, found.model_dump(), "tune")
    assert {name: getattr(found, name) for name in OPTIONS[part]} == OPTIONS[part]


def test_every_option_belongs_to_a_part() -> None:
    assert set(OPTIONS) == set(PARTS_TUNED)
    assert set(Tune.model_fields) == {"part"}.union(*OPTIONS.values())


@pytest.mark.parametrize("part", PARTS_TUNED)
def test_an_option_of_another_part_is_refused_and_null_stands_for_it(part: str) -> None:
    for option in set(OPTIONS["last-blocks"]) - set(OPTIONS[part]):
        found = problem({"part": part, option: OPTIONS["last-blocks"][option]})
        choices = ", ".join(OPTIONS[part]) or "none"
        assert found == f"{option}: not an option of tune: {part}; the options of {part} are: {choices}"
        assert parse(Tune, {"part": part, option: None}, "tune") == Tune.model_validate(part)


@pytest.mark.parametrize("option", OPTIONS["last-blocks"])
def test_null_is_no_value_for_an_own_option(option: str) -> None:
    assert problem({"part": "last-blocks", option: None}) == (
        f"{option}: expected a value, got null; leave the key out for the default, {OPTIONS['last-blocks'][option]}"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 0},
        {"blocks": 101},
        {"lr": 0},
        {"lr": 9.9e-10},
        {"lr": 1000.5},
        {"lr": float("inf")},
        {"lr": float("nan")},
        {"schedule": "step"},
        {"views": 0},
        {"accumulate": 0},
        {"batch_norm": "off"},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (option,) = wrong
    assert problem({"part": "last-blocks", **wrong}).startswith(f"{option}: input should be ")


@pytest.mark.parametrize("lr", [1e-9, 1e3])
def test_the_learning_rate_goes_from_a_billionth_to_a_thousand(lr: float) -> None:
    assert parse(Tune, {"part": "full", "lr": lr}, "tune").lr == lr


@pytest.mark.parametrize("part", ["heads", 3, None, ["head"], {"a": 1}])
def test_a_part_that_is_none_is_a_problem_not_a_crash(part: Any) -> None:
    assert problem({"part": part}).startswith("part: input should be 'head', 'last-blocks' or 'full'")
