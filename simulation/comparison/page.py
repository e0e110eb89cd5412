"""The page of a comparison: one HTML file that opens offline, light or dark."""

import jinja2

from server.plots import palette_css
from simulation.comparison.plots import auroc_by_cost, auroc_by_row
from simulation.comparison.results import COLUMNS, Comparison
from simulation.comparison.text import COSTS, footnotes, table_rows

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ comparison.job }} – Consilium comparison</title>
<style>
:root { color-scheme: light; --ink: #1b2a41; --soft: #5f6b7a; --line: #d9dee6; --card: #f5f7fa; --page: #fff; {{ light }} }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e6e9ef; --soft: #a3adbb; --line: #333b49;
  --card: #1c222d; --page: #12161d; {{ dark }} } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 72rem;
  padding: 2rem 1.2rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; } p { max-width: 52rem; }
.lead, .note { color: var(--soft); } .note, small { font-size: .85rem; } .scroll { overflow-x: auto; } a { color: inherit; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; overflow-wrap: normal; }
th, td { text-align: right; vertical-align: top; padding: .3rem .55rem; border-bottom: 1px solid var(--line); }
th:first-child, td.reason { text-align: left; } thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 400; } th small, td small { display: block; color: var(--soft); font-size: .75rem; }
tbody th small { max-width: 20rem; } td.best { font-weight: 700; background: var(--card); } td.best small { font-weight: 400; }
.simulation > * { font-style: italic; } td.reason { color: var(--soft); }
.figures { display: grid; gap: 1rem; align-items: start; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
svg { width: 100%; height: auto; } .first svg { max-width: 46rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  .figures, tr { break-inside: avoid; } td, th { padding: .15rem .2rem; } }
</style>
</head>
<body>
<h1>{{ comparison.job }}: which way of training is best?</h1>
<p class="lead">{{ comparison.classes | join(" / ") }} · {{ comparison.hospitals | join(", ") }} ·
{{ "seeds" if comparison.seeds | length > 1 else "seed" }} {{ comparison.seeds | join(", ") }}</p>
<div class="scroll"><table id="comparison">
<thead><tr><th>trained by</th>{% for one in columns %}<th>{{ one }}</th>{% endfor %}
{% for one in costs %}<th>{{ one }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr{{ " class=simulation" if comparison.rows[loop.index0].simulation_only }}><th>{{ row.name }}
<small>{{ row.summary }}</small></th>
{% if row.reason is none %}
{% for cell in row.metrics %}<td{{ " class=best" if cell.mark }}>{{ cell.text }}{{ cell.mark }}
{%- if cell.detail %}<small>{{ cell.detail }}</small>{% endif %}</td>{% endfor %}
{% for cost in row.costs %}<td>{{ cost }}</td>{% endfor %}
{% else %}
<td class="reason" colspan="{{ columns | length + costs | length }}">– {{ row.reason }}</td>
{% endif %}
</tr>
{% endfor %}
</tbody></table></div>
{% for note in footnotes %}
<p class="note">{{ note }}</p>
{% endfor %}
<p class="note">Two classes: recall, F1 and AUROC are those of the second class; more: means over the classes, each against the
rest. ECE: expected calibration error; lower is better. A research result about these patients, no licence to diagnose.</p>
{% if figures[0] %}
<h2>What it gives, and what it costs</h2>
<div class="first">{{ figures[0] | safe }}</div>
<div class="figures">{% for figure in figures[1:] if figure %}<div>{{ figure | safe }}</div>{% endfor %}</div>
{% endif %}
<h2>Each training</h2>
<div class="scroll"><table id="runs"><thead><tr><th>run</th><th>seed</th>{% for one in columns %}<th>{{ one }}</th>{% endfor %}
<th>seconds</th></tr></thead><tbody>
{% for row in comparison.rows %}{% for run in row.runs %}
<tr><th><a href="{{ run.folder.as_posix() | urlencode }}/report.html">{{ row.name }}</a></th><td>{{ run.seed }}</td>
{% for metric in metrics %}<td>{{ "–" if run.metrics[metric] is none else "%.3f" | format(run.metrics[metric]) }}</td>{% endfor %}
<td>{{ "%.1f" | format(run.seconds) }}</td></tr>
{% endfor %}{% endfor %}
</tbody></table></div>
</body>
</html>
"""


def to_html(comparison: Comparison) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    light, dark = palette_css()
    return environment.from_string(_PAGE).render(
        comparison=comparison,
        light=light,
        dark=dark,
        metrics=list(COLUMNS),
        columns=list(COLUMNS.values()),
        costs=list(COSTS.values()),
        rows=table_rows(comparison),
        footnotes=footnotes(comparison),
        figures=[
            auroc_by_row(comparison),
            *(auroc_by_cost(comparison, cost) for cost in ("bytes_per_hospital", "seconds")),
        ],
    )
