"""The part of a job that says how patients and hospitals are protected, and which other parts of a job that rules out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from common.config_file import Section
from common.dp.noisy_sums import PROJECTED
from common.methods import METHODS, Positive
from common.secure_sum.terms import MOST_HOSPITALS

if TYPE_CHECKING:
    from common.job import Job

Delta = Annotated[float, Field(gt=0.0, lt=1.0)]

PRIVATE_METHODS = ("analytic", "dp-gd")
"""The methods that can be trained with differential privacy."""


class DifferentialPrivacy(Section):
    """The privacy budget of the job, per patient: (epsilon, delta), for all that is trained (`common.dp.accounting`).

    noise: `shared`, each hospital adds a share, and so many honest ones as a sum has at least make all of it; `own`, each adds
    all of it, and trusts nobody. colluding: hospitals that may tell the coordinator their share of the noise.
    """

    epsilon: Positive
    delta: Delta = 1e-5
    noise: Literal["shared", "own"] = "shared"
    colluding: Annotated[int, Field(ge=0, le=MOST_HOSPITALS)] = 0

    def honest(self, threshold: int) -> int:
        """How many hospitals make the noise, in a sum over at least `threshold`: one knows its own share, some tell theirs."""
        return 1 if self.noise == "own" else max(1, threshold - 1 - self.colluding)


class Privacy(Section):
    """What protects the updates on their way, and the patients in the model."""

    secure_aggregation: bool = False
    differential_privacy: DifferentialPrivacy | None = None


def contradictions(job: "Job") -> Iterator[str]:
    """What cannot hold together with the job's privacy, each with the reason and what to write instead."""
    if job.privacy.secure_aggregation:
        yield from _against_secure_aggregation(job)
    if job.private:
        yield from _against_differential_privacy(job)
    elif job.method.name == "dp-gd":
        yield "method dp-gd is for privacy.differential_privacy; without it analytic and fedavg are better and cheaper"


def _against_secure_aggregation(job: "Job") -> Iterator[str]:
    secure = "privacy.secure_aggregation: the coordinator sees only sums over hospitals"
    if METHODS[job.method.name].single_updates:
        summable = [name for name, row in METHODS.items() if not row.single_updates]
        yield f"{secure}, and method {job.method.name} must see single updates; choose one of: {', '.join(summable)}"
    if job.evaluation.cross_site:
        yield f"{secure}, and evaluation.cross_site sends each hospital's own head; write cross_site: false"
    if job.personalisation is not None:
        yield f"{secure}, and personalisation sends each hospital's own counts; leave it out"
    if job.duplicates == "check":
        yield f"{secure}, and duplicates: check has each send a list of keyed hashes of its own; write duplicates: ignore"
    if job.quorum.min_hospitals < 2:
        yield f"{secure}; a sum over one hospital is that hospital's: quorum.min_hospitals: expected 2 or more, got 1"


def _against_differential_privacy(job: "Job") -> Iterator[str]:
    budget = job.privacy.differential_privacy
    if not job.privacy.secure_aggregation:
        yield (
            "privacy.differential_privacy: the noise is right for the sum over hospitals, so only that may be seen; write "
            "secure_aggregation: true as well"
        )
    if job.method.name not in PRIVATE_METHODS or job.method.warm_start not in (None, "none"):
        yield (
            f"privacy.differential_privacy: method {job.method.name} has no private form; choose one of: "
            f"{', '.join(PRIVATE_METHODS)}"
        )
    if job.method.stage_subsets:
        yield "privacy.differential_privacy: every choice would cost a share of epsilon; write stage_subsets: false"
    if job.evaluation.validation_fraction:
        yield (
            "privacy.differential_privacy: counts of validation patients leave without noise, so nothing may be chosen by them; "
            f"evaluation.validation_fraction: expected 0, got {job.evaluation.validation_fraction:g}"
        )
    if job.tune.deep:
        yield f"privacy.differential_privacy: only the head can be trained with it; tune: expected head, got {job.tune.part}"
    if budget is not None and budget.noise == "shared" and budget.colluding > job.quorum.min_hospitals - 2:
        yield (
            f"privacy.differential_privacy.colluding: in a sum over quorum.min_hospitals {job.quorum.min_hospitals} one hospital "
            f"at least besides the one that looks must keep its noise to itself; expected at most "
            f"{max(0, job.quorum.min_hospitals - 2)}, got {budget.colluding}. Raise the quorum, or write noise: own"
        )


def fill_private(content: dict[str, object]) -> dict[str, object]:
    """What a private job leaves open: no validation patients, and a projection for the closed form."""
    privacy = content.get("privacy")
    if not isinstance(privacy, dict) or privacy.get("differential_privacy") is None:
        return content
    evaluation, method = content.get("evaluation", {}), content.get("method", "analytic")
    method = {"name": method} if isinstance(method, str) else method
    if isinstance(evaluation, dict):
        content = {**content, "evaluation": {"validation_fraction": 0.0, **evaluation}}
    if isinstance(method, dict) and method.get("name", "analytic") == "analytic":
        content = {**content, "method": {"projection": PROJECTED, **method}}
    return content
