"""consilium hospital, as its people run it; `join` itself is tested with a real federation in tests/system."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from client.approvals import Approvals
from deploy.kit import Kit, write_kit
from deploy.processes import tool
from tests.commands import run_command

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kit(tmp_path):
    folder = tmp_path / "kit"
    write_kit(
        folder,
        Kit(federation="chest", hospital="st-marys", host="fed.example.org", port=8443, flwr="1.41.0", consilium="0"),
        b"not a certificate",
    )
    (folder / "hospital.yaml").write_text(
        f"name: st-marys\ndata: {{folder: {tmp_path}}}\ncache: {tmp_path / 'cache'}\nstate: {tmp_path / 'state'}\n"
    )
    return folder


@pytest.fixture
def hospital(kit):
    """Runs `consilium hospital ...` in the kit: exit code, standard output, standard error."""

    def run(*words, answer=""):
        return run_command("hospital", *words, cwd=kit, environment={"COLUMNS": "120"}, answer=answer)

    return run


@pytest.fixture
def approvals(tmp_path):
    return Approvals(tmp_path / "state")


def test_keygen_says_what_to_send_and_keeps_the_private_key_private(hospital, kit):
    code, out, err = hospital("keygen")
    assert code == 0, err
    assert "node_key.pub" in out
    assert "SHA256:" in out
    assert (kit / "node_key").stat().st_mode & 0o777 == 0o600
    code, _, err = hospital("keygen")
    assert (code, "never overwritten" in err) == (2, True)


def test_outside_of_a_kit_every_command_says_so(hospital, tmp_path):
    for words in (("keygen",), ("join",)):
        code, _, err = hospital(*words, "--kit", tmp_path / "nowhere")
        assert code == 2
        assert "not a hospital's kit" in err


def test_a_job_is_read_and_approved(hospital, approvals, job):
    assert "no job was asked" in hospital("jobs")[1]
    approvals.note(job())
    code, out, _ = hospital("jobs")
    assert (code, "waits" in out, job().job_id[:12] in out) == (0, True, True)

    code, out, err = hospital("approve", job().job_id[:8], answer="n\n")
    assert (code, "interrupted" in err) == (130, True)
    assert "never leaves" in out
    assert not approvals.allows(job().job_id)

    code, out, _ = hospital("approve", job().job_id[:8], answer="y\n")
    assert (code, f"approved {job().job_id}" in out) == (0, True)
    assert approvals.allows(job().job_id)
    [row] = json.loads(hospital("jobs", "--format", "json")[1])
    assert (row["job_id"], row["name"]) == (job().job_id, "test-job")
    assert " by " in row["approved"]

    assert "revoked" in hospital("revoke", job().job_id)[1]
    assert not approvals.allows(job().job_id)
    assert "was not approved" in hospital("revoke", job().job_id)[1]


def test_what_is_approved_is_shown_in_full(hospital, approvals, job):
    approvals.note(job())
    _, out, _ = hospital("approve", job().job_id, "--yes")
    shown = yaml.safe_load(out.split("in full:")[1].rsplit("approved", 1)[0])
    assert shown == job().model_dump(mode="json", exclude_none=True)


def test_a_job_is_approved_by_its_file_before_anybody_asks(hospital, approvals, job, tmp_path):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job().model_dump(mode="json", exclude_none=True)))
    code, _, err = hospital("approve", tmp_path / "job.yaml", "--yes")
    assert code == 0, err
    assert approvals.allows(job().job_id)


@pytest.mark.parametrize("word", ["abcdef12", "ab", "../../etc"])
def test_a_job_that_is_not_known(hospital, word):
    code, _, err = hospital("approve", word, "--yes")
    assert code == 2
    assert "hex digits" in err or "known here: none" in err


def test_status_and_health_of_a_hospital_that_is_away(hospital, approvals, job):
    approvals.note(job())
    code, out, _ = hospital("status")
    assert code == 1
    assert "does not answer" in out
    assert f"consilium hospital approve {job().job_id[:12]}" in out
    code, out, _ = hospital("status", "--format", "json")
    found = json.loads(out)
    assert (code, found["serving"], found["waiting"]) == (1, False, [{"name": "test-job", "job_id": job().job_id}])
    assert hospital("health")[0] == 1
    assert "nothing runs here" in hospital("stop")[1]


def test_nothing_that_lies_in_the_kit_is_run(hospital, kit, tmp_path):
    """A coordinator that puts Python files into the kit must not get them run by the user who can read images."""
    for name in ("cli/main.py", "typer.py", "yaml.py"):
        (kit / name).parent.mkdir(exist_ok=True)
        (kit / name).write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    # Not by `hospital`: that one imports everything elsewhere.
    assert subprocess.run([tool("consilium"), "hospital", "keygen"], cwd=kit, check=False).returncode == 0
    # It would wait two minutes for a coordinator that is not there; what it starts in the background is up long before.
    joining = subprocess.Popen([tool("consilium"), "hospital", "join", "--detach"], cwd=kit, stdout=subprocess.DEVNULL)
    state, end = kit / "run" / "supervisor.json", time.monotonic() + 60
    while not state.exists() and joining.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert state.exists()
    subprocess.run([tool("consilium"), "hospital", "stop"], cwd=kit, check=False)
    joining.kill()
    joining.wait()
    assert not (tmp_path / "was-run").exists()


def test_a_wrong_format_lists_the_choices(hospital):
    code, _, err = hospital("jobs", "--format", "xml")
    assert (code, "expected table or json" in err) == (2, True)


def test_a_hospital_file_that_is_wrong_stops_the_agent_at_once(hospital, kit):
    (kit / "hospital.yaml").write_text("name: st-marys\ndevise: cuda\n")
    code, _, err = hospital("serve", "--socket", "/tmp/never.sock")
    assert code == 2
    assert "did you mean 'device'" in err
