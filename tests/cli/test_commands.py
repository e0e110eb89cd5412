"""The commands as a person runs them: what they print, and how they fail."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import run_command

PROJECT = Path(__file__).resolve().parents[2]


consilium = run_command


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    """A quick job for the phantoms."""
    path = tmp_path_factory.mktemp("jobs") / "job.yaml"
    content = {
        "name": "quick",
        "classes": ["normal", "opacity"],
        "backbone": {"name": "squeezenet1_1", "weights": "random"},
        "image": {"size": 64},
        "method": {"name": "fedavg", "rounds": 3},
        "evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run_dir(job_file, phantoms, cache_dir, tmp_path_factory):
    """A finished run, made by the command."""
    out = tmp_path_factory.mktemp("runs") / "one"
    parent = next(iter(phantoms.values())).parent
    code, stdout, stderr = consilium(
        "simulate", job_file, "--hospitals", parent, "--out", out, "--cache-dir", cache_dir
    )
    assert code == 0, stderr
    assert "hospital-b" in stdout
    assert "report.html" in stdout
    assert "RANDOM weights" in stderr
    return out


def test_simulate_leaves_a_report(run_dir):
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == 3


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_diagnose(run_dir, phantoms, output_format, tmp_path):
    images = sorted((phantoms["hospital-a"] / "images").iterdir())[:2]
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    words = ("diagnose", *images, broken, "--model", run_dir / "model.safetensors", "--format", output_format)
    code, stdout, stderr = consilium(*words, "--refer-below", "0.0")
    assert code == 3, stderr  # one image could not be read
    if output_format == "json":
        rows = json.loads(stdout)
        assert [row["problem"] is None for row in rows] == [True, True, False]
        assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows[:2])
        assert rows[0]["leaning"] in ("normal", "opacity")
    elif output_format == "csv":
        rows = list(csv.DictReader(io.StringIO(stdout)))
        assert [row["diagnosis"] for row in rows][2] == "refer to a radiologist"
        assert list(rows[0]) == [
            *("image", "diagnosis", "normal", "opacity", "confidence"),
            *("distance", "distance_limit", "turned", "reasons", "problem"),
        ]
    else:
        assert "a physician decides" in stdout
        assert "never a diagnosis" in stdout


def test_export_writes_the_card_again_and_events(run_dir, tmp_path):
    card = (run_dir / "MODEL_CARD.md").read_text()
    (run_dir / "MODEL_CARD.md").unlink()
    (run_dir / "model_card.html").unlink()
    code, stdout, stderr = consilium("export", run_dir, "--card", "--tensorboard", tmp_path / "events")
    assert code == 0, stderr
    assert (run_dir / "MODEL_CARD.md").read_text() == card
    assert "model_card.html" in stdout
    assert len(list((tmp_path / "events" / run_dir.name).iterdir())) == 1


@pytest.mark.slow
def test_export_writes_onnx_and_says_how_far_it_is_off(run_dir, phantoms, tmp_path):
    image = sorted((phantoms["hospital-a"] / "images").iterdir())[0]
    code, stdout, stderr = consilium("export", run_dir, "--onnx", tmp_path / "model.onnx", "--image", image)
    assert code == 0, stderr
    assert "over 16 random and 1 given images (at most 1e-05)" in " ".join(stdout.split())
    assert (tmp_path / "model.onnx.json").is_file()


def test_an_unsure_model_refers(run_dir, phantoms):
    image = sorted((phantoms["hospital-a"] / "images").iterdir())[0]
    words = ("diagnose", image, "--model", run_dir / "model.safetensors", "--format", "json", "--refer-below", "1.0")
    code, stdout, _ = consilium(*words)
    assert code == 0
    assert json.loads(stdout)[0]["diagnosis"] == "refer to a radiologist"


def test_report_writes_the_page_again(run_dir):
    before = (run_dir / "report.html").read_bytes()
    (run_dir / "report.html").unlink()
    code, stdout, _ = consilium("report", run_dir)
    assert code == 0
    assert "pooled" in stdout
    assert (run_dir / "report.html").read_bytes() == before


def test_check_passes_and_fails(phantoms, job_file, tmp_path):
    folder = phantoms["hospital-a"]
    code, stdout, _ = consilium("check", folder, "--job", job_file, "--cache-dir", tmp_path / "cache")
    assert code == 0
    assert "0 errors" in stdout
    (tmp_path / "st-marys" / "normal").mkdir(parents=True)
    (tmp_path / "st-marys" / "normal" / "broken.png").write_text("no image")
    code, stdout, _ = consilium("check", tmp_path / "st-marys", "--format", "json", "--cache-dir", tmp_path / "cache")
    assert code == 1
    assert json.loads(stdout)["hospitals"]["st-marys"]["unreadable"]


def test_partition_and_phantoms(job_file, phantoms, cache_dir, tmp_path):
    pooled = phantoms["hospital-a"]
    words = ("simulate", job_file, "--hospitals", pooled, "--partition", "size:hospitals=2,exponent=0.5")
    code, _, stderr = consilium(*words, "--out", tmp_path / "p", "--cache-dir", cache_dir)
    assert code == 0, stderr
    assert set(json.loads((tmp_path / "p" / "summary.json").read_text())["hospitals"]) == {"hospital-a", "hospital-b"}
    code, _, stderr = consilium(
        "simulate", job_file, "--phantoms", "--num-hospitals", 2, "--out", tmp_path / "q", "--cache-dir", tmp_path / "c"
    )
    assert code == 0, stderr
    assert json.loads((tmp_path / "q" / "summary.json").read_text())["images"]["decoded"] == 240


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("simulate", "no-such.yaml", "--phantoms"), 2, "cannot read no-such.yaml"),
        (("simulate", "{job}"), 2, "either --hospitals DIR or --phantoms"),
        (("simulate", "{job}", "--hospitals", "no-such-folder"), 3, "there is no folder no-such-folder"),
        (("simulate", "{job}", "--phantoms", "--engine", "rai"), 2, "did you mean 'ray'"),
        (("simulate", "{job}", "--phantoms", "--resume"), 2, "--resume needs --out"),
        (("simulate", "{job}", "--phantom"), 2, "No such option"),
        (
            ("simulate", "configs/chest_xray.yaml", "--phantoms"),
            2,
            "2 hospitals are given, job 'pneumonia-chest-xray' needs 3",
        ),
        (("diagnose", "x.png", "--model", "configs/demo.yaml"), 5, "as a model file"),
        (("diagnose", "x.png", "--model", "m", "--format", "xml"), 2, "expected one of table, json, csv"),
        (("report", "configs"), 5, "expected the directory of a finished run"),
        (("check", "no-such-folder"), 3, "there is no folder"),
    ],
)
def test_errors_are_a_clear_paragraph_and_a_documented_code(words, code, said, job_file, tmp_path):
    words = [str(word).replace("{job}", str(job_file)) for word in words]
    if "--phantoms" in words:
        words += ["--cache-dir", tmp_path, "--num-hospitals", "2"]
    if words[0] == "simulate" and "--resume" not in words:
        words += ["--out", tmp_path / "out"]
    found, _, stderr = consilium(*words)
    assert found == code
    assert said in " ".join(stderr.split())
    assert "Traceback" not in stderr


def test_debug_shows_the_traceback():
    code, _, stderr = consilium("--debug", "report", "configs")
    assert code == 5
    assert "Traceback" in stderr


def test_tables_and_version():
    for word, shown in (
        ("backbones", "mobilenet_v2"),
        ("methods", "bulyan"),
        ("--version", "consilium 0."),
        ("--help", "Exit codes"),
    ):
        code, stdout, _ = consilium(word)
        assert code == 0
        assert shown in stdout


@pytest.mark.parametrize("command", ["simulate", "compare", "report", "check", "diagnose", "backbones", "methods"])
def test_every_command_explains_itself_without_torch(command):
    code = f"""
import sys
sys.argv = ["consilium", "{command}", "--help"]
from cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code
assert "torch" not in sys.modules and "flwr" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
