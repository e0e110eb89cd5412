"""consilium advise as a person runs it."""

import json
from pathlib import Path

import pytest
import yaml

from common.job import load_job, parse_job
from tests.commands import run_command

PROJECT = Path(__file__).resolve().parents[2]
JOB = """\
name: quick
classes: [normal, opacity]
modality: chest-xray
backbone: {name: squeezenet1_1, weights: random}
image: {size: 64}
method: {name: fedavg, rounds: 3}   # mine
"""


def advise(*words):
    """Run the command: exit code, standard output, standard error."""
    return run_command("advise", *words)


@pytest.fixture
def words(phantoms, cache_dir, tmp_path):
    """A job, the phantoms, and an inventory with a GPU at one of them."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "machines.yaml").write_text(
        "default: {device: cpu, images_per_s: 50}\nhospitals:\n"
        "  hospital-b: {device: cuda, gpu_memory_gb: 24, images_per_s: 2000}\n"
    )
    parent = next(iter(phantoms.values())).parent
    inventory = tmp_path / "machines.yaml"
    return [tmp_path / "job.yaml", "--hospitals", parent, "--inventory", inventory, "--cache-dir", cache_dir]


def test_the_page_ends_with_a_job_that_can_be_run(words, tmp_path):
    code, stdout, stderr = advise(*words, "--out", tmp_path / "new" / "advised.yaml")
    assert code == 0, stderr
    written = (tmp_path / "new" / "advised.yaml").read_text()
    assert stdout.endswith(f"\n\n{written}")
    job = load_job(tmp_path / "new" / "advised.yaml")
    assert job.method.name == "analytic"
    page = " ".join(stdout.split())
    for said in ("cuda 24 GB (stated)", "hospital-c", "training images against", "arXiv 2406.01116", "to know"):
        assert said in page
    assert "Traceback" not in stderr


def test_json_says_the_same(words):
    code, stdout, stderr = advise(*words, "--format", "json")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert set(found["hospitals"]) == {"hospital-a", "hospital-b", "hospital-c"}
    assert found["hospitals"]["hospital-b"]["machine"]["images_per_s"] == 2000
    assert all(one["reason"] and one["source"] for one in found["recommendations"])
    assert parse_job(yaml.safe_load(found["recommended_job"])).method.name == "analytic"


def test_errors_name_what_to_do(words, tmp_path):
    code, _, stderr = advise(*words, "--format", "xml")
    assert (code, "expected one of table, json" in stderr) == (2, True)
    code, _, stderr = advise(*words, "--out", tmp_path / "job.yaml")
    assert (code, "name a new file" in " ".join(stderr.split())) == (2, True)
    (tmp_path / "machines.yaml").write_text("hospitals: {hospital-x: {cores: 3}}\n")
    code, _, stderr = advise(*words)
    assert (code, "unknown hospital 'hospital-x'" in " ".join(stderr.split())) == (2, True)
