"""What a hospital allows, whatever a coordinator asks, and the checks that hold requests and replies to it.

A rule is a key of `Policy` and a check here. Every check raises a `Refusal`: its neutral code leaves the hospital; its text,
which says what was asked, what is allowed and by which key, goes to the hospital's log. An error inside a check refuses, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field, field_validator

from client.approvals import Approvals
from common.backbones import BACKBONES
from common.config_file import Section, unknown
from common.errors import Refusal, RefusalCode
from common.groups import Attribute
from common.job import Job
from common.methods import METHODS
from common.packed import AnyArray
from common.tuning import PARTS_TUNED, Part
from common.wire import Schema, bytes_of

if TYPE_CHECKING:  # it reads images, and whoever only reads a hospital's file need not wait for that
    from client.records import Records

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PINNED = "@"


class Policy(Section):
    """What the hospital allows. `configs/hospital.yaml` explains each key; null and an absent key stand for no such rule.

    min_hospitals_in_sum: of secure aggregation. max_epsilon: of one job; max_epsilon_total: of all jobs, by the ledger.
    approve: `manual` answers only jobs that a person approved (`client/approvals.py`); `auto` answers every job (simulations).
    allow_backbones: `name`, or `name@digest` with the digest of the whole network as its weights were loaded.
    """

    approve: Literal["manual", "auto"] = "manual"
    allow_backbones: tuple[str, ...] | None = None
    allow_tuning: tuple[Part, ...] = ("head",)
    allow_methods: tuple[str, ...] | None = None
    allow_duplicate_check: bool = False
    allow_groups: tuple[Attribute, ...] = ()
    require_secure_aggregation: bool = False
    min_hospitals_in_sum: Annotated[int, Field(ge=2, le=255)] = 2
    max_epsilon: Annotated[float, Field(gt=0.0)] | None = None
    max_epsilon_total: Annotated[float, Field(gt=0.0)] | None = None
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    min_examples: Annotated[int, Field(ge=1)] = 1
    min_patients: Annotated[int, Field(ge=1)] = 1
    min_count: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_rounds: Annotated[int, Field(ge=1)] | None = 200
    max_payload_mb: Annotated[float, Field(gt=0.0)] | None = 256.0

    @field_validator("allow_backbones")
    @classmethod
    def _known_backbones(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        wrong = []
        for entry in entries or ():
            name, pinned, digest = entry.partition(_PINNED)
            if name not in BACKBONES:
                wrong.append(unknown("backbone", name, list(BACKBONES)))
            if pinned and not _DIGEST.fullmatch(digest):
                wrong.append(
                    f"after {name}{_PINNED}: expected the backbone's digest, 64 lower-case hex digits, got '{digest}'; "
                    "it is backbone_digest in the summary.json of a run and in the manifest of a model file"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        return entries

    @field_validator("allow_methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        wrong = [unknown("method", name, list(METHODS)) for name in names or () if name not in METHODS]
        if wrong:
            raise ValueError("; ".join(wrong))
        return names


OF_SIMULATIONS = Policy(
    approve="auto",
    allow_tuning=PARTS_TUNED,
    allow_duplicate_check=True,
    allow_groups=get_args(Attribute),
    max_rounds=None,
    max_payload_mb=None,
    max_delta=1.0 - 1e-9,
)
"""Allows everything: simulated hospitals have nobody to protect, and no person to ask."""


def require_allowed(policy: Policy, job: Job, approvals: Approvals) -> None:
    """Refuse a job that the hospital's policy does not allow, or that nobody has approved. The latter waits for approval.

    Raises:
        Refusal: `against-policy` or `job-not-approved`.
    """
    require_policy(policy, job)
    if policy.approve == "manual" and not approvals.allows(job.job_id):
        approvals.note(job)
        raise Refusal(
            RefusalCode.JOB_NOT_APPROVED,
            f"job '{job.name}' ({job.job_id}) is not approved here; read it: consilium hospital approve {job.job_id[:12]}",
        )


def require_policy(policy: Policy, job: Job) -> None:
    """Refuse a job that the hospital's policy does not allow, approved or not. All that speaks against it is named.

    Raises:
        Refusal: `against-policy`.
    """
    against = []
    names = [entry.partition(_PINNED)[0] for entry in policy.allow_backbones or ()]
    if policy.allow_backbones is not None and job.backbone.name not in names:
        against.append(
            f"it wants the backbone {job.backbone.name}; policy.allow_backbones has: {_listed(policy.allow_backbones)}"
        )
    if job.tune.part not in policy.allow_tuning:
        against.append(f"it tunes '{job.tune.part}'; policy.allow_tuning has: {_listed(policy.allow_tuning)}")
    if told := [name for name in job.evaluation.groups if name not in policy.allow_groups]:
        against.append(
            f"it asks for test counts by {', '.join(told)}; policy.allow_groups has: {_listed(policy.allow_groups)}"
        )
    for method in _methods(job):
        if policy.allow_methods is not None and method not in policy.allow_methods:
            against.append(
                f"it asks for the method {method}; policy.allow_methods has: {_listed(policy.allow_methods)}"
            )
    if policy.max_rounds is not None and job.method.rounds > policy.max_rounds:
        against.append(f"it has {job.method.rounds} rounds; policy.max_rounds is {policy.max_rounds}")
    if policy.require_secure_aggregation and not job.privacy.secure_aggregation:
        against.append("it goes without the required secure aggregation (policy.require_secure_aggregation)")
    if job.duplicates == "check" and not policy.allow_duplicate_check:
        against.append("it wants keyed hashes of all images (duplicates: check); policy.allow_duplicate_check is false")
    elif job.duplicates == "check" and policy.min_count > 1:
        against.append(
            "by keyed hashes (duplicates: check) the coordinator counts single images; "
            f"policy.min_count is {policy.min_count}, and 1 allows that"
        )
    against += _against_budget(policy, job)
    if against:
        raise Refusal(RefusalCode.AGAINST_POLICY, f"job '{job.name}' ({job.job_id}): {'; '.join(against)}")


def _against_budget(policy: Policy, job: Job) -> list[str]:
    """What of a job is beyond the epsilon and delta that the policy allows any job."""
    budget, limit = job.privacy.differential_privacy, policy.max_epsilon
    if budget is None:
        limited = [name for name in ("max_epsilon", "max_epsilon_total") if getattr(policy, name) is not None]
        return [f"it has no differential privacy, and policy.{limited[0]} limits epsilon"] if limited else []
    against = []
    limited = [name for name in ("max_epsilon", "max_epsilon_total") if getattr(policy, name) is not None]
    if job.hospitals_protected and limited:
        return [
            "the coordinator sees this hospital's updates and adds the noise afterwards, and "
            f"policy.{limited[0]} is for noise that is added here"
        ]
    if limit is not None and budget.epsilon > limit:
        against.append(f"it spends epsilon {budget.epsilon:g}; policy.max_epsilon is {limit:g}")
    if budget.delta > policy.max_delta:
        against.append(f"its delta is {budget.delta:g}; policy.max_delta is {policy.max_delta:g}")
    return against


def require_budget(policy: Policy, job: Job, spent: Callable[[str | None], float] | None) -> float:
    """The epsilon that a private job has still to spend here, 0 for others; refuses it where it is more than is left.

    spent: of one job, or of all together (`client.ledger.Ledger.spent`); None where no ledger is kept. A job spends its whole
    epsilon with its first noised answer, and epsilons of several jobs add up (sequential composition, as their deltas do).

    Raises:
        Refusal: `budget-spent`.
    """
    budget, limit = job.privacy.differential_privacy, policy.max_epsilon_total
    if budget is None or job.hospitals_protected:  # the noise of hospitals as units is not added here
        return 0.0
    owed = max(0.0, budget.epsilon - (spent(job.job_id) if spent else 0.0))
    if limit is None:
        return owed
    if spent is None:
        raise Refusal(RefusalCode.BUDGET_SPENT, "policy.max_epsilon_total needs a ledger, and none is kept here")
    before = spent(None)
    if owed and before + owed > limit * (1 + 1e-9):
        raise Refusal(
            RefusalCode.BUDGET_SPENT,
            f"job '{job.name}' ({job.job_id}) spends epsilon {owed:g}, {before:g} are spent already; "
            f"policy.max_epsilon_total is {limit:g}",
        )
    return owed


def require_backbone(policy: Policy, job: Job, digest: str) -> None:
    """Refuse a backbone whose loaded weights have another digest than the policy names. A bare name allows any weights.

    Raises:
        Refusal: `against-policy`.
    """
    name = job.backbone.name
    if policy.allow_backbones is None or {name, f"{name}{_PINNED}{digest}"} & set(policy.allow_backbones):
        return
    raise Refusal(
        RefusalCode.AGAINST_POLICY,
        f"job '{job.name}' ({job.job_id}): its backbone is {name}{_PINNED}{digest}; "
        f"policy.allow_backbones has: {_listed(policy.allow_backbones)}",
    )


def require_enough(policy: Policy, job: Job, records: "Records") -> None:
    """Refuse to take part with too few readable training images, patients, or images of a class.

    Images count, not examples: a job with many views must not get round the rule. A class without any training image is fine.

    Raises:
        Refusal: `too-few-examples`.
    """
    train = records.of("train")
    patients = len({record.patient_id for record in train})
    few = []
    if len(train) < policy.min_examples:
        few.append(f"{len(train)} readable training images; policy.min_examples is {policy.min_examples}")
    if patients < policy.min_patients:
        few.append(f"{patients} patients with readable training images; policy.min_patients is {policy.min_patients}")
    for label, name in enumerate(job.classes):
        images = sum(record.label == label for record in train)
        if 0 < images < policy.min_count:
            few.append(
                f"class '{name}' has {images} readable training images, which sums and updates would give away; "
                f"policy.min_count is {policy.min_count}; leave the class's images out of the manifest, or add more of them"
            )
    if few:
        raise Refusal(RefusalCode.TOO_FEW_EXAMPLES, f"job '{job.name}' ({job.job_id}): {'; '.join(few)}")


def require_payload(policy: Policy, arrays: Mapping[str, AnyArray]) -> None:
    """Refuse a request with larger arrays than the policy allows.

    Raises:
        Refusal: `message-too-large`.
    """
    _require_small(policy, sum(getattr(array, "nbytes", 0) for array in arrays.values()), "the request has")


def require_small_reply(policy: Policy, schema: Schema, dims: Mapping[str, int]) -> None:
    """Refuse, before anything is computed, a reply whose arrays will be larger than the policy allows.

    Raises:
        Refusal: `message-too-large`.
    """
    _require_small(policy, bytes_of(schema, dims), "the reply would have")


def _require_small(policy: Policy, size: int, which: str) -> None:
    if policy.max_payload_mb is not None and size > policy.max_payload_mb * 1e6:
        raise Refusal(
            RefusalCode.MESSAGE_TOO_LARGE,
            f"{which} {size / 1e6:.3f} MB of arrays; policy.max_payload_mb is {policy.max_payload_mb:g}",
        )


def _methods(job: Job) -> list[str]:
    """The methods that a job asks for: a warm start is the closed form, and sends its sums."""
    return list(dict.fromkeys([job.method.name, *(["analytic"] if job.method.analytic else [])]))


def _listed(entries: Sequence[str]) -> str:
    return ", ".join(entries) or "none"
