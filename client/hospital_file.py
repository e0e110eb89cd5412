"""The hospital's own file: where its data is, and what it allows. It never leaves the hospital.

See `configs/hospital.yaml` for an annotated example.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from client.approvals import Approvals
from client.feature_cache import default_cache_dir
from common.backbones import BACKBONES
from common.config_file import Section, load_yaml, parse, unknown
from common.errors import ConfigError, Refusal, RefusalCode
from common.job import Job, require_runnable
from common.tuning import Part


class Data(Section):
    """Where the images are: a folder (with manifest.csv, or one sub-folder per class) or a manifest file."""

    manifest: Path | None = None
    folder: Path | None = None
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is None) == (self.folder is None):
            raise ValueError("expected either manifest (a CSV file) or folder, not both and not neither")
        return self

    @property
    def source(self) -> Path:
        """The folder or the manifest."""
        return self.manifest or self.folder or Path()


class Policy(Section):
    """What the hospital allows, whatever a coordinator asks.

    approve: `manual` answers only jobs that a person approved (`client/approvals.py`); `auto` answers every job (simulations).
    """

    approve: Literal["manual", "auto"] = "manual"
    allow_backbones: tuple[str, ...] | None = None
    allow_tuning: tuple[Part, ...] = ("head",)
    require_secure_aggregation: bool = False
    max_epsilon: Annotated[float, Field(gt=0.0)] | None = None
    min_examples: Annotated[int, Field(ge=1)] = 1
    min_count: Annotated[int, Field(ge=1)] = 1

    @field_validator("allow_backbones")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        wrong = [unknown("backbone", name, list(BACKBONES)) for name in names or () if name not in BACKBONES]
        if wrong:
            raise ValueError("; ".join(wrong))
        return names

    @field_validator("max_epsilon", "min_count")
    @classmethod
    def _enforceable(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value != cls.model_fields[str(info.field_name)].default:
            raise ValueError(
                "this version cannot enforce it, and a rule that is not enforced protects nobody; remove it, "
                "or wait for the version that can"
            )
        return value


class HospitalFile(Section):
    """One hospital's configuration."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    data: Data
    cache: Path | None = None
    state: Path | None = None
    activation_cache_gb: Annotated[float, Field(ge=0.0)] = 8.0
    weights_dir: Path | None = None
    device: str = "auto"
    policy: Policy = Policy()

    @property
    def cache_folder(self) -> Path:
        """Where features are cached."""
        return self.cache or default_cache_dir()

    @property
    def state_folder(self) -> Path:
        """Where approvals and the agent's status are."""
        return self.state or self.cache_folder / f"state-of-{self.name}"

    @property
    def activation_cache_bytes(self) -> int:
        """Disk that one job's activations may take (`tune: last-blocks`)."""
        return int(self.activation_cache_gb * 1e9)


def load_hospital_file(path: Path) -> HospitalFile:
    """A hospital's file.

    Raises:
        ConfigError: with every problem of the file.
    """
    return parse(HospitalFile, load_yaml(path), str(path))


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
    """Refuse a job that the hospital's policy does not allow, approved or not.

    Raises:
        Refusal: `against-policy`.
    """
    if policy.allow_backbones is not None and job.backbone.name not in policy.allow_backbones:
        raise Refusal(
            RefusalCode.AGAINST_POLICY,
            f"job '{job.name}' wants the backbone {job.backbone.name}; allowed are: {', '.join(policy.allow_backbones)}",
        )
    if job.tune.part not in policy.allow_tuning:
        raise Refusal(
            RefusalCode.AGAINST_POLICY, f"job '{job.name}' tunes '{job.tune.part}', which policy.allow_tuning lacks"
        )
    if policy.require_secure_aggregation and not job.privacy.secure_aggregation:
        raise Refusal(RefusalCode.AGAINST_POLICY, f"job '{job.name}' goes without the required secure aggregation")
    try:
        require_runnable(job)
    except ConfigError as error:
        raise Refusal(RefusalCode.AGAINST_POLICY, str(error)) from error
