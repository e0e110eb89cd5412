import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, FederationError
from common.job import Job, load_job
from deploy.federation import Federation
from deploy.flower import Run
from deploy.runs import (
    Outcome,
    find,
    folders,
    follow,
    new_folder,
    outcome,
    require_resumable,
    rounds_done,
    run_ids,
    start,
)

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def job() -> Job:
    return load_job(ROOT / "configs" / "demo.yaml")


@pytest.fixture
def folder(federation: Federation, job: Job) -> Path:
    return new_folder(federation, job)


class FakeFlower:
    """Answers `status` with one answer after the other."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.asked, self.configs = list(answers), 0, list[dict[str, Any]]()
        self.apps: list[set[str]] = []

    def status(self, run_id: int) -> Run:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise FederationError("no such run")
        return Run(run_id, answer, "details")

    def run(self, app: Path, config: Path) -> int:
        self.configs.append(tomllib.loads(config.read_text()))
        self.apps.append({path.name for path in app.iterdir()})
        return 100 + len(self.configs)


def test_a_folder_has_the_job_and_is_new_each_time(federation: Federation, job: Job) -> None:
    first, second = new_folder(federation, job), new_folder(federation, job)
    assert first != second
    assert load_job(first / "job.json").job_id == job.job_id
    assert first.parent == federation.runs
    assert set(folders(federation)) == {first, second}


def test_a_run_is_started_with_absolute_paths_and_its_own_copy_of_the_roster(folder: Path, tmp_path: Path) -> None:
    flower: Any = FakeFlower("running")
    roster = tmp_path / "roster.txt"
    roster.write_text("st-marys ecdsa-sha2-nistp384 AAAA\n")
    (folder / "failure.json").write_text("{}")
    assert start(flower, folder, roster) == 101
    assert start(flower, folder, roster, resume=True) == 102
    copy = folder / "roster.txt"
    assert copy.read_text() == roster.read_text()
    expected = {"job": str(folder / "job.json"), "out": str(folder), "engine": "deployment", "roster": str(copy)}
    assert flower.configs == [{**expected, "resume": False}, {**expected, "resume": True}]
    assert flower.apps[0] == {"client", "common", "server", "pyproject.toml"}
    assert run_ids(folder) == [101, 102]
    assert not (folder / "failure.json").exists()


def test_runs_are_found_by_name_path_and_id(federation: Federation, folder: Path) -> None:
    start(FakeFlower("running"), folder, federation.roster)  # type: ignore[arg-type]
    assert find(federation, folder.name) == find(federation, str(folder)) == find(federation, "101") == folder
    with pytest.raises(ConfigError, match=f"no run 'other'.*the latest are: {folder.name}"):
        find(federation, "other")


def sleeping(events: Mapping[int, Callable[[], object]]) -> Callable[[float], None]:
    """A sleep that takes no time and does something after so many times."""
    count = 0

    def sleep(_: float) -> None:
        nonlocal count
        count += 1
        events.get(count, lambda: None)()

    return sleep


def test_a_completed_run_is_followed_by_its_files_and_flower_is_asked_seldom(folder: Path) -> None:
    flower: Any = FakeFlower("running", "running", "finished:completed")
    events = {50: lambda: (folder / "summary.json").write_text("{}")}
    assert follow(flower, folder, 1, sleeping(events)) == Outcome("finished:completed", None, 0)
    assert flower.asked <= 5


def test_a_run_that_fails_says_why_with_its_exit_code(folder: Path) -> None:
    flower: Any = FakeFlower("running", "finished:failed")
    failure = json.dumps({"error": "too few hospitals", "kind": "FederationError", "exit_code": 6})
    events = {3: lambda: (folder / "failure.json").write_text(failure)}
    assert follow(flower, folder, 1, sleeping(events)) == Outcome("finished:failed", "too few hospitals", 6)


def test_a_killed_serverapp_is_noticed_by_asking_flower(folder: Path) -> None:
    flower: Any = FakeFlower(None, "running", "finished:failed")
    assert follow(flower, folder, 1, sleeping({})) == Outcome("finished:failed", "details", 6)


def test_a_summary_alone_is_no_success(folder: Path) -> None:
    (folder / "summary.json").write_text("{}")
    assert outcome(folder, Run(1, "finished:failed", "")).exit_code == 6
    assert outcome(folder, Run(1, "finished:stopped", "")).failure is not None
    (folder / "summary.json").unlink()
    assert outcome(folder, Run(1, "finished:completed", "")).exit_code == 6


def test_a_run_that_flower_never_ends_is_given_up(folder: Path) -> None:
    (folder / "summary.json").write_text("{}")
    with pytest.raises(FederationError, match="is over, but Flower calls run 1 'running'"):
        follow(FakeFlower("running"), folder, 1, sleeping({}))  # type: ignore[arg-type]


def test_what_cannot_be_gone_on_with_is_refused(federation: Federation, folder: Path) -> None:
    flower: Any = FakeFlower("running")
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        require_resumable(flower, folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.safetensors").touch()
    require_resumable(flower, folder)
    start(flower, folder, federation.roster)
    with pytest.raises(ConfigError, match=r"is still going \(run 101, running\); stop it first"):
        require_resumable(flower, folder)
    require_resumable(FakeFlower(None), folder)  # type: ignore[arg-type]
    require_resumable(FakeFlower("finished:failed"), folder)  # type: ignore[arg-type]
    (folder / "summary.json").touch()
    with pytest.raises(ConfigError, match="is a finished run"):
        require_resumable(FakeFlower("finished:completed"), folder)  # type: ignore[arg-type]


def test_rounds_are_counted_and_damaged_files_are_no_reason_to_stop(folder: Path) -> None:
    assert rounds_done(folder) == 0
    (folder / "rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"rou')
    assert rounds_done(folder) == 2
    (folder / "flower.json").write_text("{")
    assert run_ids(folder) == []
