"""The ledger as one HTML page for a data-protection officer: self-contained, without scripts, readable in light and dark."""

import jinja2

from client.ledger_entry import now
from client.ledger_export import hospital_of
from client.ledger_reading import Reading
from client.ledger_summary import summarise
from client.ledger_words import CODES, KINDS, repair_in_words, shown_arrays, size


def to_html(reading: Reading) -> str:
    """What left, by job, day and kind of message; what was refused; and whether the ledger is as it was written."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(size=size, clock=_clock, arrays=shown_arrays, repair=repair_in_words)
    return environment.from_string(_PAGE).render(
        hospital=hospital_of(reading),
        found=summarise(reading.entries),
        entries=len(reading.entries),
        head=reading.last.text,
        problems=reading.problems,
        note=reading.note,
        exported=f"{now():%Y-%m-%d %H:%M %Z}",
        kinds=KINDS,
        codes=CODES,
    )


def _clock(time: str) -> str:
    """To the minute; the zone is said once, on the page."""
    return f"{time[:10]} {time[11:16]}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What left {{ hospital }} – Consilium ledger</title>
<style>
:root { color-scheme: light dark; --ink: #1b2a41; --soft: #5f6b7a; --line: #d9dee6; --card: #f5f7fa; --page: #fff;
  --warn: #b45309; --good: #15703d; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a3adbb; --line: #333b49; --card: #1c222d;
  --page: #12161d; --warn: #f5b75a; --good: #6fd39a; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 66rem;
  padding: 2rem 1.2rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; } p { max-width: 48rem; }
.lead, .note { color: var(--soft); } .note { font-size: .85rem; }
.box { background: var(--card); border-left: .3rem solid var(--good); padding: .7rem 1rem; margin: 1.2rem 0; }
.bad { border-color: var(--warn); } .box ul { margin: .3rem 0; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 0; }
.card { background: var(--card); border-radius: .6rem; padding: .7rem 1rem; display: flex; flex-direction: column-reverse; }
.card dd { font-size: 1.7rem; font-weight: 600; line-height: 1.3; margin: 0; } .card dt { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: .3rem .55rem; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; } tbody th { font-weight: 600; } th:first-child, .words { text-align: left; }
.words { min-width: 14rem; } code { font-size: .85rem; } small { color: var(--soft); font-weight: 400; display: block; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } tr, .card, .box { break-inside: avoid; }
  h2 { break-after: avoid; } .scroll { overflow: visible; } }
</style>
</head>
<body>
<main>
<h1>What left {{ hospital }}</h1>
<p class="lead">{{ entries }} entries of its ledger
{%- if found.everything.first %}, {{ found.everything.first | clock }} to {{ found.everything.last | clock }}{% endif %};
exported {{ exported }}. Times are as the hospital's machine wrote them.</p>

{% if problems %}
<div class="box bad" role="alert"><b>The ledger is not as it was written.</b> What follows cannot be relied on.
<ul>{% for problem in problems %}<li>{{ problem }}</li>{% endfor %}</ul></div>
{% else %}
<div class="box" role="status"><b>Verified.</b> Every entry is as it was written, none is missing, and the last one is there.
{% if note %}<br>Note: {{ note }}.{% endif %}</div>
{% endif %}
<p>Its head is <code>{{ head }}</code>.</p>

<dl class="cards">
<div class="card"><dt>answers left</dt><dd>{{ found.everything.sent }}</dd></div>
<div class="card"><dt>in all</dt><dd>{{ found.everything.bytes | size }}</dd></div>
<div class="card"><dt>requests refused</dt><dd>{{ found.everything.refused }}</dd></div>
<div class="card"><dt>epsilon spent</dt><dd>{{ "%.3g" | format(found.everything.epsilon) }}</dd></div>
</dl>

<h2>What this page says</h2>
<p>Hospitals train a model together, and each one's images stay with it. What a hospital answers to the coordinator is written
into its ledger before it leaves: what it was, how large, and a digest by which it can be recognised. The ledger holds no image,
no features, no file name and no patient. Masked answers can only be read as a sum over hospitals. Epsilon is what differential
privacy has spent; 0 means that it was not used.</p>

<h2>By job</h2>
{% if found.jobs %}
<div class="scroll"><table id="jobs"><thead><tr><th scope="col">job</th><th scope="col">answers</th>
<th scope="col">last round</th><th scope="col">size</th><th scope="col">masked</th><th scope="col">epsilon</th>
<th scope="col">refused</th><th scope="col">first</th><th scope="col">last</th></tr></thead><tbody>
{% for one in found.jobs %}
<tr><th scope="row">{{ one.name or "no job, or none that can be read" }}
{%- if one.detail %}<small><code>{{ one.detail[:12] }}</code></small>{% endif %}</th>
<td>{{ one.sent }}</td><td>{{ "–" if one.highest_round is none else one.highest_round }}</td>
<td>{{ one.bytes | size }}</td><td>{{ one.masked }} of {{ one.sent }}</td><td>{{ "%.3g" | format(one.epsilon) }}</td>
<td>{{ one.refused }}</td><td>{{ one.first | clock }}</td><td>{{ one.last | clock }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>Nothing was asked of this hospital yet.</p>
{% endif %}

{% if found.kinds %}
<h2>By kind of message</h2>
<div class="scroll"><table id="kinds"><thead><tr><th scope="col">kind</th><th scope="col" class="words">what an answer says</th>
<th scope="col">answers</th><th scope="col">size</th><th scope="col">refused</th></tr></thead><tbody>
{% for one in found.kinds %}
<tr><th scope="row">{{ one.name }}</th><td class="words">{{ kinds.get(one.name, "") }}</td><td>{{ one.sent }}</td>
<td>{{ one.bytes | size }}</td><td>{{ one.refused }}</td></tr>
{% endfor %}
</tbody></table></div>

<h2>By day</h2>
<div class="scroll"><table id="days"><thead><tr><th scope="col">day</th><th scope="col">answers</th><th scope="col">size</th>
<th scope="col">epsilon</th><th scope="col">refused</th></tr></thead><tbody>
{% for one in found.days %}
<tr><th scope="row">{{ one.name }}</th><td>{{ one.sent }}</td><td>{{ one.bytes | size }}</td>
<td>{{ "%.3g" | format(one.epsilon) }}</td><td>{{ one.refused }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}

{% if found.largest %}
<h2>The largest answers</h2>
<div class="scroll"><table id="largest"><thead><tr><th scope="col">entry</th><th scope="col">time</th><th scope="col">job</th>
<th scope="col">kind</th><th scope="col" class="words">arrays</th><th scope="col">size</th>
<th scope="col">masked</th></tr></thead><tbody>
{% for one in found.largest %}
<tr><th scope="row">{{ one.seq }}</th><td>{{ one.time | clock }}</td><td>{{ one.job or "–" }}</td><td>{{ one.kind }}</td>
<td class="words">{{ one | arrays }}</td><td>{{ one.bytes | size }}</td><td>{{ "yes" if one.masked else "no" }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}

<h2>What was refused</h2>
{% if found.refusals %}
<p>In place of each of these answers one word left, the code.</p>
<div class="scroll"><table id="refusals"><thead><tr><th scope="col">code</th><th scope="col" class="words">why</th>
<th scope="col">asked for</th><th scope="col">times</th><th scope="col">first</th><th scope="col">last</th></tr></thead><tbody>
{% for one in found.refusals %}
<tr><th scope="row">{{ one.name }}</th><td class="words">{{ codes.get(one.name, "") }}</td><td>{{ one.detail }}</td>
<td>{{ one.refused }}</td><td>{{ one.first | clock }}</td><td>{{ one.last | clock }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>Nothing.</p>
{% endif %}

{% if found.repairs %}
<h2>Interruptions</h2>
<ul>{% for one in found.repairs %}<li>{{ one.time | clock }}, entry {{ one.seq }}: {{ one | repair }}</li>{% endfor %}</ul>
{% endif %}

<h2>How to check this page</h2>
<p>At the hospital, <code>consilium hospital ledger verify</code> reads the ledger again, and
<code>consilium hospital ledger export --format csv</code> lists every array that left with its digest. A chain of hashes shows
what was changed, removed or moved. It cannot stop someone who may write the hospital's files from writing the whole ledger anew;
to notice that, keep the head above somewhere else, and compare later with
<code>consilium hospital ledger verify --head SEQ:HASH</code>.</p>
</main>
</body>
</html>
"""
