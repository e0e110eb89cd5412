"""The page of the report, a Jinja template. (In a Python file because Flower's app bundles carry no other kind of text.)"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ summary.job.name }} – Consilium report</title>
<style>
:root { color-scheme: light; --ink: #1b2a41; --soft: #5f6b7a; --line: #d9dee6; --card: #f5f7fa; --page: #fff; --warn: #b45309;
  --warnback: #fff6e5; {{ light }} }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e6e9ef; --soft: #a3adbb; --line: #333b49;
  --card: #1c222d; --page: #12161d; --warn: #f5b75a; --warnback: #2c2313; {{ dark }} } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 66rem;
  padding: 2rem 1.2rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; } p { max-width: 48rem; }
.lead, .note { color: var(--soft); } .lead { margin: .4rem 0 1.4rem; } .note, small { font-size: .85rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { background: var(--card); border-radius: .6rem; padding: .7rem 1rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.3; } .card span { color: var(--soft); font-size: .85rem; }
.warning { background: var(--warnback); border-left: .3rem solid var(--warn); padding: .7rem 1rem; margin: 1rem 0; }
.loud { font-size: 1.15rem; border: .2rem solid var(--warn); } .warning ul { margin: .3rem 0; }
.scroll { overflow-x: auto; } .tall { max-height: 32rem; overflow-y: auto; } .wide { width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: right; vertical-align: top; padding: .3rem .55rem; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; } tbody th { font-weight: 400; max-width: 18rem; }
th:first-child { text-align: left; } td small { display: block; color: var(--soft); font-size: .75rem; white-space: nowrap; }
.pooled th, .pooled td, .kept th, .kept td { font-weight: 600; } .pooled small { font-weight: 400; }
.worst > * { background: var(--card); } .worst small { white-space: normal; overflow-wrap: anywhere; }
.cross-site td { text-align: center;
  background: color-mix(in srgb, var(--c0) calc(var(--share) * 60%), transparent); print-color-adjust: exact; }
.confusion td { text-align: center; padding: .7rem 1.2rem; border: 1px solid var(--line);
  background: color-mix(in srgb, var(--c0) calc(var(--share) * 60%), transparent); print-color-adjust: exact; }
.figures { display: grid; gap: 1rem; align-items: start; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
svg { width: 100%; height: auto; } svg * { stroke-linejoin: round; stroke-linecap: butt; }
pre { background: var(--card); padding: 1rem; border-radius: .6rem; white-space: pre-wrap; } code { font-size: .85rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; } .tall { max-height: none; }
  .scroll { overflow: visible; } .figures, tr, .card, .warning { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } table { font-size: 7.5pt; } td, th { padding: .15rem .2rem; }
  #data { font-size: 6pt; overflow-wrap: anywhere; } td small { font-size: 6pt; } }
</style>
</head>
<body>
<h1>{{ summary.job.name }}</h1>
<p class="lead">{{ classes | join(" / ") }} · {{ summary.job.backbone.name }} ({{ weights }}),
{{ trained }} trained by {{ summary.method }} · {{ summary.taking_part | length }} hospitals · round {{ summary.best_round }} of
{{ summary.rounds }} kept · engine {{ summary.engine }}
{%- if resumed is not none %} · resumed after round {{ resumed }}{% endif %}</p>
{% if summary.random_weights %}
<div class="warning loud" role="alert"><b>Random backbone weights.</b> This run demonstrates the system. Its figures say
nothing about diagnosis, and its model must never be used for one.</div>
{% endif %}
<div class="cards">
{% for title, value, bounds in cards %}
<div class="card"><b>{{ value }}</b><span>{{ title }}{% if bounds %}<br>95 % CI {{ bounds }}{% endif %}</span></div>
{% endfor %}
</div>
<p class="note">{{ summary.metrics.pooled.n | number }} test images
{%- if test_patients %} of {{ test_patients | number }} patients{% endif %}, all hospitals pooled. Sensitivity,
specificity, F1, AUROC and AP are {% if classes | length == 2 %}those of <i>{{ classes[1] }}</i>{% else %}
means over the classes that have test images, each against the rest{% endif %}.</p>

<h2>What this is and is not</h2>
<p>A research result: how one model did on patients that it was neither trained on nor chosen by. It is evidence about these
hospitals and these patients; it is no medical device, no licence to diagnose, and no promise for another hospital, scanner or
population.</p>
<p>The coordinator saw no image: each hospital scored its own test patients and sent counts. Accuracy, sensitivity, specificity
and F1 follow from them exactly. AUROC and average precision (AP) are read from histograms of {{ bins }} bins
{%- if error is not none %}: the pooled AUROC is within {{ error }} of the one from the scores themselves{% endif %}. Intervals
are 95 % (Wilson for shares; DeLong for AUROC, on the log-odds scale) and take images as independent: where patients have several
images, they are too narrow.</p>

{% if protection %}
<h2>How it was protected</h2>
<ul id="protection">{% for line in protection %}<li>{{ line }}.</li>{% endfor %}</ul>
{% endif %}

<h2>Classes that hospitals lack</h2>
{% if not summary.metrics.hospitals %}
<p>Not known: nothing was told by hospital.</p>
{% elif summary.missing_classes %}
<div class="warning"><ul>
{% for name, lacking in summary.missing_classes.items() %}
<li><b>{{ name }}</b> has no image of {{ lacking | join(", ") }}.</li>
{% endfor %}
</ul>
{% if one_class %}<b>At {{ one_class | join(", ") }} the class is tied to the site.</b> Where a hospital holds one class only,
a model can score by recognising the hospital (its scanner, its patients) in place of the disease, and the pooled figures cannot
tell the two apart.{% else %}Where a class comes from few hospitals, a model can score by recognising the hospital in place of the
disease.{% endif %} Read the hospitals that hold several classes, one by one; what needs a missing class is undefined there, not
averaged.</div>
{% else %}
<p>None: every hospital has images of every class.</p>
{% endif %}

<h2>Hospitals that were missing</h2>
{% if summary.failures %}
<div class="warning"><ul>
{% for one in summary.failures %}
<li><b>{{ one.hospital }}</b> {{ one | in_words }}</li>
{% endfor %}
</ul></div>
{% else %}
<p>None, in no round.</p>
{% endif %}

<h2>Test patients{{ ", hospital by hospital" if summary.metrics.hospitals }}</h2>
<div class="scroll"><table class="wide" id="metrics">
<thead><tr><th></th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr class="{{ row.kind }}"><th>{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell.text }}
{%- if cell.mark %}<sup>{{ cell.mark }}</sup>{% endif %}{% if cell.detail %}<small>{{ cell.detail }}</small>{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="note">Small figures are 95 % intervals, in the row "worst" the hospital. Worst is over the hospitals where a metric is
defined; with few images it says little. AP: average precision. ECE: expected calibration error; lower is better, as for the Brier
score.
{% for letter, reason in footnotes.items() %}<br><sup>{{ letter }}</sup> – is undefined: {{ reason }}.{% endfor %}</p>

{% if cross_site %}
<h2>Every head at every hospital</h2>
<div class="scroll"><table class="cross-site" id="cross-site">
<thead><tr><th>trained by ↓ tested at →</th>{% for where in cross_site.columns %}<th>{{ where }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in cross_site.rows %}
<tr{{ " class=pooled" if loop.first }}><th>{{ row.name }}</th>{% for cell in row.cells %}
<td style="--share: {{ '%.3f' | format(cell.share) }}">{{ cell.text }}<small>{{ cell.detail }}</small></td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="note">{{ cross_site.metric }} of the test patients; small figures are the accuracy. – is undefined: the hospital's test
images are of one class. A hospital's own head is in closed form, from its own training patients alone. A head that does well at
home and badly elsewhere has learnt its hospital; the global head should hold up in every column.</p>
{% endif %}

{% if personal %}
<h2>Which model is best for a hospital's own patients</h2>
<div class="scroll"><table class="wide" id="personal">
<thead><tr><th></th>{% for name in personal.models %}<th>{{ name }}: AUROC</th><th>accuracy</th>{% endfor %}
<th>best for it</th></tr></thead><tbody>
{% for row in personal.rows %}
<tr><th>{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell | number }}</td>{% endfor %}<td>{{ row.best or "–" }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Test patients of each hospital. The personalised model is the global head trained on for
{{ summary.job.personalisation.epochs }} epochs there, and it never left that hospital; the own model knows that hospital's
patients only. Best is by {{ summary.job.evaluation.select_by }} of the hospital's validation patients, so that the figures shown
had no say in it; with few patients it is a coin toss.</p>
{% endif %}

{% if duplicates is not none %}
<h2>Images that two hospitals have</h2>
{% if duplicates %}
<div class="scroll"><table class="wide" id="duplicates">
<thead><tr><th></th><th>the same pixels</th><th>alike, of the first</th><th>alike, of the second</th></tr></thead><tbody>
{% for row in duplicates %}
<tr><th>{{ row.hospitals | join(" and ") }}</th><td>{{ row.exact }}</td><td>{{ row.near[0] }}</td><td>{{ row.near[1] }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Counted by keyed hashes; each hospital was told which of its own images these are. An image that one hospital
trains on and another tests flatters the figures above.</p>
{% else %}
<p>None, by keyed hashes of all images.</p>
{% endif %}
{% endif %}

<h2>Telling the classes apart</h2>
{% if ranking[0] %}
<div class="figures">{% for figure in ranking %}<div>{{ figure | safe }}</div>{% endfor %}</div>
<p class="note">{% if classes | length > 2 %}Each class against the rest. {% endif %}Thick: pooled. Thin: each hospital
with at least {{ fewest }} test images of either kind.</p>
{% else %}
<p>Undefined: the test images are not of several classes.</p>
{% endif %}

<h2>Calibration and confusion</h2>
{% if calibration %}
<div class="figures"><div>{{ calibration | safe }}</div>
<div class="scroll"><table class="confusion">
<thead><tr><th>true ↓ predicted →</th>{% for name in classes %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for name in classes %}
<tr><th>{{ name }}</th>{% for count, share in confusion[loop.index0] %}<td style="--share: {{ '%.3f' | format(share or 0) }}">
{{- count | number }}<small>{{ "–" if share is none else "%.1f %%" | format(100 * share) }}</small></td>{% endfor %}</tr>
{% endfor %}
</tbody></table><p class="note">Test images, and their share of the true class.</p></div></div>
{% else %}
<p>Undefined: there is no test image.</p>
{% endif %}

<h2>Learning</h2>
{% if summary.closed_form %}
<p>The closed-form head was chosen among {{ summary.closed_form.candidates }} by the validation patients: features
<b>{{ summary.closed_form.stages }}</b>, ridge strength <b>{{ summary.closed_form.ridge }}</b> (times the number of examples),
class weights <b>{{ summary.closed_form.class_weights }}</b>; its logits were divided by a temperature of
<b>{{ "%.2f" | format(summary.closed_form.temperature) }}</b>.</p>
{% endif %}
{% if learning[0] or learning[1] %}
<div class="figures">{% for figure in learning if figure %}<div>{{ figure | safe }}</div>{% endfor %}</div>
<p class="note">The ring marks the round that was kept
{%- if rounds | selectattr("lost") | list %}; shaded rounds had no quorum and changed nothing{% endif %}.</p>
{% else %}
<p>No round was recorded with a loss or with validation patients.</p>
{% endif %}

<h2>Data</h2>
{% if not summary.hospitals %}
<p>How many images and patients there are was not told without noise.</p>
{% else %}
<div class="scroll"><table class="wide" id="data">
<thead><tr><th></th>{% for part in parts %}{% for name in classes %}<th>{{ part }}: {{ name }}</th>{% endfor %}
<th>{{ part }}: patients</th>{% endfor %}<th>other labels</th><th>unreadable</th></tr></thead><tbody>
{% for name, one in summary.hospitals.items() %}
<tr><th>{{ name }}</th>{% for part in parts %}{% for images in one.images[part] %}<td>{{ images | number }}</td>
{%- endfor %}<td>{{ one.patients[part] | number }}</td>{% endfor %}
<td>{{ one.other_labels | number }}</td><td>{{ one.unreadable | number }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Images by class, and patients. Patients, not images, are split, by a hash of the seed and the patient's id.
{{ summary.images.decoded | number }} images were decoded in this run, {{ summary.images.cached | number }} came from the
hospitals' feature caches.</p>
{% endif %}

<h2>What was sent, and how long it took</h2>
<div class="figures"><table><tbody>
{% for what, bytes in sent %}<tr><th>{{ what }}</th><td>{{ bytes }}</td></tr>{% endfor %}
</tbody></table><table><tbody>
{% for phase, seconds in summary.seconds.items() %}<tr><th>{{ phase }}</th><td>{{ "%.1f" | format(seconds) }} s</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">The whole model: every weight of {{ summary.job.backbone.name }} as float32, to and from each hospital in each
round.{% if resumed is not none %} Bytes and seconds are of all processes of the run, but for what was lost with one that was
cut off.{% endif %}</p>

<h2>Rounds</h2>
{% if rounds %}
<div class="scroll tall"><table class="wide" id="rounds"><thead><tr><th>round</th><th>validation AUROC</th><th>accuracy</th>
<th>log loss</th><th>training loss</th><th>hospitals</th><th>to coordinator</th><th>to hospitals</th><th>seconds</th></tr></thead>
<tbody>
{% for one in rounds %}
<tr{{ " class=kept" if one.round == summary.best_round }}><th>{{ one.round }}{{ " (no quorum)" if one.lost }}</th>
{%- for metric in ("auroc", "accuracy", "log_loss") %}<td>{{ (one.validation or {}).get(metric) | number }}</td>{% endfor %}
<td>{{ one.train_loss | number }}</td>
<td>{{ one.answered | length }} of {{ one.answered | length + one.dropped | length }}</td>
<td>{{ one.bytes_up | size }}</td><td>{{ one.bytes_down | size }}</td><td>{{ "%.2f" | format(one.seconds) }}</td></tr>
{% for name, reason in one.dropped.items() %}
<tr><th></th><td colspan="8">without {{ name }}: {{ reason }}</td></tr>
{% endfor %}
{% for name, reason in one.outside.items() %}
<tr><th></th><td colspan="8">{{ name }} does not take part: {{ reason }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
{% else %}
<p>No round was recorded.</p>
{% endif %}

<h2>How to get the same</h2>
<p>job_id <code>{{ summary.job_id }}</code><br>feature space <code>{{ summary.fingerprint }}</code><br>backbone
<code>{{ summary.backbone_digest }}</code><br>{% for name, version in summary.versions.items() %}{{ name }} {{ version }}
{%- if not loop.last %}, {% endif %}{% endfor %}</p>
<pre>{{ job_yaml }}</pre>
</body>
</html>
"""
