"""consilium compare as a person runs it."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.commands import run_command

PROJECT = Path(__file__).resolve().parents[2]
JOB = """\
name: quick
classes: [normal, opacity]
backbone: {name: squeezenet1_1, weights: random}
image: {size: 64}
method: {name: fedavg, rounds: 3}
evaluation: {test_fraction: 0.25, validation_fraction: 0.2}
"""


def compare(*words):
    """Run the command: exit code, standard output, standard error."""
    return run_command("compare", *words, environment={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def words(phantoms, cache_dir, tmp_path_factory):
    """A job, the phantoms, and a folder for the comparison."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "job.yaml").write_text(JOB)
    parent = next(iter(phantoms.values())).parent
    return [folder / "job.yaml", "--hospitals", parent, "--cache-dir", cache_dir, "--out", folder / "out"]


def test_the_table_and_its_other_forms(words):
    rows = ("--rows", "alone,pooled", "--rows", "analytic-last,job")
    code, stdout, stderr = compare(*words, *rows)
    assert code == 0, stderr
    lines = stdout.splitlines()
    for name in ("hospital-a alone", "hospital-c alone", "all images in one place", "analytic-last", "job"):
        assert any(line.startswith(name) for line in lines)
    assert max(map(len, lines)) <= 110
    assert "One seed shows no spread" in stdout
    assert "6/6" in stderr
    assert "job, seed 0: AUROC 0." in stderr
    out = words[-1]
    assert f"table   {out / 'compare.html'}" in stderr
    code, stdout, _ = compare(*words, *rows, "--format", "json")
    assert json.loads(stdout)["rows"] == json.loads((out / "compare.json").read_text())["rows"]
    code, stdout, _ = compare(*words, "--rows", "job", "--format", "csv")
    assert {line["row"] for line in csv.DictReader(io.StringIO(stdout))} == {"job"}
    code, stdout, _ = compare(*words, "--rows", "job", "--format", "markdown")
    assert stdout.startswith("| trained by |")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--rows", "fedavg,fedprx"), 2, "unknown row 'fedprx'; did you mean 'fedprox'?; choose one of: alone, pooled"),
        (("--methods", "pooled"), 2, "unknown row 'pooled'"),
        (("--methods", "fedavg", "--rows", "fedavg"), 2, "not both"),
        (("--format", "xml"), 2, "unknown format 'xml'"),
        (("--seeds", "0"), 2, "--seeds"),
        (("--phantoms",), 2, "either --hospitals DIR or --phantoms"),
    ],
)
def test_errors_are_a_clear_paragraph_and_a_documented_code(words, more, code, said):
    found, _, stderr = compare(*words, *more)
    assert found == code
    assert said in " ".join(stderr.split())


def test_the_help_lists_the_rows():
    code, stdout, _ = compare("--help")
    assert code == 0
    for name in ("random-backbone", "scratch", "last-blocks", "bulyan", "fedavg-warm"):
        assert f"{name}:" in stdout
