"""YAML files into frozen pydantic models, all problems reported together.

Parsing happens once, at the edge; nothing deeper sees a dict.
"""

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from common.errors import ConfigError

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z")


class Section(BaseModel):
    """A frozen piece of a file in which an unknown key is an error and nothing is quietly turned into a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse '3' and true for a number, and 'yes' and 1 for true, which pydantic would convert."""
        wanted = _plain_types(cls.model_fields[str(info.field_name)].annotation)
        number = bool(wanted & {int, float})
        if number and (isinstance(value, bool) or (isinstance(value, str) and str not in wanted)):
            raise ValueError(f"expected a number, got {_shown(value)}")
        if bool in wanted and not number and not isinstance(value, bool) and value is not None:
            raise ValueError(f"expected true or false, got {_shown(value)}")
        return value


S = TypeVar("S", bound=Section)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice (YAML would keep the last) and reads 1e-5 as the number it is."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise ConfigError(f"line {key.start_mark.line + 1}: the key '{key.value}' is written twice; keep one")
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def yaml_value(text: str) -> Any:
    """The plain content of some YAML, as files are read here."""
    return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader


def load_yaml(path: Path) -> Any:
    """The plain content of a YAML file.

    Raises:
        ConfigError: the file is missing, is not readable text, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 YAML") from error
    try:
        return yaml_value(text)
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from error


def parse(model: type[S], content: Any, where: str) -> S:
    """Validate `content` against `model`.

    Raises:
        ConfigError: naming every problem at once: its place, what was expected, what was found and, for a misspelt
            key or name, the nearest valid one.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_problem(model, detail) for detail in error.errors()]
    lines = "\n".join(f"  - {problem}" for problem in problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{where}: {count}:\n{lines}")


def nearest(word: object, choices: list[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else an empty string."""
    match = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""


def unknown(kind: str, word: object, choices: list[str]) -> str:
    """The sentence every table look-up fails with."""
    return f"unknown {kind} '{word}'{nearest(word, choices)}; choose one of: {', '.join(choices)}"


def _problem(model: type[BaseModel], detail: ErrorDetails) -> str:
    place, keys = _resolve(model, detail["loc"])
    at = f"{place}: " if place else ""
    message = detail["msg"].removeprefix("Value error, ")
    got = detail.get("input")
    if detail["type"] == "extra_forbidden":
        return f"{at}unknown key{nearest(detail['loc'][-1], keys)}; the keys here are: {', '.join(keys)}"
    if detail["type"] == "missing":
        return f"{at}missing; it must be given"
    if detail["type"] == "value_error":
        return f"{at}{message}"
    if detail["type"] == "model_type":
        return f"{at}expected a mapping of keys to values, got {_shown(got)}"
    hint = nearest(got, _literal_choices(detail)) if detail["type"] in ("literal_error", "enum") else ""
    if detail["type"] == "string_type" and isinstance(got, bool | int | float):
        hint = "; put it in quotes"
    return f"{at}{message[0].lower()}{message[1:]}, got {_shown(got)}{hint}"


def _shown(value: object) -> str:
    """A value in a message: short, and of containers only the kind."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _literal_choices(detail: ErrorDetails) -> list[str]:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return [part for part in expected.split("'") if part.strip(" ,or")]


def _resolve(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted path a person would write, and the keys valid at its last level."""
    place = ""
    owner: Any = model
    keys = sorted(model.model_fields)
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
            continue
        place += f".{part}" if place else part
        keys = sorted(owner.model_fields) if owner else []
        field = owner.model_fields.get(part) if owner else None
        owner = _section_of(field.annotation) if field else None
    return place, keys


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside `Section`, `Section | None` and the like."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _plain_types(annotation: Any) -> set[Any]:
    """The types a union or an annotated type is made of."""
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _plain_types(part)}
    return _plain_types(get_args(annotation)[0]) if get_origin(annotation) is Annotated else {annotation}
