"""One hospital's part in the rounds of one job: sums, local training, counts, its own and its personalised head.

Letters: N examples, D features, C classes, M heads.
"""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.groups import group_counts
from client.hospital_drift import FEDERATION_STATE
from client.local_state import LocalState
from client.own_models import count_head, count_heads, own_head, personal_head
from client.preparation import Prepared
from client.releases import Releases
from client.statistics import projected, sums_of
from client.training import Examples, Trained, seed_of, train_head
from client.training_together import Exercise
from common.dp.gradient_descent import products_of
from common.dp.per_patient import Patients, Products
from common.groups import LEAST_PATIENTS
from common.head import Float32, Head, Standardisation
from common.metrics import SCORE_BINS, ClassificationCounts, Int64
from common.model import Model, digest_of_arrays
from common.sums import Sums
from common.unlike import Spread, distance_bins

_COUNTED_AT_ONCE = 100_000
"""Heads times examples: more are counted head by head, which needs less memory."""
BATCH_NORM_STATE, PERSONAL_STATE = "batch-norm", "personal"


@dataclass(frozen=True)
class Fitted:
    """What a round of local training gave, and the steps of the optimizer that it made."""

    model: Model
    loss_sum: float
    examples: int
    steps: int


class Participation:
    """The state of one job at one hospital from round to round.

    text: the job as requests carry it. identity: what every reply repeats.
    """

    def __init__(self, prepared: Prepared, state: LocalState, hospital: str, releases: Releases | None = None) -> None:
        """releases: what was told with noise; only a job whose hospitals add noise of their own needs it."""
        self.prepared = prepared
        self.releases = releases or Releases(state.folder, prepared.job.job_id)
        self._job, self._state, self._hospital = prepared.job, state, hospital
        self.text = prepared.job.canonical_json()
        self.identity: Mapping[str, str] = {
            "job-id": prepared.description.space.job_id,
            "fingerprint": prepared.fingerprint,
        }
        self._standardised: tuple[bytes, Mapping[str, Examples]] | None = None
        self._own: tuple[bytes, Head] | None = None
        self._personal: tuple[str, Head] | None = None
        self._products: tuple[bytes, Products] | None = None
        self._ahead: tuple[bytes, Trained] | None = None

    def sums(self, standardisation: Standardisation) -> Sums:
        """Of the training examples."""
        return sums_of(self._parts(standardisation)["train"], self._job)

    def fit(
        self, start: Model, standardisation: Standardisation, number: int, correction: Mapping[str, Float32]
    ) -> Fitted:
        """Round `number` of local training from the model that was sent; correction: added to its gradients (scaffold)."""
        job, deep = self._job, self.prepared.deep
        seed = seed_of(job.seed, number, self._hospital)
        examples = self.prepared.parts["train"]
        if deep is None:
            trained = self._trained(self._exercise(start.head, standardisation, number, correction))
            model, loss_sum, steps, size = Model(trained.head), trained.loss_sum, trained.steps, len(examples)
        else:
            before = self._batch_norm(number - 1)
            tuned = deep.fit(start, standardisation, seed, number, before, correction)
            model, loss_sum, steps = tuned.model, tuned.loss_sum, tuned.steps
            size = len(self.prepared.records.of("train"))
            if job.tune.local_batch_norm:
                self._state.save(BATCH_NORM_STATE, number, tuned.batch_norm)
        return Fitted(model, loss_sum, size, steps)

    def exercise(self, start: Model, standardisation: Standardisation, number: int) -> Exercise | None:
        """What `fit` will train where the head is all that it trains, without corrections; else None."""
        if self.prepared.deep is not None or self._job.noised_locally:
            return None
        return self._exercise(start.head, standardisation, number, {})

    def trained_ahead(self, exercise: Exercise, trained: Trained) -> None:
        """Keep what an exercise gave until `fit` is asked for the same one: it need not train it again."""
        self._ahead = (_exercise_key(exercise), trained)

    def _exercise(
        self, start: Head, standardisation: Standardisation, number: int, correction: Mapping[str, Float32]
    ) -> Exercise:
        seed = seed_of(self._job.seed, number, self._hospital)
        return Exercise(start, self._parts(standardisation)["train"], self._job.method.local, seed, correction)

    def _trained(self, one: Exercise) -> Trained:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not one.correction and ahead[0] == _exercise_key(one):
            return ahead[1]
        return train_head(one.start, one.examples, one.local, one.seed, one.correction)

    def count(
        self, heads: list[Head], tuned: Mapping[str, Float32], standardisation: Standardisation, part: str, number: int
    ) -> list[ClassificationCounts]:
        """Counts of heads on one part of the images, with the backbone as tuned by round `number`."""
        examples = self._tuned_examples(tuned, standardisation, part, number)
        if self.prepared.suppression is None and len(heads) * len(examples) <= _COUNTED_AT_ONCE:
            return count_heads(heads, examples)
        return [self._count(head, examples, part) for head in heads]

    def distances(self, spread: Spread) -> Int64:
        """Validation images by class and bin of their distance from the training images (C, B), as may leave the hospital.

        By the pretrained network's features, whatever the job tunes.
        """
        examples, classes = self.prepared.parts["validation"], self._job.num_classes
        found = np.zeros((classes, SCORE_BINS), np.int64)
        if len(examples):
            np.add.at(found, (examples.labels, distance_bins(spread.squared_distances(examples.features))), 1)
        suppression = self.prepared.suppression
        return found if suppression is None else suppression.ordered(found, "validation")

    def own(self, standardisation: Standardisation) -> Head:
        """A head of this hospital's examples alone, on the pretrained backbone."""
        key = _key(standardisation)
        if self._own is None or self._own[0] != key:
            self._own = (key, own_head(self._job, self._parts(standardisation)))
        return self._own[1]

    def personal(
        self, model: Model, standardisation: Standardisation, part: str, number: int
    ) -> list[ClassificationCounts]:
        """Counts on one part of the global, the personalised and the own head; the personalised head is kept here."""
        how = self._job.personalisation
        if how is None:
            return []
        # As it will be in the model file, so that the personalised head can be held to it.
        key = digest_of_arrays(Model(standardisation.fold(model.head), model.tuned).arrays())
        if self._personal is None or self._personal[0] != key:
            train = self._tuned_examples(model.tuned, standardisation, "train", number)
            head = personal_head(model.head, train, how, seed_of(self._job.seed, 0, self._hospital))
            folded = standardisation.fold(head)
            self._state.save(PERSONAL_STATE, number, Model(folded).arrays(), key)
            self._personal = (key, head)
        counts = self.count([model.head, self._personal[1]], model.tuned, standardisation, part, number)
        return [*counts, self._count(self.own(standardisation), self._parts(standardisation)[part], part)]

    def count_groups(self, model: Model, standardisation: Standardisation, number: int) -> Int64:
        """Confusion matrices (G, C, C) of a model by group of test patients; round `number` tuned it."""
        examples = self._tuned_examples(model.tuned, standardisation, "test", number)
        probabilities, suppression = model.head.probabilities(examples.features), self.prepared.suppression
        times, base = np.ones(len(examples), np.int64), 1
        if suppression is not None:
            times, base = suppression.times(probabilities, examples.labels, "test"), suppression.base
        records, least = self.prepared.records.of("test"), max(LEAST_PATIENTS, base)
        return group_counts(probabilities, records, self._job.evaluation.groups, times, least)

    @functools.cached_property
    def patients(self) -> Patients:
        """Whose the training examples are."""
        return Patients.of([record.patient_id for record in self.prepared.records.of("train")])

    def standardised(self, standardisation: Standardisation) -> Examples:
        """The training examples (N, D)."""
        return self._parts(standardisation)["train"]

    def projected(self, standardisation: Standardisation) -> tuple[Float32, Int64]:
        """The standardised training examples as the closed form reads them (N, R), and their labels (N,)."""
        train = self.standardised(standardisation)
        return projected(train.features, self._job), train.labels

    def products(self, standardisation: Standardisation) -> Products:
        """What clipping needs of the standardised training examples in every round."""
        key = _key(standardisation)
        if self._products is None or self._products[0] != key:
            self._products = (key, products_of(self.standardised(standardisation).features, self.patients))
        return self._products[1]

    def _count(self, head: Head, examples: Examples, part: str) -> ClassificationCounts:
        """Counts that may leave the hospital."""
        suppression = self.prepared.suppression
        if suppression is None:
            return count_head(head, examples)
        return suppression.count(head.probabilities(examples.features), examples.labels, part)

    def _batch_norm(self, number: int) -> dict[str, Float32]:
        """This hospital's own batch normalisation after a round; round 0 is the pretrained one."""
        if not self._job.tune.local_batch_norm or number < 1:
            return {}
        return self._state.load_latest(BATCH_NORM_STATE, number)

    def _tuned_examples(
        self, tuned: Mapping[str, Float32], standardisation: Standardisation, part: str, number: int
    ) -> Examples:
        deep = self.prepared.deep
        if deep is None:
            return self._parts(standardisation)[part]
        features = deep.features(tuned, part, self._batch_norm(number))
        labels = np.array([record.label for record in self.prepared.records.of(part)], np.int64)
        return Examples(standardisation.apply(features), labels)

    def _parts(self, standardisation: Standardisation) -> Mapping[str, Examples]:
        """The examples by part, standardised; the standardisation is the same all through a run."""
        key = _key(standardisation)
        if self._standardised is None or self._standardised[0] != key:
            parts = {
                part: Examples(standardisation.apply(examples.features), examples.labels)
                for part, examples in self.prepared.parts.items()
            }
            self._standardised = (key, parts)
            self._keep_federation(standardisation)
        return self._standardised[1]

    def _keep_federation(self, standardisation: Standardisation) -> None:
        """Keep what was sent of the federation's features: how far off it is, the hospital finds itself (`consilium check`)."""
        arrays = {"mean": standardisation.mean.astype(np.float32), "scale": standardisation.scale.astype(np.float32)}
        # On a full disk the round goes on: nothing of it needs the file.
        with contextlib.suppress(OSError):
            self._state.save(FEDERATION_STATE, 0, arrays)


def _exercise_key(one: Exercise) -> bytes:
    """One hospital trains in one job on the examples it has: all else that an exercise depends on."""
    return (
        one.start.weight.tobytes()
        + one.start.bias.tobytes()
        + one.seed.to_bytes(8, "big")
        + one.examples.features[:1].tobytes()
    )


def _key(standardisation: Standardisation) -> bytes:
    return standardisation.mean.tobytes() + standardisation.scale.tobytes()
