"""YAML into frozen models: every problem, in words a person can act on."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from common.config_file import Section, load_yaml, nearest, parse, unknown
from common.errors import ConfigError


class Inner(Section):
    size: Annotated[int, Field(ge=1)] | None = None
    rate: float = 0.5
    fit: Literal["crop", "pad"] = "crop"
    secure: bool = False


class Short(Section):
    """May be written as a bare path."""

    folder: Path

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str) else value


class Outer(Section):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    data: Short = Short(folder=Path())
    port: int | str = 1


def problems(content: Any) -> list[str]:
    """The lines of the error, without the heading and the bullets."""
    with pytest.raises(ConfigError) as caught:
        parse(Outer, content, "here.yaml")
    heading, *lines = str(caught.value).splitlines()
    plural = "" if len(lines) == 1 else "s"
    assert heading == f"here.yaml: {len(lines)} problem{plural}:"
    return [line.removeprefix("  - ") for line in lines]


def problem(content: Any) -> str:
    (only,) = problems({"name": "x", **content})
    return only


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_good_file_becomes_a_frozen_model() -> None:
    found = parse(Outer, {"name": "x", "inner": {"size": 3, "rate": 1}, "data": "/images"}, "here.yaml")
    assert (found.inner.size, found.inner.rate, found.data.folder) == (3, 1.0, Path("/images"))
    assert isinstance(found.inner.rate, float)
    with pytest.raises(ValidationError):
        found.name = "y"  # type: ignore[misc]


def test_all_problems_are_named_together() -> None:
    assert problems({"inner": {"size": 0, "fit": "padd"}, "maybe": {"rate": "fast"}, "extra": 1}) == [
        "name: missing; it must be given",
        "inner.size: input should be greater than or equal to 1, got 0",
        "inner.fit: input should be 'crop' or 'pad', got 'padd'; did you mean 'pad'?",
        "maybe.rate: expected a number, got 'fast'",
        "extra: unknown key; the keys here are: data, inner, maybe, name, port, several",
    ]


def test_a_misspelt_key_gets_the_nearest_of_its_own_section() -> None:
    known = "the keys here are: fit, rate, secure, size"
    assert problem({"inner": {"sise": 3}}) == f"inner.sise: unknown key; did you mean 'size'?; {known}"
    assert problem({"maybe": {"rates": 3}}) == f"maybe.rates: unknown key; did you mean 'rate'?; {known}"
    assert problem({"several": [{}, {"ratte": 3}]}) == f"several[1].ratte: unknown key; did you mean 'rate'?; {known}"
    assert problem({"innner": {}}).startswith("innner: unknown key; did you mean 'inner'?; the keys here are: data,")


@pytest.mark.parametrize("value", [True, False, "3", "", "1e3"])
def test_nothing_is_quietly_turned_into_a_number(value: object) -> None:
    assert problem({"inner": {"size": value}}) == f"inner.size: expected a number, got {value!r}"
    assert problem({"inner": {"rate": value}}) == f"inner.rate: expected a number, got {value!r}"


@pytest.mark.parametrize("value", [1, 0, "yes", "true", 1.0])
def test_nothing_is_quietly_turned_into_true_or_false(value: object) -> None:
    assert problem({"inner": {"secure": value}}) == f"inner.secure: expected true or false, got {value!r}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_only_finite_numbers_pass(value: float) -> None:
    assert problem({"inner": {"rate": value}}) == f"inner.rate: input should be a finite number, got {value!r}"


def test_numbers_and_words_where_either_may_stand_are_kept() -> None:
    assert [parse(Outer, {"name": "x", "port": port}, "here").port for port in (80, "http")] == [80, "http"]


def test_yes_as_a_word_says_to_quote_it() -> None:
    assert problem({"name": True}) == "name: input should be a valid string, got True; put it in quotes"


def test_the_wrong_kind_of_value_is_shown_short() -> None:
    assert problem({"inner": 3}) == "inner: expected a mapping of keys to values, got 3"
    assert problem({"inner": ["secret"] * 100}) == "inner: expected a mapping of keys to values, got a list"
    assert problem({"inner": {"rate": 10**400}}).endswith("got a number of more than 64 bits")
    assert len(problem({"inner": {"fit": "x" * 10_000}})) < 200


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_a_file_that_is_not_a_mapping(content: object) -> None:
    with pytest.raises(ConfigError, match=r"here\.yaml: expected a mapping of keys to values, got"):
        parse(Outer, content, "here.yaml")


def test_keys_that_are_not_words_are_problems_not_crashes() -> None:
    assert problem({1: 2}) == "[1]: keys should be strings, got 1"


def test_yaml_is_read_as_plain_content(tmp_path: Path) -> None:
    text = "a: [1, 2.5, on]\nb: {c: text, d: null}\n"
    assert load_yaml(write(tmp_path, text)) == {"a": [1, 2.5, True], "b": {"c": "text", "d": None}}


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "+1e-5", "1.0e-5", "0.00001"])
def test_a_small_number_is_a_number_however_it_is_written(tmp_path: Path, text: str) -> None:
    assert load_yaml(write(tmp_path, f"delta: {text}")) == {"delta": 1e-5}


def test_what_only_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    assert load_yaml(write(tmp_path, "[e5, 1e, 1e5x, '1e-5', 1-5]")) == ["e5", "1e", "1e5x", "1e-5", "1-5"]


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\nb: 2\na: 3\n", 3), ("x:\n  a: 1\n  'a': 2\n", 3), ("[{b: 1,\n b: 2}]", 2)]
)
def test_a_key_written_twice_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"{path}, line {line}: the key '.' is written twice; keep one"):
        load_yaml(path)


def test_the_same_key_in_two_sections_and_merged_defaults_are_fine(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"
    assert load_yaml(write(tmp_path, text)) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: b: c",
        "\t- x",
        "a: !!python/object/apply:os.getcwd []",
        "a: \x07",
        "--- 1\n--- 2",
        "day: 2024-02-31",
        "n: " + "9" * 5000,
        "{[1]: 2}",
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"{path} is not valid YAML: "):
        load_yaml(path)


def test_hopelessly_nested_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is nested too deeply"):
        load_yaml(write(tmp_path, "[" * 5000))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml: No such file or directory"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 3\)"):
        load_yaml(write(tmp_path, b"a: \xff"))


def test_nearest_and_unknown() -> None:
    assert nearest("resnet19", ["resnet18", "vgg16"]) == "; did you mean 'resnet18'?"
    assert nearest("zebra", ["resnet18", "vgg16"]) == ""
    assert nearest(["a"], ["b"]) == ""
    assert unknown("colour", "rad", ["red"]) == "unknown colour 'rad'; did you mean 'red'?; choose one of: red"
    assert unknown("colour", "xyz", ["red", "tan"]) == "unknown colour 'xyz'; choose one of: red, tan"
