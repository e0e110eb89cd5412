"""YAML files into frozen pydantic models, all problems reported together.

Parsing happens once, at the edge; nothing deeper sees a dict.
"""

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from common.errors import ConfigError


class Section(BaseModel):
    """A frozen piece of a file in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                continue
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: the key '{key}' is written twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


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
        return yaml.load(text, _UniqueKeyLoader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from error


def parse[S: Section](model: type[S], content: Any, where: str) -> S:
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
    lines = "\n".join(f"  - {problem}" for problem in dict.fromkeys(problems))
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
    shown = f"a {type(got).__name__}" if isinstance(got, dict | list) else repr(got)
    hint = nearest(got, _literal_choices(detail)) if detail["type"] in ("literal_error", "enum") else ""
    return f"{at}{message[0].lower()}{message[1:]}, got {shown}{hint}"


def _literal_choices(detail: ErrorDetails) -> list[str]:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return [part for part in expected.split("'") if part.strip(" ,or")]


def _resolve(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted path a person would write, and the keys valid at its last level."""
    place = ""
    owner: Any = model
    keys = sorted(model.model_fields)
    for part in loc:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
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
