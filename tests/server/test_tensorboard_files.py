"""Event files hold the numbers of the run, are readable by TensorBoard itself, and are written once."""

import json
import threading

import pytest

from common.errors import ArtifactError
from server.tensorboard_files import figures_of, following, round_scalars, write_events

pytest.importorskip("tensorboard")

METRICS = {"auroc": 0.75, "accuracy": None}


def line(number, **changes):
    one = {"round": number, "lost": False, "answered": ["a", "b"], "dropped": {"c": "no answer"}, "train_loss": 0.5}
    more = {"validation": {"auroc": 0.5 + number / 10, "f1": None}, "update_norms": {"a": 0.25}, "outside": {}}
    return {**one, **more, "bytes_up": 10, "bytes_down": 20, "seconds": 1.5, **changes}


def scalars_in(folder):
    """Tag -> {step: value}, read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = {}
    for file in folder.iterdir():
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps, "written twice"
                steps[event.step] = value.simple_value
    return found


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "the-run"
    folder.mkdir()
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line(number)) + "\n" for number in (1, 2)))
    metrics = {"pooled": METRICS, "hospitals": {"a": {"auroc": 0.5}}, "worst": {"auroc": 0.5, "n": 3}}
    (folder / "summary.json").write_text(json.dumps({"metrics": metrics, "best_round": 2}))
    return folder


def test_the_numbers_of_the_run_and_no_others(run_dir, tmp_path):
    where = write_events(run_dir, tmp_path / "events")
    assert where == tmp_path / "events" / "the-run"
    found = scalars_in(where)
    assert found["validation/auroc"] == {1: pytest.approx(0.6), 2: pytest.approx(0.7)}
    assert found["train/loss"] == {1: 0.5, 2: 0.5}
    assert found["update norm/a"] == {1: 0.25, 2: 0.25}
    assert (found["round/hospitals"], found["round/missing"]) == ({1: 2, 2: 2}, {1: 1, 2: 1})
    assert found["test auroc/all hospitals"] == {2: 0.75}
    assert found["test auroc/worst hospital"] == {2: 0.5}
    assert not [tag for tag in found if "f1" in tag or "accuracy" in tag]  # undefined ones


def test_written_again_they_replace_their_own_and_nothing_else(run_dir, tmp_path):
    where = write_events(run_dir, tmp_path / "events")
    (where / "note.txt").write_text("mine")
    write_events(run_dir, tmp_path / "events")
    assert (where / "note.txt").read_text() == "mine"
    (where / "note.txt").unlink()
    assert len(list(where.iterdir())) == 1


def test_a_run_is_followed_and_half_a_line_waited_for(run_dir, tmp_path):
    (run_dir / "summary.json").unlink()
    with following(run_dir, tmp_path / "events") as where, (run_dir / "rounds.jsonl").open("a") as file:
        text = json.dumps(line(3, validation=None, train_loss=None, lost=True))
        file.write(text[:20])
        file.flush()
        file.write(text[20:] + "\n")
    found = scalars_in(where)
    assert set(found["round/lost"]) == {1, 2, 3}
    assert set(found["validation/auroc"]) == {1, 2}
    assert threading.active_count() < 10


def test_no_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"no rounds\.jsonl"):
        write_events(tmp_path, tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_tags_of_undefined_numbers_are_left_out():
    assert "train/loss" not in round_scalars(line(1, train_loss=None))
    assert figures_of({"metrics": {"pooled": METRICS, "hospitals": {}, "worst": {}}}) == {
        "test auroc/all hospitals": 0.75
    }
