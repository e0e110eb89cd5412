"""What a hospital's pages and their API say. For its own people: nothing of it leaves. Times are seconds since 1970."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Agent(_Said):
    """What the agent is doing. state: away if it never ran, else its own word (starting, ready, stopped)."""

    state: str
    doing: str | None = None
    done: int = 0
    total: int = 0
    answered: int = 0
    declined: int = 0
    since: float | None = None
    last_answer: float | None = None
    problem: str | None = None


class Line(_Said):
    """A heading and a sentence about a job."""

    heading: str
    words: str


class JobSaid(_Said):
    """A job in plain words and in full (YAML). approved: when and by whom; null while it waits."""

    job_id: str
    name: str
    approved: str | None
    words: list[Line]
    in_full: str


class Hospital(_Said):
    """The hospital, its agent and its jobs, those that wait first. automatic: every job is answered, approved or not."""

    name: str
    automatic: bool
    agent: Agent
    jobs: list[JobSaid]


class Decided(_Said):
    """What a decision came to: approved, or not approved any more."""

    job_id: str
    approved: bool


class SentOfJob(_Said):
    """What left for one job, by the ledger. Bytes are those of all answers; epsilon is what differential privacy spent."""

    job: str
    job_id: str
    answers: int
    bytes: int
    masked: int
    epsilon: float
    refused: int
    first: str
    last: str


class Sent(_Said):
    """What left this hospital. verified: whether the ledger is as it was written; problems say where it is not."""

    verified: bool
    problems: list[str]
    note: str | None
    head: str
    answers: int
    bytes: int
    refused: int
    epsilon: float
    jobs: list[SentOfJob]


class CheckSaid(_Said):
    """The look through the data. done of total: images so far, while it runs."""

    state: Literal["never", "running", "done", "failed"]
    done: int = 0
    total: int = 0
    finished: float | None = None
    classes: dict[str, int] = {}
    patients: dict[str, int] = {}
    images_by_part: dict[str, int] = {}
    unreadable: int = 0
    errors: list[str] = []
    warnings: list[str] = []


class Reference(_Said):
    """A figure of the model on test patients, with its 95 % interval; null where undefined."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


class ModelSaid(_Said):
    """The model that answers, what it reached on test patients, and what it is not for."""

    job: str
    job_id: str
    fingerprint: str
    modality: str
    classes: list[str]
    method: str
    backbone: str
    hospitals: int
    test_images: int
    reference: list[Reference]
    limits: list[str]
    refer_below: float
    accepts: list[str]
    most_bytes: int


class Probability(_Said):
    """The model's probability of a class, in [0, 1]."""

    name: str
    probability: float


class Answer(_Said):
    """What the model says of one image.

    label: a class, or null if it refers to a radiologist; then reasons say why. leaning: what the label would be without them.
    words: how sure the model is of that. notes: what else is to be known of it. image: as the model saw it, a PNG in base64.
    heatmap: where the answer comes from, a PNG of the same square with transparency. heatmap_words: how it was made.
    """

    label: str | None
    refer: bool
    reasons: list[str]
    leaning: str
    words: str
    notes: list[str]
    probabilities: list[Probability]
    image: str
    heatmap: str | None
    heatmap_words: str | None
    kind: str
    seconds: float
