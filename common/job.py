"""A job: what is to be trained, declared in YAML, no code. `job_id` names it exactly.

A job holds everything a hospital must agree to before it takes part; a hospital approves it by its id.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.backbone_choice import Backbone as Backbone
from common.backbone_choice import Seed
from common.backbone_choice import Weights as Weights
from common.backbones import FeatureBlock, backbone_row, feature_blocks
from common.config_file import Section, load_yaml, parse, unknown
from common.errors import ConfigError
from common.evaluation_choice import SELECTABLE as SELECTABLE
from common.evaluation_choice import Evaluation as Evaluation
from common.feature_choice import Features as Features
from common.feature_choice import fill_features
from common.image_choice import MIDDLE
from common.image_choice import Image as Image
from common.method_choice import Method as Method
from common.methods import DEFAULT as DEFAULT_METHOD
from common.methods import Count, Positive
from common.modalities import MODALITIES, OTHER
from common.operating_point import OperatingRule as OperatingRule
from common.privacy import Privacy as Privacy
from common.privacy import contradictions, fill_private
from common.tuning import Tune as Tune

_CLASS_NAME = re.compile(r"\w[\w .+/-]{0,63}")


class Personalisation(Section):
    """After the last round each hospital trains the global head on for `epochs` on its own examples, and keeps the result."""

    epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    lr: Positive = 0.002


class Quorum(Section):
    """How many hospitals a round needs, and how long it waits for the others.

    min_hospitals: usable answers without which a round changes nothing. deadline_s: the longest that a question waits for
    answers. grace_s: how long it still waits for the others once that many are there; null: until deadline_s.
    """

    min_hospitals: Count = 2
    deadline_s: Positive = 600.0
    grace_s: Positive | None = None


class Guard(Section):
    """Bounds on what is accepted from a hospital: the L2 norm of the change a round may make to the head."""

    max_update_norm: Positive = 100.0


class Job(Section):
    """One training job. See `configs/` for annotated examples.

    duplicates: `check` has the hospitals send keyed hashes of their images, by which it is counted what two of them have both.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    classes: Annotated[list[str], Field(min_length=2, max_length=1000)]
    modality: str = OTHER
    other_labels: Literal["error", "skip"] = "error"
    backbone: Backbone
    image: Image = Image()
    tune: Tune = Tune()
    features: Features
    method: Method = Method()
    evaluation: Evaluation = Evaluation()
    personalisation: Personalisation | None = None
    privacy: Privacy = Privacy()
    duplicates: Literal["ignore", "check"] = "ignore"
    quorum: Quorum = Quorum()
    guard: Guard = Guard()
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = fill_private(value)
        method, modality = value.get("method", DEFAULT_METHOD), value.get("modality", OTHER)
        return {**value, "features": fill_features(value.get("features", {}), method, modality)}

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, name: str) -> str:
        if name not in MODALITIES:
            raise ValueError(unknown("modality", name, list(MODALITIES)))
        return name

    @field_validator("classes")
    @classmethod
    def _distinct_names(cls, classes: list[str]) -> list[str]:
        repeated = sorted({name for name in classes if classes.count(name) > 1})
        if repeated:
            raise ValueError(f"each class once, got twice: {', '.join(repeated)}")
        for name in classes:
            if not _CLASS_NAME.fullmatch(name):
                raise ValueError(
                    "a class name is 1 to 64 letters, digits, spaces or . + / - _, the first a letter, digit or _; "
                    f"got {name!r}"
                )
        return classes

    @model_validator(mode="after")
    def _size_fits_backbone(self) -> Self:
        row = backbone_row(self.backbone.name)
        if not row.least_px <= self.size_px <= row.most_px:
            wanted = str(row.least_px) if row.least_px == row.most_px else f"{row.least_px} to {row.most_px}"
            raise ValueError(f"image.size: {self.backbone.name} takes {wanted} pixels, got {self.size_px}")
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        try:
            feature_blocks(self.backbone.name, self._stages(), self.features.pool)
        except ConfigError as error:
            raise ValueError(f"features.stages: {error}") from error
        row = MODALITIES[self.modality]
        if self.features.mirror and not row.mirror:
            raise ValueError(f"features.mirror: not for modality {self.modality}: {row.why}")
        return self

    @model_validator(mode="after")
    def _image_fits(self) -> Self:
        if (
            isinstance(self.image.window, str)
            and self.modality != OTHER
            and "CT" not in MODALITIES[self.modality].dicom
        ):
            raise ValueError(
                f"image.window: the presets are in Hounsfield units, so for CT; for modality {self.modality} write "
                "[centre, width] in its own units, or leave it out: each file's own window is taken"
            )
        if self.tune.deep and self.image.slices != MIDDLE:
            raise ValueError(
                f"image.slices: the features of several slices are averaged after the frozen network, so {self.image.slices} "
                "goes with tune: head; for tune: last-blocks or full write slices: middle"
            )
        return self

    @model_validator(mode="after")
    def _tuning_is_iterative(self) -> Self:
        if self.tune.deep and not self.method.iterative:
            raise ValueError(
                f"tune: {self.tune.part} needs rounds of training, which method {self.method.name} has not; "
                "write method: {name: fedavg, warm_start: analytic}"
            )
        if self.tune.local_batch_norm and self.evaluation.cross_site:
            raise ValueError(
                "evaluation.cross_site: with tune.batch_norm: local every hospital has a network of its own, so no head of "
                "another hospital can be judged there"
            )
        if self.method.projection is not None and self.method.projection >= self.num_features:
            raise ValueError(
                f"method.projection: expected fewer than the {self.num_features} features, got {self.method.projection}; "
                "for none write projection: null"
            )
        if self.method.projection is not None and self.method.stage_subsets:
            raise ValueError("method.projection mixes all stages: it goes with stage_subsets: false")
        return self

    @model_validator(mode="after")
    def _operating_point_fits(self) -> Self:
        rule = self.evaluation.operating_point
        if rule is None:
            return self
        if rule.name not in self.classes:
            raise ValueError(f"evaluation.operating_point: {unknown('class', rule.name, list(self.classes))}")
        if self.private:
            raise ValueError(
                "evaluation.operating_point: it is chosen on validation patients, and with differential privacy no counts of "
                "them leave; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _privacy_holds(self) -> Self:
        if found := list(contradictions(self)):
            raise ValueError("; ".join(found))
        return self

    def _stages(self) -> list[str]:
        stages = self.features.stages
        return [stages] if isinstance(stages, str) else list(stages)

    @property
    def feature_blocks(self) -> tuple[FeatureBlock, ...]:
        """The pooled stages that make up the feature vector, as slices of it."""
        return feature_blocks(self.backbone.name, self._stages(), self.features.pool)

    @property
    def num_features(self) -> int:
        """D."""
        return self.feature_blocks[-1].stop

    @property
    def examples_per_image(self) -> int:
        """Examples that one training image makes: its views, each with its mirror image if the job mirrors.

        One in a private job: a patient's views are averaged, since all of them together may add no more than one image.
        """
        return 1 if self.private else self.features.views * (2 if self.features.mirror else 1)

    @property
    def sums_of_all_features(self) -> bool:
        """Whether the coordinator learns the sums of products of all features: their covariance."""
        return self.method.analytic and self.method.projection is None and not self.private

    @property
    def private(self) -> bool:
        """Whether the model is trained with differential privacy. Its features are then scaled to norm 1, stage by stage."""
        return self.privacy.differential_privacy is not None

    @property
    def hospitals_protected(self) -> bool:
        """Whether the noise is the coordinator's, and protects that a whole hospital took part."""
        budget = self.privacy.differential_privacy
        return budget is not None and budget.unit == "hospital"

    @property
    def noised_locally(self) -> bool:
        """Whether each hospital trains with all the noise that its patients need (DP-SGD)."""
        return self.private and not self.hospitals_protected and self.method.iterative

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def size_px(self) -> int:
        """Side of the square network input in pixels."""
        return self.image.size or backbone_row(self.backbone.name).size_px

    def canonical_json(self) -> str:
        """The job as JSON with sorted keys, no white space and every default written out: equal jobs, equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def job_id(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def parse_job(content: Any, where: str = "job") -> Job:
    """A job from plain content (parsed YAML or JSON).

    Raises:
        ConfigError: with every problem of the file.
    """
    return parse(Job, content, where)


def load_job(path: Path) -> Job:
    """The job in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has problems (all of them are named).
    """
    return parse_job(load_yaml(path), str(path))


def job_from_json(text: str) -> Job:
    """The job a message carries.

    Raises:
        ConfigError: it is not the canonical JSON of a valid job.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("job: not valid JSON") from error
    job = parse_job(content, "job in message")
    if job.canonical_json() != text:
        raise ConfigError("job: not in canonical form, so its id does not name it; send Job.canonical_json()")
    return job
