"""A job file with some keys changed: everything else stays as its author wrote it, comments too."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from common.config_file import unknown, yaml_value
from common.errors import ConfigError

_WIDTH = 120
_NO_MAPPING = "expected a job file, a mapping of keys to values"


@dataclass(frozen=True)
class Change:
    """What to write at a key, `method` or `method.name`, and the comment above it. removed: the key goes."""

    key: str
    value: Any = None
    comment: str = ""
    removed: bool = False


@dataclass(frozen=True)
class _Edit:
    """Lines start to before stop are replaced by `lines`."""

    start: int
    stop: int
    lines: tuple[str, ...]


def changed_text(text: str, changes: tuple[Change, ...]) -> str:
    """The YAML text with the changes; a section that is not written line by line is written anew.

    Raises:
        ConfigError: the text is no mapping.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ConfigError(_NO_MAPPING)
    lines = text.splitlines()
    nodes = {key.value: (key, value) for key, value in root.value}
    edits, ends = [], list[str]()
    for section in dict.fromkeys(change.key.partition(".")[0] for change in changes):
        own = [change for change in changes if change.key.partition(".")[0] == section]
        if section not in nodes:
            ends += ["", *_section(section, {}, own)]
            continue
        key, value = nodes[section]
        if isinstance(value, yaml.MappingNode) and not value.flow_style and own[0].key != section:
            edits += list(_inside(value, own))
        else:
            content = yaml.safe_load("\n".join(lines[key.start_mark.line : _last_line(value) + 1]))[section]
            edits.append(_Edit(key.start_mark.line, _last_line(value) + 1, tuple(_section(section, content, own))))
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.stop), reverse=True):
        lines[edit.start : edit.stop] = edit.lines
    return "\n".join([*lines, *ends]) + "\n"


def changed_content(content: Mapping[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
    """The same changes in the plain content of a job file."""
    found = dict(content)
    for section in dict.fromkeys(change.key.partition(".")[0] for change in changes):
        own = [change for change in changes if change.key.partition(".")[0] == section]
        found[section] = _merged(section, found.get(section), own)
    return found


_SHORT_FORMS = {"tune": "part", "method": "name"}
"""Sections that may be one word, and the key that the word is for."""


def _merged(section: str, content: Any, changes: list[Change]) -> Any:
    """The section's content with its changes."""
    if changes[0].key == section:
        return changes[0].value
    if content is not None and not isinstance(content, dict):
        if section not in _SHORT_FORMS:
            raise ConfigError(unknown("section that may be one word:", section, list(_SHORT_FORMS)))
        content = {_SHORT_FORMS[section]: content}
    merged = dict(content or {})
    for change in changes:
        name = change.key.partition(".")[2]
        if change.removed:
            merged.pop(name, None)
        else:
            merged[name] = change.value
    return merged


def _section(section: str, content: Any, changes: list[Change]) -> list[str]:
    """A section written anew, one key per line with the comments of its changes."""
    merged = _merged(section, content, changes)
    comments = {change.key: change.comment for change in changes}
    if not isinstance(merged, dict):
        return [*_comment(comments.get(section, ""), ""), f"{section}: {_word(merged)}"]
    lines = [f"{section}:"]
    for name, value in merged.items():
        lines += [*_comment(comments.get(f"{section}.{name}", ""), "  "), f"  {name}: {_word(value)}"]
    return lines


def _inside(section: yaml.MappingNode, changes: list[Change]) -> Iterator[_Edit]:
    """Edits of single lines of a section that has one key per line."""
    nodes = {key.value: (key, value) for key, value in section.value}
    end, column = _last_line(section) + 1, section.value[0][0].start_mark.column
    for change in changes:
        name = change.key.partition(".")[2]
        start, stop = end, end
        if name in nodes:
            key, value = nodes[name]
            start, stop = key.start_mark.line, _last_line(value) + 1
        written = [*_comment(change.comment, " " * column), f"{' ' * column}{name}: {_word(change.value)}"]
        if name in nodes or not change.removed:
            yield _Edit(start, stop, () if change.removed else tuple(written))


def _last_line(node: yaml.Node) -> int:
    """The last line on which a node has something; a block ends where its last item does."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.line - (node.end_mark.column == 0 and node.end_mark.line > node.start_mark.line)


def _word(value: Any) -> str:
    """A value on one line; JSON is YAML, and words need no quotes."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_word(one)}' for key, one in value.items())}}}"
    if isinstance(value, str):
        plain = yaml_value(value) if value and not set(value) & set(":#{}[],&*!|>'\"%@`") else None
        return value if plain == value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") if text else []
