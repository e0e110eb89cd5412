"""What the coordinator's pages and its API say of runs. Times are seconds since 1970; undefined figures are null."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

RunStateName = Literal["running", "silent", "finished", "failed", "damaged"]
HospitalStateName = Literal["waiting", "asked", "answered", "declined", "failed"]
Figures = dict[str, float | None]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class HospitalState(_Said):
    """How far a hospital is with the question that is out."""

    name: str
    state: HospitalStateName
    reason: str = ""


class QuestionNow(_Said):
    """The question that is out. needed: so many usable answers make the quorum. seconds_left: 0 when the deadline has passed."""

    kind: str
    round: int
    since: float
    deadline: float
    seconds_left: float
    needed: int
    hospitals: list[HospitalState]
    bytes_down: int
    bytes_up: int


class RoundLine(_Said):
    """A judged round. validation: figures of the model that it made, pooled; null if none were counted."""

    round: int
    lost: bool
    answered: list[str]
    dropped: dict[str, str]
    outside: dict[str, str]
    train_loss: float | None
    validation: Figures | None
    bytes_down: int
    bytes_up: int
    seconds: float


class RunRow(_Said):
    """A run in a list.

    state: silent is a run of which nothing was heard for longer than its deadline allows. auroc: of the test patients when it is
    finished, before that the best so far of the validation patients. changed: the last sign of life.
    """

    name: str
    state: RunStateName
    job: str
    job_id: str
    classes: list[str]
    method: str
    backbone: str
    rounds_done: int
    rounds_planned: int
    auroc: float | None
    changed: float


class Result(_Said):
    """What a finished run came to. bounds: 95 % intervals of the pooled figures. hospitals: figures by hospital, where known."""

    best_round: int
    pooled: Figures
    bounds: dict[str, list[float] | None]
    hospitals: dict[str, Figures]
    taking_part: list[str]
    bytes_up: int
    bytes_down: int
    seconds: float | None
    random_weights: bool


class Run(RunRow):
    """A run in full. bytes: of all judged rounds and the question that is out. files: what can be fetched."""

    question: QuestionNow | None
    rounds: list[RoundLine]
    bytes_up: int
    bytes_down: int
    failure: str | None
    result: Result | None
    files: list[str]
    seed: int
    secure_aggregation: bool
    epsilon: float | None


class RunList(_Said):
    """All runs, the latest first."""

    runs: list[RunRow]
