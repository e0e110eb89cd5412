"""The model card as Markdown and as a page: what its sections are made of, and two Jinja templates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


@dataclass(frozen=True)
class Table:
    """Rows of texts under column headings; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_table: bool = True


@dataclass(frozen=True)
class Listed:
    """Points of a list."""

    points: Sequence[str]
    is_list: bool = True


@dataclass(frozen=True)
class Warned:
    """A sentence that must not be overlooked."""

    sentence: str
    is_warning: bool = True


Item = str | Table | Listed | Warned


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    items: Sequence[Item]


def in_markdown(value: str) -> Markup:
    """A text in which no letter is markup: names are hospitals' own words."""
    return Markup(_SPECIAL.sub(r"\\\1", " ".join(value.split())))  # noqa: S704  what is HTML in it was just escaped


MARKDOWN = """# Model card: {{ name | md }}

Written by Consilium from the files of the run directory; the structure is that of Mitchell et al. 2019, arXiv 1810.03993.
{% for section in sections %}

## {{ section.title }}
{% for item in section.items %}

{% if item is string %}
{{ item | md }}
{% elif item.is_table is defined %}
|{% for one in item.columns %} {{ one | md }} |{% endfor %}

|{% for one in item.columns %}{{ "---" if loop.first else "---:" }}|{% endfor %}

{% for row in item.rows %}
|{% for one in row %} {{ one | md }} |{% endfor %}

{% endfor %}
{% elif item.is_list is defined %}
{% for one in item.points %}
- {{ one | md }}
{% endfor %}
{% else %}
> **{{ item.sentence | md }}**
{% endif %}
{% endfor %}
{% endfor %}
"""

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} – model card</title>
<style>
:root { color-scheme: light dark; --ink: #1b2a41; --soft: #5f6b7a; --line: #d9dee6; --page: #fff; --warn: #b45309;
  --back: #fff6e5; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a3adbb; --line: #333b49; --page: #12161d;
  --warn: #f5b75a; --back: #2c2313; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 56rem;
  padding: 2rem 1.2rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
.lead { color: var(--soft); font-size: .9rem; } p, li { max-width: 46rem; }
.warning { background: var(--back); border-left: .3rem solid var(--warn); padding: .6rem 1rem; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; } tbody th { font-weight: 400; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>Model card: {{ name }}</h1>
<p class="lead">Written by Consilium from the files of the run directory; the structure is that of Mitchell et al. 2019,
arXiv 1810.03993.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for item in section.items %}
{% if item is string %}
<p>{{ item }}</p>
{% elif item.is_table is defined %}
<div class="scroll"><table>
<thead><tr>{% for one in item.columns %}<th scope="col">{{ one }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in item.rows %}
<tr>{% for one in row %}{% if loop.first %}<th scope="row">{{ one }}</th>{% else %}<td>{{ one }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% elif item.is_list is defined %}
<ul>
{% for one in item.points %}
<li>{{ one }}</li>
{% endfor %}
</ul>
{% else %}
<p class="warning" role="alert">{{ item.sentence }}</p>
{% endif %}
{% endfor %}
{% endfor %}
</body>
</html>
"""
