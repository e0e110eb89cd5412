"""The page of `client/check_page.py`, as a jinja2 template."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Images of {{ hospital }} – Consilium check</title>
<style>
:root { color-scheme: light dark; --ink: #1b2a41; --soft: #566273; --line: #d9dee6; --card: #f5f7fa; --page: #fff;
  --warn: #a04a08; --good: #15703d; --bar: #2f6db5; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a9b3c1; --line: #333b49; --card: #1c222d;
  --page: #12161d; --warn: #f5b75a; --good: #6fd39a; --bar: #6aa5e8; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 72rem;
  padding: 2rem 1.2rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } p { max-width: 50rem; } .soft { color: var(--soft); }
a { color: var(--bar); } a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--bar);
  outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { position: static; }
.box { background: var(--card); border-left: .3rem solid var(--good); padding: .7rem 1rem; margin: 1.2rem 0; }
.bad { border-color: var(--warn); } .box ul { margin: .3rem 0; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { text-align: right; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; } tbody th, th:first-child, .words { text-align: left; }
.gallery { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem,
1fr)); gap: .8rem; }
.gallery figure { margin: 0; background: var(--card); border-radius: .5rem; padding: .5rem; height: 100%; box-sizing:
border-box; }
.gallery img { display: block; max-width: 100%; height: auto; margin: 0 auto .4rem; background: #000; }
figcaption { font-size: .8rem; line-height: 1.35; } figcaption b { display: block; font-weight: 600; }
.track { background: var(--card); width: 16rem; height: .8rem; } .track div { background: var(--bar); height: 100%; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } figure, tr, .box { break-inside: avoid; } .skip
{ display: none; } }
</style>
</head>
<body>
{% macro gallery(some, label) %}
<ul class="gallery" aria-label="{{ label }}">
{% for one in some.pictures %}
<li><figure>{% if one.data %}<img src="{{ one.data }}" alt="{{ one.name }}, {{ one.words }}">{% endif %}
<figcaption><b>{{ one.name }}</b>{{ one.words }}</figcaption></figure></li>
{% endfor %}
</ul>
{% if some.further %}
<details><summary>{{ some.total - some.pictures | length }} more, without pictures</summary>
<ul>{% for name, words in some.further %}<li><b>{{ name }}</b>: {{ words }}</li>{% endfor %}</ul>
{% if some.left_out %}<p>and {{ some.left_out }} that are not listed</p>{% endif %}
</details>
{% endif %}
{% endmacro %}
<a class="skip" href="#main">To what was found</a>
<header>
<h1>Images of {{ hospital }}</h1>
<p class="soft">Made by <code>consilium check</code>{% if job %} for job <b>{{ job.name }}</b>{% endif %}. This page
has patients' pictures and
names of files in it. It is for this hospital's own people; nothing of it is sent anywhere.</p>
<nav aria-label="Sections"><ul>
<li><a href="#counts">Counts</a></li><li><a href="#unreadable">Unreadable ({{ unreadable | length }})</a></li>
<li><a href="#faults">Grey values ({{ faults.total }})</a></li><li><a href="#turned">Orientation ({{ turned.total }})</a></li>
<li><a href="#duplicates">Duplicates ({{ groups | length + more_groups }})</a></li>
<li><a href="#elsewhere">At other hospitals ({{ elsewhere.total }})</a></li>
<li><a href="#labels">Labels in doubt ({{ labels.total }})</a></li><li><a href="#drift">Drift</a></li>
<li><a href="#sheet">What the network sees</a></li></ul></nav>
</header>
<main id="main">
{% if errors or warnings %}
<div class="box bad"><b>{{ errors | length }} errors and {{ warnings | length }} warnings.</b>
<ul>{% for one in errors %}<li><b>error:</b> {{ one }}</li>{% endfor %}
{% for one in warnings %}<li>warning: {{ one }}</li>{% endfor %}</ul></div>
{% else %}
<div class="box"><b>No errors and no warnings about files, labels and grey values.</b></div>
{% endif %}
{% if unseen %}
<div class="box bad"><b>Not looked at:</b>
<ul>{% for one in unseen %}<li>{{ one }}</li>{% endfor %}</ul></div>
{% endif %}

<h2 id="counts">Counts and sizes</h2>
<p>{{ images }} images of {{ patients }} patients.</p>
{% if found %}
<div class="scroll" tabindex="0" role="region" aria-label="Images by class"><table>
<caption>Images by class. Sizes: smallest to largest, in pixels.</caption>
<thead><tr><th scope="col">class</th><th scope="col">images</th><th scope="col">patients</th><th scope="col">width × height</th>
<th scope="col">bits</th></tr></thead><tbody>
{% for label, one in found.classes.items() %}
<tr><th scope="row">{{ label }}</th><td>{{ one.images }}</td><td>{{ one.patients }}</td><td>{{ sizes(one) }}</td>
<td>{{ one.bit_depths.keys() | join(", ") or "–" }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="scroll" tabindex="0" role="region" aria-label="Images by part"><table>
<caption>Images by part of the patients{% if not job %}, if a job left the split as it is by default{% endif %}.</caption>
<thead><tr>{% for part in found.images_by_part %}<th scope="col">{{ part }}</th>{% endfor %}</tr></thead>
<tbody><tr>{% for number in found.images_by_part.values() %}<td>{{ number }}</td>{% endfor %}</tr></tbody></table></div>
{% endif %}

<h2 id="unreadable">Unreadable files</h2>
{% if unreadable %}
<ul>{% for name, problem in unreadable[:200] %}<li><b>{{ name }}</b>: {{ problem }}</li>{% endfor %}</ul>
{% if unreadable | length > 200 %}<p>and {{ unreadable | length - 200 }} more</p>{% endif %}
{% else %}<p>None.</p>{% endif %}

<h2 id="faults">Blank, overexposed and dark images</h2>
{% if faults.total %}{{ gallery(faults, "Images with faults of their grey values") }}{% else %}<p>None.</p>{% endif %}

<h2 id="turned">Images that look turned or inverted</h2>
{% if turned.total %}
<p>A small head, trained on turned and inverted copies of this hospital's own images, takes these for one. Look at
them: it can be wrong.</p>
{{ gallery(turned, "Images that look turned or inverted") }}
{% else %}<p>None was found.</p>{% endif %}

<h2 id="duplicates">Duplicates inside this hospital</h2>
{% if groups %}
{% for words, pictures in groups %}
<h3>{{ words }}</h3>
<ul class="gallery" aria-label="A group of duplicates">
{% for one in pictures %}
<li><figure>{% if one.data %}<img src="{{ one.data }}" alt="{{ one.name }}, {{ one.words }}">{% endif %}
<figcaption><b>{{ one.name }}</b>{{ one.words }}</figcaption></figure></li>
{% endfor %}
</ul>
{% endfor %}
{% if more_groups %}<p>and {{ more_groups }} more groups; <code>consilium check --format json</code> has them all</p>{% endif %}
{% else %}<p>None.</p>{% endif %}

<h2 id="elsewhere">Images that another hospital has too</h2>
{% if elsewhere.total %}{{ gallery(elsewhere, "Images that another hospital has too") }}{% else %}<p>None is known.</p>{% endif %}

<h2 id="labels">Labels in doubt</h2>
{% if labels.total %}
<p>Heads that never saw these patients take these images for another class. The surest come first; <i>perhaps</i>
stands where they are less
sure than they usually are of that class. Where classes look alike to the network, many of these labels are right.</p>
{{ gallery(labels, "Images whose labels are in doubt") }}
{% else %}<p>None was found.</p>{% endif %}

<h2 id="drift">Drift from the other hospitals</h2>
{% if drift %}
<p>Compared with {{ drift.source }}: the mean of this hospital's {{ drift.images }} images is <b>{{ "%.2f" |
format(drift.shift) }}</b>
standard deviations off, over all features of the network, and <b>{{ "%.0f" | format(100 * drift.outside) }} %</b> of
the images are more
than {{ "%g" | format(outside) }} times as far from the federation's mean as its images are on average.
{% if drift.far %}<b>That is far</b> (in one stage of the network below more than {{ "%g" | format(far) }}): are
exposure, orientation, cropping, devices or patients different
here?{% else %}That is not far (in no stage of the network more than {{ "%g" | format(far) }}).{% endif %}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Drift by stage"><table>
<caption>By stage of the network: the first see brightness, contrast and noise, the last see what is shown.</caption>
<thead><tr><th scope="col">stage</th><th scope="col">deviations</th><td></td></tr></thead><tbody>
{% for stage, shift, width in bars %}
<tr><th scope="row">{{ stage }}</th><td>{{ "%.2f" | format(shift) }}</td>
<td aria-hidden="true"><div class="track"><div style="width: {{ "%.0f" | format(width) }}%"></div></div></td></tr>
{% endfor %}
</tbody></table></div>
{% if strange.total %}<h3>The images farthest off</h3>{{ gallery(strange, "The images farthest from the federation") }}{% endif %}
{% else %}<p>Not looked at: see above.</p>{% endif %}

<h2 id="sheet">What the network will see</h2>
<p>A few images of each class after preprocessing, {{ size_px }} × {{ size_px }} pixels, as they enter the network.</p>
{% for label, pictures in sheet %}
<h3>{{ label }}</h3>
<ul class="gallery" aria-label="Samples of {{ label }}">
{% for one in pictures %}
<li><figure><img src="{{ one.data }}" alt="{{ one.name }}, as the network sees it"><figcaption>{{ one.name
}}</figcaption></figure></li>
{% endfor %}
</ul>
{% endfor %}
</main>
</body>
</html>
"""
