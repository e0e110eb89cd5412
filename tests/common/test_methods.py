"""The table of methods, and the method section of a job."""

from typing import Any

import pytest

from common.config_file import parse
from common.errors import ConfigError
from common.method_choice import Method
from common.methods import LOCAL_TRAINING, METHODS, RIDGE, LocalTraining, method_row


def problem(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Method, content, "method")
    _, only = str(caught.value).splitlines()
    return only.removeprefix("  - ")


REPLACED = {
    "analytic": {"rounds", "class_weights"},
    "dp-gd": {"rounds", "class_weights", "lr", "momentum"},
    "scaffold": {"momentum"},
}
"""Options of local training that have another default, by method."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_summary_a_source_and_valid_defaults(name: str) -> None:
    row = METHODS[name]
    assert row.summary
    assert "20" in row.source, "a source names its year"
    assert row.min_hospitals >= 1
    assert set(row.options) & set(LOCAL_TRAINING) == REPLACED.get(name, set())
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
    written = {name: field.default for name, field in Method.model_fields.items()}
    fixed = {"name": "analytic", "rounds": 1, "class_weights": "choose"}
    assert written == {**dict.fromkeys(Method.model_fields), **fixed}
    assert Method() == parse(Method, {"name": "analytic"}, "method") == parse(Method, {}, "method")


def test_the_defaults_of_the_closed_form_by_hand() -> None:
    method = Method()
    assert method.ridge == list(RIDGE) == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert (method.rounds, method.class_weights, method.stage_subsets, method.projection) == (1, "choose", False, None)
    assert (method.local_epochs, method.lr, method.momentum, method.patience, method.warm_start) == (None,) * 5


def test_the_defaults_of_an_iterative_method_by_hand() -> None:
    method = Method(name="fedavg")
    assert (method.rounds, method.local_epochs, method.lr, method.batch_size) == (20, 1, 0.002, 64)
    assert (method.optimizer, method.momentum, method.weight_decay) == ("sgd", 0.9, 0.01)
    assert (method.class_weights, method.patience, method.warm_start) == ("none", None, "none")
    assert Method(name="scaffold").momentum == 0.0


def test_a_bare_name_is_a_method_with_its_defaults() -> None:
    assert Method.model_validate("fedprox") == parse(Method, {"name": "fedprox", "proximal_mu": 0.1}, "method")


def test_an_unknown_method_gets_the_nearest_and_the_choices() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown method 'fedprocks'; did you mean 'fedprox'.*; choose one of: analytic, dp-gd, fedavg, ",
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
    assert problem({"proximal_mu": 0.1}).startswith(
        "proximal_mu: not an option of analytic; the options of analytic are: rounds, class_weights, ridge, "
    )
    assert problem({"lr": 0.1}).startswith("lr: not an option of analytic; ")
    assert problem({"name": "fedavg", "ridge": [0.1]}).startswith("ridge: not an option of fedavg; ")
    assert problem({"name": "fedadagrad", "beta_1": 0.9}).startswith("beta_1: not an option of fedadagrad; ")


def test_null_is_no_value_for_an_own_option_and_absent_for_others() -> None:
    found = problem({"name": "fedprox", "proximal_mu": None})
    assert found == "proximal_mu: expected a value, got null; leave the key out for the default, 0.1"
    fedavg = parse(Method, {"name": "fedavg"}, "method")
    assert parse(Method, {"name": "fedavg", "proximal_mu": None}, "method") == fedavg
    assert parse(Method, {"name": "fedavg", "patience": None}, "method").patience is None
    assert problem({"ridge": None}).startswith(
        "ridge: expected a value, got null; leave the key out for the default, [0"
    )
    assert parse(Method, {"projection": None, "lr": None}, "method") == Method()


SERVER_LR = [name for name, row in METHODS.items() if "server_lr" in row.options]
WRONG: list[dict[str, Any]] = [
    {"rounds": 0},
    {"rounds": 2.5},
    {"local_epochs": 0},
    {"lr": 0},
    {"lr": 9.9e-10},
    {"lr": 1000.5},
    {"lr": float("inf")},
    {"lr": float("nan")},
    {"batch_size": 0},
    {"momentum": 1.0},
    {"weight_decay": -0.1},
    {"optimizer": "lion"},
    {"patience": 0},
    {"warm_start": "cold"},
]


@pytest.mark.parametrize(
    "content",
    [
        {"rounds": 0},
        {"rounds": 2.5},
        {"projection": 1},
        {"projection": 65_537},
        {"class_weights": "some"},
        *({"name": "fedavg", **wrong} for wrong in WRONG),
        {"name": "fedprox", "proximal_mu": -1},
        {"name": "trimmed-mean", "trim_fraction": 0.5},
        {"name": "krum", "malicious_hospitals": -1},
        {"name": "multikrum", "hospitals_kept": 0},
        {"name": "fedadam", "beta_1": 1.0},
        {"name": "fedadam", "tau": 0},
        *({"name": name, "server_lr": lr} for name in SERVER_LR for lr in (0, -1.0, 9.9e-10, 1000.5, float("inf"))),
    ],
)
def test_options_out_of_range_are_refused(content: dict[str, Any]) -> None:
    assert problem(content).startswith(f"{list(content)[-1]}: input should be ")


@pytest.mark.parametrize("lr", [1e-9, 1e3])
def test_learning_rates_go_from_a_billionth_to_a_thousand(lr: float) -> None:
    for name, row in METHODS.items():
        for option in {"lr", "server_lr"} & set(row.defaults()):
            assert getattr(parse(Method, {"name": name, option: lr}, "method"), option) == lr


def test_ridge_strengths_out_of_range_are_refused() -> None:
    assert problem({"ridge": []}).startswith("ridge: list should have at least 1 item")
    assert problem({"ridge": [0.1] * 17}).startswith("ridge: list should have at most 16 items")
    assert problem({"ridge": [0.1, 0]}).startswith("ridge[1]: input should be greater than 0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"rounds": 2}, "rounds: analytic has one round, got 2; leave the key out"),
        (
            {"name": "fedavg", "class_weights": "choose"},
            "class_weights: choose is for analytic, which tries both; expected none or balanced",
        ),
        (
            {"name": "scaffold", "momentum": 0.9},
            "scaffold: its control variates are those of plain steps: optimizer: sgd, momentum: 0",
        ),
        (
            {"name": "scaffold", "optimizer": "adam"},
            "scaffold: its control variates are those of plain steps: optimizer: sgd, momentum: 0",
        ),
        ({"name": "fednova", "optimizer": "adam"}, "fednova: steps can be counted with optimizer: sgd only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(content: dict[str, Any], expected: str) -> None:
    assert problem(content) == expected


def test_local_training_is_the_options_of_the_same_names() -> None:
    method = Method(name="fedprox", local_epochs=3, lr=0.5, batch_size=8, momentum=0.1, weight_decay=0.0, proximal_mu=2)
    assert method.local == LocalTraining(3, 0.5, 8, "sgd", 0.1, 0.0, "none", 2.0)
    assert Method(name="fedavg", class_weights="balanced", optimizer="adam").local == LocalTraining(
        1, 0.002, 64, "adam", 0.9, 0.01, "balanced", 0.0
    )
    with pytest.raises(ConfigError, match="method analytic has no local training"):
        _ = Method().local


def test_which_methods_train_in_rounds_and_which_ask_for_the_closed_form() -> None:
    analytic, fedavg, warm = Method(), Method(name="fedavg", rounds=4), Method(name="fedavg", warm_start="analytic")
    assert [one.iterative for one in (analytic, fedavg, warm)] == [False, True, True]
    assert [one.analytic for one in (analytic, fedavg, warm)] == [True, False, True]
    assert [one.fit_rounds for one in (analytic, fedavg, warm)] == [0, 4, 20]
    assert [name for name, row in METHODS.items() if not row.iterative] == ["analytic", "dp-gd"]
