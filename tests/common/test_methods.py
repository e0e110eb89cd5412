"""The table of methods, and the method section of a job."""

from typing import Any

import pytest

from common.config_file import parse
from common.errors import ConfigError
from common.methods import LOCAL_TRAINING, METHODS, Method, method_row


def problem(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Method, content, "method")
    _, only = str(caught.value).splitlines()
    return only.removeprefix("  - ")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_summary_a_source_and_valid_defaults(name: str) -> None:
    row = METHODS[name]
    assert row.summary
    assert "20" in row.source, "a source names its year"
    assert row.min_hospitals >= 1
    assert not set(row.options) & set(LOCAL_TRAINING)
    method = parse(Method, {"name": name}, "method")
    assert {option: getattr(method, option) for option in row.defaults()} == row.defaults()


@pytest.mark.parametrize("name", METHODS)
def test_options_of_other_methods_are_unset(name: str) -> None:
    own = {"name", *METHODS[name].defaults()}
    method = parse(Method, {"name": name}, "method")
    assert {getattr(method, field) for field in Method.model_fields if field not in own} <= {None}


def test_every_option_of_the_section_belongs_to_a_method() -> None:
    belonging = {option for row in METHODS.values() for option in row.defaults()}
    assert set(Method.model_fields) == {"name", *belonging}


def test_the_defaults_of_the_section_are_those_of_the_table() -> None:
    written = {name: field.default for name, field in Method.model_fields.items() if name in LOCAL_TRAINING}
    assert written == dict(LOCAL_TRAINING)


def test_a_bare_name_is_a_method_with_its_defaults() -> None:
    assert Method.model_validate("fedprox") == parse(Method, {"name": "fedprox", "proximal_mu": 0.1}, "method")


def test_an_unknown_method_gets_the_nearest_and_the_choices() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown method 'fedprocks'; did you mean 'fedprox'.*; choose one of: fedavg, "
    ):
        method_row("fedprocks")
    assert method_row("krum") is METHODS["krum"]
    assert problem({"name": "krumm"}).startswith("name: unknown method 'krumm'; did you mean 'krum'?; choose one of: ")


@pytest.mark.parametrize("name", [["fedavg"], {"a": 1}, 3, None])
def test_a_name_that_is_no_word_is_a_problem_not_a_crash(name: Any) -> None:
    assert problem({"name": name}).startswith("name: input should be a valid string")


def test_an_option_of_another_method_is_refused() -> None:
    found = problem({"name": "fedavg", "proximal_mu": 0.1})
    assert found.startswith(
        "proximal_mu: not an option of fedavg; the options of fedavg are: rounds, local_epochs, lr, "
    )
    assert problem({"proximal_mu": 0.1}) == found
    assert problem({"name": "fedadagrad", "beta_1": 0.9}).startswith("beta_1: not an option of fedadagrad; ")


def test_null_is_no_value_for_an_own_option_and_absent_for_others() -> None:
    found = problem({"name": "fedprox", "proximal_mu": None})
    assert found == "proximal_mu: expected a value, got null; leave the key out for the default, 0.1"
    assert parse(Method, {"name": "fedavg", "proximal_mu": None}, "method") == Method()
    assert parse(Method, {"patience": None}, "method").patience is None


@pytest.mark.parametrize(
    "content",
    [
        {"rounds": 0},
        {"rounds": 2.5},
        {"local_epochs": 0},
        {"lr": 0},
        {"batch_size": 0},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"optimizer": "lion"},
        {"patience": 0},
        {"name": "fedprox", "proximal_mu": -1},
        {"name": "trimmed-mean", "trim_fraction": 0.5},
        {"name": "krum", "malicious_hospitals": -1},
        {"name": "multikrum", "hospitals_kept": 0},
        {"name": "fedadam", "beta_1": 1.0},
        {"name": "fedadam", "tau": 0},
    ],
)
def test_options_out_of_range_are_refused(content: dict[str, Any]) -> None:
    assert problem(content).startswith(f"{list(content)[-1]}: input should be ")
