"""The page of the report, a Jinja template. (In a Python file because Flower's app bundles carry no other kind of text.)"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ summary.job.name }} - Consilium report</title>
<style>
:root { color-scheme: light dark; --ink: #1b2a41; --soft: #6b7280; --line: #d9dee6; --card: #f6f8fb; --page: #ffffff;
        --mark: #0072b2; --warn: #b45309; --warnback: #fff7e6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa3b2; --line: #333b49; --card: #1c222d;
        --page: #12161d; --mark: #56b4e9; --warn: #f5b75a; --warnback: #2c2313; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 62rem;
       padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p.lead { color: var(--soft); margin: .3rem 0 1.2rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { background: var(--card); border-radius: .6rem; padding: .7rem 1rem; min-width: 7.5rem; }
.card b { display: block; font-size: 1.5rem; } .card span { color: var(--soft); font-size: .85rem; }
.warning { background: var(--warnback); border-left: .3rem solid var(--warn); padding: .6rem 1rem; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
tr.pooled td { font-weight: 600; } .scroll { overflow-x: auto; }
small, .note { color: var(--soft); font-size: .85rem; }
svg { max-width: 100%; height: auto; } pre { background: var(--card); padding: 1rem; overflow-x: auto; border-radius: .6rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } svg, table { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ summary.job.name }}</h1>
<p class="lead">{{ summary.classes | join(" / ") }} &middot; {{ summary.job.backbone.name }}, head trained by {{ summary.method }}
&middot; {{ summary.hospitals | length }} hospitals &middot; {{ summary.rounds }} rounds, round {{ summary.best_round }} kept
&middot; engine {{ summary.engine }}{% if summary.resumed_after_round is defined %} &middot; resumed after round
{{ summary.resumed_after_round }}{% endif %}</p>
{% if summary.random_weights %}<div class="warning"><b>Random backbone weights.</b> This run demonstrates the system. Its numbers
say nothing about diagnosis.</div>{% endif %}

<div class="cards">
{% for card in cards %}<div class="card"><b>{{ card.value }}</b><span>{{ card.title }}{% if card.interval %}<br>95 % CI
{{ card.interval }}{% endif %}</span></div>
{% endfor %}</div>
<p class="note">Measured on {{ summary.metrics.pooled.n }} test images of patients that no hospital trained on{% if two %};
sensitivity, specificity, F1 and AUROC are those of <i>{{ summary.classes[1] }}</i>{% else %}; sensitivity, specificity, F1 and
AUROC are means over the classes, each against the rest{% endif %}. Accuracy and confusion are exact; AUROC and average precision
are read from histograms of scores{% if error is not none %} (here the AUROC is within {{ error }} of the exact one){% endif %}.
A research result: it is evidence about these patients, not a licence to diagnose.</p>

{% if summary.missing_classes %}<div class="warning"><b>Hospitals that lack classes.</b><ul>
{% for name, lacking in summary.missing_classes.items() %}<li>{{ name }} has no image of {{ lacking | join(", ") }}.</li>
{% endfor %}</ul>Where a class comes from few hospitals, a model can score well by recognising the hospital. Read the table per
hospital; metrics that need a missing class are left out there, not averaged.</div>{% endif %}
{% if summary.dropped %}<div class="warning"><b>Hospitals left out.</b><ul>
{% for name, reason in summary.dropped.items() %}<li>{{ name }}: {{ reason }}</li>{% endfor %}</ul></div>{% endif %}

<h2>Test patients, hospital by hospital</h2>
<div class="scroll"><table>
<tr><th></th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row.pooled %} class="pooled"{% endif %}><td>{{ row.name }}</td>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="note">&ndash; is undefined: no test image, or no image of a class the metric needs. In the row "worst" each figure is
that of the hospital where it is worst, among those where it is defined; with few images it says little.</p>

<h2>Learning</h2>
{{ learning | safe }}
{% if lost %}<p class="note">Shaded rounds had no quorum and changed nothing.</p>{% endif %}
<h2>Ranking</h2>
{{ ranking | safe }}
<h2>Calibration</h2>
{{ calibration | safe }}
<h2>Confusion</h2>
{{ confusion | safe }}

<h2>Data</h2>
<div class="scroll"><table>
<tr><th></th>{% for part in parts %}{% for name in summary.classes %}<th>{{ part }}: {{ name }}</th>{% endfor %}<th>patients</th>
{% endfor %}<th>other labels</th><th>unreadable</th></tr>
{% for name, one in summary.hospitals.items() %}<tr><td>{{ name }}</td>
{% for part in parts %}{% for number in one.images[part] %}<td>{{ number }}</td>{% endfor %}<td>{{ one.patients[part] }}</td>
{% endfor %}<td>{{ one.other_labels }}</td><td>{{ one.unreadable }}</td></tr>
{% endfor %}</table></div>
<p class="note">Patients, not images, are split, by a hash of the seed and the patient's id. {{ summary.images.decoded }} images
were decoded in this run, {{ summary.images.cached }} came from the hospitals' feature caches.</p>

<h2>What was sent</h2>
<table>
{% for line in sent %}<tr><td>{{ line[0] }}</td><td>{{ line[1] }}</td></tr>
{% endfor %}</table>

<h2>Time</h2>
<table>
{% for phase, seconds in summary.seconds.items() %}<tr><td>{{ phase }}</td><td>{{ "%.1f" | format(seconds) }} s</td></tr>
{% endfor %}</table>

<h2>Rounds</h2>
<div class="scroll"><table>
<tr><th>round</th><th>AUROC</th><th>accuracy</th><th>log loss</th><th>training loss</th><th>hospitals</th><th>sent</th></tr>
{% for one in rounds %}<tr><td>{{ one.number }}</td>{% for cell in one.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% for name, reason in one.dropped.items() %}<tr><td></td><td colspan="6"><small>{{ name }}: {{ reason }}</small></td></tr>
{% endfor %}{% endfor %}</table></div>

<h2>How to get the same</h2>
<p>job_id <code>{{ summary.job_id }}</code><br>feature space <code>{{ summary.fingerprint }}</code><br>
backbone <code>{{ summary.backbone_digest }}</code><br>
{% for name, version in summary.versions.items() %}{{ name }} {{ version }}{% if not loop.last %}, {% endif %}{% endfor %}</p>
<pre>{{ job_yaml }}</pre>
</body>
</html>
"""
