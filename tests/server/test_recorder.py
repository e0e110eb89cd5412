"""The run directory while a run is written: cut off at any place it goes on to the same bytes."""

import json

import pytest

from common.artifact import load_model
from common.errors import ArtifactError, ConfigError
from server.recorder import LAST_CHECKPOINT, ROUNDS, Recorder
from server.rounds import Hooks, run_job
from server.run_directory import read_run
from server.storage import FAILURE
from simulation.grid import InProcessGrid

METHODS = [
    {"name": "fedavg", "rounds": 4},
    {"name": "fedadam", "rounds": 4},
    {"name": "fedavgm", "rounds": 4},
    {"name": "scaffold", "rounds": 4, "batch_size": 8},
    {"name": "fedavg", "rounds": 4, "patience": 2},
    {"name": "analytic"},
    {"name": "fedadam", "rounds": 3, "warm_start": "analytic"},
    {"name": "scaffold", "rounds": 3, "warm_start": "analytic", "batch_size": 8},
]


LIKE_OTHERS = (METHODS[1], METHODS[2], METHODS[6])


def named(method):
    return "-".join(str(part) for part in ("warm" if "warm_start" in method else "", *method.values()))


class CutOffError(Exception):
    """In place of a power cut."""


@pytest.fixture
def hospitals(scripted, examples):
    """Two hospitals that always answer the same."""

    def make():
        one, other = examples(1, [[20, 10], [6, 5], [7, 7]]), examples(2, [[9, 16], [5, 5], [6, 8]])
        return {"alpha": scripted(examples=one, step=0.3), "beta": scripted(examples=other, step=-0.1)}

    return make


@pytest.fixture
def run(small_job, exchange_with, hospitals, tmp_path):
    """Run a job in a folder; `cut` is called before and after each writing, and may raise."""

    def make(method, name, cut=lambda *_: None, resume=False, grid_class=InProcessGrid, **changes):
        job = small_job(method=method, **changes)
        exchange = exchange_with(hospitals(), grid_class)
        with Recorder(tmp_path / name, job, "test", resume) as recorder:

            def both(what, write, told, number):
                cut(f"before {what}", number, recorder)
                write(told)
                cut(f"after {what}", number, recorder)

            hooks = Hooks(
                described=[lambda _: cut("described", 0, recorder)],
                judged=[lambda made: both("line", recorder.judged, made, made.number)],
                checkpoint=[lambda state: both("checkpoint", recorder.save, state, state.last.number)],
            )
            outcome = run_job(job, exchange, hooks, recorder.checkpoint)
            cut("before the end", 0, recorder)
            recorder.finish(outcome)
        return outcome, recorder.folder

    return make


def left_in(folder):
    """What a run leaves, without the time and what was sent: the bits of the model, the rounds, counts and figures."""
    lines = [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    kept = ("metrics", "failures", "best_round", "rounds", "closed_form")
    model, manifest = load_model(folder / "model.safetensors")
    return (
        {name: array.tobytes() for name, array in model.arrays().items()},
        manifest,
        [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        (folder / "counts.json").read_bytes(),
        {key: summary[key] for key in kept},
    )


@pytest.mark.parametrize(
    "method",
    [pytest.param(one, marks=pytest.mark.slow if one in LIKE_OTHERS else (), id=named(one)) for one in METHODS],
)
def test_cut_off_at_any_place_a_run_goes_on_to_the_same_bytes(method, run):
    """Once at every place where something is written, before it and after it."""
    places = []
    _, whole = run(method, "whole", lambda *place: places.append(place[:2]))
    expected = left_in(whole)
    assert len(places) >= 6
    for at, place in enumerate(places):

        def cut(what, number, _, place=place):
            if (what, number) == place:
                raise CutOffError

        with pytest.raises(CutOffError):
            run(method, f"cut-{at}", cut)
        _, folder = run(method, f"cut-{at}", resume=True)
        assert left_in(folder) == expected, place
        read_run(folder)


class SilentInRoundTwo(InProcessGrid):
    """Nobody answers the second round, however often it is asked for."""

    def _deliver(self, message):
        silent = message.metadata.message_type == "train" and message.metadata.group_id == "2"
        return [] if silent else super()._deliver(message)


def test_a_lost_round_is_asked_for_again(run):
    """It makes no checkpoint; cut off after it, the run goes on from the round before, and loses it again."""
    settings = {"grid_class": SilentInRoundTwo, "quorum": {"min_hospitals": 1, "deadline_s": 0.1}}
    places = []
    _, whole = run(METHODS[2], "whole", lambda *place: places.append(place[:2]), **settings)
    expected = left_in(whole)
    assert [line["lost"] for line in expected[2]] == [False, True, False, False]
    assert ("after line", 2) in places
    assert ("after checkpoint", 2) not in places
    for at, place in enumerate(places):

        def cut(what, number, _, place=place):
            if (what, number) == place:
                raise CutOffError

        with pytest.raises(CutOffError):
            run(METHODS[2], f"cut-{at}", cut, **settings)
        _, folder = run(METHODS[2], f"cut-{at}", resume=True, **settings)
        assert left_in(folder) == expected, place


@pytest.mark.parametrize("half", ["{", '{"round": 2, "lost": fal', "\0\0\0\0"])
def test_half_a_line_is_forgotten(half, run):
    _, whole = run(METHODS[0], "whole")

    def cut(what, number, recorder):
        if (what, number) == ("before line", 2):
            with (recorder.folder / ROUNDS).open("a") as file:
                file.write(half)
            raise CutOffError

    with pytest.raises(CutOffError):
        run(METHODS[0], "cut", cut)
    _, folder = run(METHODS[0], "cut", resume=True)
    assert left_in(folder) == left_in(whole)


def test_a_run_may_be_cut_off_many_times(run):
    """Each process makes one round more."""
    _, whole = run(METHODS[3], "whole")

    def cut(what, number, recorder):
        begun = recorder.checkpoint.last.number if recorder.checkpoint else 0
        if (what, number) == ("after checkpoint", begun + 1):
            raise CutOffError

    for again in range(4):
        with pytest.raises(CutOffError):
            run(METHODS[3], "cut", cut, resume=again > 0)
    _, folder = run(METHODS[3], "cut", resume=True)
    assert left_in(folder) == left_in(whole)


def test_bytes_seconds_and_failures_are_those_of_all_processes(run):
    outcome, whole = run(METHODS[0], "whole")

    def cut(what, number, _):
        if (what, number) == ("after checkpoint", 3):
            raise CutOffError

    with pytest.raises(CutOffError):
        run(METHODS[0], "cut", cut)
    resumed, folder = run(METHODS[0], "cut", resume=True)
    # Only the describing is done twice, and it asks for little.
    described = resumed.bytes_up - outcome.bytes_up
    assert 0 < described < outcome.bytes_up / 4
    assert set(resumed.seconds) == set(outcome.seconds)
    assert all(resumed.seconds[phase] > 0 for phase in resumed.seconds)
    assert resumed.seconds["total"] >= resumed.seconds["fit"] + resumed.seconds["evaluate"]
    assert json.loads((folder / "summary.json").read_text())["resumed_after_round"] == 3
    assert "resumed_after_round" not in json.loads((whole / "summary.json").read_text())


def test_a_line_that_the_checkpoint_builds_on_must_be_there(run, tmp_path):
    def cut(what, number, _):
        if (what, number) == ("after checkpoint", 3):
            raise CutOffError

    with pytest.raises(CutOffError):
        run(METHODS[0], "cut", cut)
    path = tmp_path / "cut" / ROUNDS
    path.write_text(path.read_text().split("\n", 1)[1])
    with pytest.raises(ArtifactError, match=r"builds on 2 rounds, and round 1 is missing"):
        run(METHODS[0], "cut", resume=True)


def test_a_run_that_is_not_there_or_is_finished_cannot_be_gone_on_with(run, tmp_path):
    with pytest.raises(ArtifactError, match="holds no run to go on with"):
        run(METHODS[0], "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    _, folder = run(METHODS[0], "done")
    before = left_in(folder)
    with pytest.raises(ConfigError, match="holds a finished run"):
        run(METHODS[0], "done", resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        run(METHODS[0], "done")
    assert left_in(folder) == before


def test_another_job_leaves_the_run_as_it_is(run, tmp_path):
    def cut(what, number, _):
        if (what, number) == ("after checkpoint", 2):
            raise CutOffError

    with pytest.raises(CutOffError):
        run(METHODS[0], "cut", cut)
    before = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="of another job"):
        run(METHODS[1], "cut", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()} == before


def test_a_second_process_is_refused_and_the_first_is_not_disturbed(small_job, tmp_path):
    with Recorder(tmp_path / "run", small_job(), "test"):
        for resume in (False, True):
            with pytest.raises(ConfigError, match="another process writes the run"):
                Recorder(tmp_path / "run", small_job(), "test", resume)


def test_a_failure_is_gone_when_the_run_goes_on(small_job, tmp_path):
    Recorder(tmp_path / "run", small_job(), "test").close()
    (tmp_path / "run" / FAILURE).write_text("{}")
    Recorder(tmp_path / "run", small_job(), "test", resume=True).close()
    assert not (tmp_path / "run" / FAILURE).exists()
    assert not (tmp_path / "run" / LAST_CHECKPOINT).exists()
