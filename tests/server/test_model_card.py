"""The model card says what the files say, where there is no data, and nothing in a name is markup."""

import json
import re

import numpy as np
import pytest

from common.errors import ArtifactError
from common.groups import group_names
from server.aggregation import Grouped
from server.counts_check import groups_problem
from server.model_card import CARD, CARD_PAGE, write_card
from server.model_card_page import in_markdown
from server.numbers import number
from server.recorder import Recorder
from server.rounds import Hooks, run_job
from server.summary import by_group

SECTIONS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses: all hospitals, each, and the worst",
    "Quantitative analyses: differences between hospitals",
    "Quantitative analyses: sex and age bands",
    "Quantitative analyses: calibration",
    "Ethical considerations: privacy",
    "Caveats and recommendations",
]


@pytest.fixture
def run_of(job, exchange_with, scripted, tmp_path):
    """A run directory of scripted hospitals; call it with the sections of the job to change, and hospitals."""

    def make(hospitals=None, **changes):
        made = job(**changes)
        exchange = exchange_with(hospitals or {"alpha": scripted(), "beta": scripted()})
        with Recorder(tmp_path / "run", made, "test") as recorder:
            recorder.finish(run_job(made, exchange, Hooks(judged=[recorder.judged], checkpoint=[recorder.save])))
        return tmp_path / "run"

    return make


def section(card, title):
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_card_follows_its_structure_and_its_figures_are_those_of_the_summary(run_of):
    folder = run_of()
    assert write_card(folder) == (folder / CARD, folder / CARD_PAGE)
    card, page = (folder / CARD).read_text(), (folder / CARD_PAGE).read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    pooled = summary["metrics"]["pooled"]
    low, high = pooled["intervals"]["auroc"]
    [row] = [line for line in card.splitlines() if line.startswith("| all hospitals")]
    assert f"| {number(pooled['auroc'])} ({low:.3f} to {high:.3f}) |" in row
    assert summary["job_id"] in card
    assert summary["backbone_digest"] in page
    assert "Not for clinical use without approval" in section(card, "Intended use")
    test = summary["hospitals"]["alpha"]["images"]["test"]
    assert f"| alpha | 16 | {test[0]} | {test[1]} |" in section(card, "Evaluation data")
    # Every table has as many cells in each row as in its heading.
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}) == 1
    assert not re.search(r"https?:|<script|<link|<img|src=", page)


def test_calibration_before_and_after_the_temperature(run_of):
    folder = run_of(method="analytic", features={"stages": "last"})
    write_card(folder)
    chosen = json.loads((folder / "summary.json").read_text())["closed_form"]
    said = section((folder / CARD).read_text(), SECTIONS[9])
    assert f"| validation patients, before the temperature | {number(chosen['ece_before'])} |" in said
    assert f"| {number(chosen['ece_after'])} |" in said
    assert "| mean confidence |" in said


def test_a_section_without_data_says_so(run_of):
    folder = run_of()
    write_card(folder)
    card = (folder / CARD).read_text()
    assert "No data from before calibration" in section(card, SECTIONS[9])
    assert "No data: the job does not ask for it" in section(card, SECTIONS[8])
    assert "nothing is known of differences by sex or age" in section(card, SECTIONS[11])
    assert "No privacy budget" in section(card, SECTIONS[10])
    (folder / "model.safetensors").unlink()
    write_card(folder)
    assert "no data: there is no model file" in (folder / CARD).read_text()


def test_sums_over_hospitals_and_a_spent_budget(run_of, monkeypatch):
    """A private run has no figures by hospital; its summary is made by hand of that of a plain one."""
    folder = run_of()
    summary, job = (json.loads((folder / name).read_text()) for name in ("summary.json", "job.json"))
    budget = {"epsilon": 3.0, "delta": 1e-5, "noise": "shared", "colluding": 0}
    for one in (summary["job"], job):
        one["privacy"] = {"secure_aggregation": True, "differential_privacy": budget}
    metrics = {**summary["metrics"], "hospitals": {}, "worst": {"n": 0}, "worst_hospital": {}}
    summary |= {"metrics": metrics, "hospitals": {}, "patients": 120}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "job.json").write_text(json.dumps(job))
    write_card(folder)
    card = (folder / CARD).read_text()
    assert "| epsilon spent | 3 |" in section(card, SECTIONS[10])
    assert "| delta | 1e-05 |" in section(card, SECTIONS[10])
    assert "about 120 patients in training, by a noised count" in section(card, SECTIONS[5])
    for title in SECTIONS[6:8]:
        assert "saw sums over hospitals only" in section(card, title)


def test_groups_are_told_by_hospitals_added_and_derived(run_of, scripted):
    changes = {"evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2, "groups": ["sex", "age_band"]}}
    hospitals = {"alpha": scripted(), "beta": scripted()}
    folder = run_of(hospitals, **changes)
    assert [one.asked.count("groups") for one in hospitals.values()] == [1, 1]
    summary, counts = (json.loads((folder / name).read_text()) for name in ("summary.json", "counts.json"))
    told = counts["groups"]
    assert [tuple(name) for name in told["names"]] == group_names(["sex", "age_band"])
    total = np.sum([told["confusion"][name] for name in hospitals], axis=0)
    assert told["confusion"]["pooled"] == total.tolist()
    female = summary["groups"]["sex"]["female"]
    assert female["n"] == total[0].sum() > 0
    assert female["accuracy"] == pytest.approx(np.trace(total[0]) / total[0].sum())
    assert (female["hospitals"], female["auroc"], female["brier"]) == (2, None, None)
    assert summary["groups"]["sex"]["male"]["n"] == 0
    write_card(folder)
    said = section((folder / CARD).read_text(), SECTIONS[8])
    assert f"| female | {female['n']} | 2 | {number(female['accuracy'])} (" in said
    assert "| male | withheld |" in said
    assert "| 80+ | withheld |" in said


def test_no_hospital_tells_a_group(job):
    made = job(evaluation={"groups": ["sex"]})
    found = by_group(made, Grouped())
    assert {group: one["n"] for group, one in found["sex"].items()} == {"female": 0, "male": 0}
    assert by_group(job(), Grouped()) == {}


def test_a_hospital_with_more_in_its_groups_than_it_has_is_dropped(run_of, scripted):
    def more(_kind, records):
        records["arrays"] = type(records["arrays"])({"confusion": _array(records)})
        return records

    def _array(records):
        from flwr.app import Array

        return Array(records["arrays"]["confusion"].numpy() + np.int32(9))

    changes = {"evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2, "groups": ["sex"]}}
    hospitals = {"alpha": scripted(), "beta": scripted(tamper=more, kinds=("groups",))}
    folder = run_of(hospitals, **changes)
    summary, counts = (json.loads((folder / name).read_text()) for name in ("summary.json", "counts.json"))
    assert set(counts["groups"]["confusion"]) == {"pooled", "alpha"}
    [failure] = summary["failures"]
    assert (failure["hospital"], failure["phase"]) == ("beta", "groups")
    assert "more images than the test patients" in failure["reason"]


def test_the_guard_adds_up_each_attribute_by_itself(job):
    made, support = job(evaluation={"groups": ["sex", "age_band"]}), np.array([4, 2])
    confusion = np.zeros((7, 2, 2), np.int32)
    confusion[[0, 3], 0, 0] = 4
    assert groups_problem(confusion, made, support) is None
    confusion[6, 0, 1] = 1
    assert groups_problem(confusion, made, support) == "the groups of age_band have more images than the test patients"


def test_names_are_no_markup():
    assert str(in_markdown("a|b\n# <b>*c*")) == r"a\|b \# \<b\>\*c\*"


def test_a_damaged_run_is_told(run_of, tmp_path):
    folder = run_of()
    summary = json.loads((folder / "summary.json").read_text())
    del summary["metrics"]["pooled"]["ece"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ArtifactError, match=r"summary\.json is damaged"):
        write_card(folder)
    with pytest.raises(ArtifactError, match="expected the directory of a finished run"):
        write_card(tmp_path)
