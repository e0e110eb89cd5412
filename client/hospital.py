"""The hospital: answers describe, fit and evaluate for a job. The same object answers in one process and behind a socket.

Each answer is checked against the allow-list (`common.wire.REPLIES`) before it is given. Nothing raised in here leaves as
anything but a neutral `RefusalCode`.

Letters: N examples, V views, D features, C classes, M heads.
"""

import errno
import functools
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.backbone import Backbone
from client.device import choose_device
from client.feature_cache import FeatureCache, default_cache_dir
from client.features import Extractor, extract, fingerprint_of, out_of_memory
from client.hospital_file import HospitalFile, require_allowed
from client.records import Records, assign, read_rows
from client.training import Examples, seed_of, train_head
from client.weights import load_backbone
from common.backbones import backbone_row
from common.errors import ConfigError, DataError, Refusal, RefusalCode, WeightsError
from common.head import Head, Standardisation
from common.job import Backbone as BackboneChoice
from common.job import Job, job_from_json
from common.metrics import ClassificationCounts, count
from common.wire import (
    EVALUATED_PARTS,
    MAX_HEADS,
    PARTS,
    REFUSAL,
    REPLIES,
    REQUESTS,
    Description,
    Packed,
    dimensions,
    pack_counts,
    pack_head,
    problem_with,
    unpack_head,
    unpack_heads,
    unpack_standardisation,
)

log = logging.getLogger(__name__)

_CODES: Mapping[type[BaseException], RefusalCode] = {
    DataError: RefusalCode.DATA_PROBLEM,
    WeightsError: RefusalCode.WEIGHTS_PROBLEM,
    ConfigError: RefusalCode.BAD_REQUEST,
    MemoryError: RefusalCode.OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class _Prepared:
    """A job with everything about this hospital that does not change from round to round."""

    job: Job
    fingerprint: str
    records: Records
    parts: Mapping[str, Examples]
    description: Description


class Hospital:
    """One hospital with its images, its policy and its cache.

    `answer` is the only door: a request goes in, a checked reply comes out, and no exception ever.
    """

    def __init__(self, file: HospitalFile) -> None:
        self._file = file
        self._prepared: _Prepared | None = None
        self._standardised: tuple[bytes, Mapping[str, Examples]] | None = None

    @property
    def name(self) -> str:
        """The hospital's name in its own file."""
        return self._file.name

    def answer(self, kind: str, request: Packed) -> Packed:
        """The reply to a request of a kind (`describe`, `fit`, `evaluate`), or a refusal with a neutral code."""
        try:
            job, dims = self._accepted(kind, request)
            reply = {"describe": self._describe, "fit": self._fit, "evaluate": self._evaluate}[kind](job, request)
            problem = problem_with(reply, REPLIES[kind], dims)
            if problem:
                raise Refusal(RefusalCode.INTERNAL, f"the reply is not on the allow-list: {problem}")
        except Exception as error:
            return self._refusal(error)
        return reply

    def _refusal(self, error: Exception) -> Packed:
        code = error.code if isinstance(error, Refusal) else _code_of(error)
        log.warning("%s declines: %s", self.name, code)
        # May name files: for whoever turns on DEBUG at the hospital, and nobody else.
        log.debug("%s declines because: %s", self.name, error, exc_info=code is RefusalCode.INTERNAL)
        return Packed({}, {REFUSAL: code.value})

    def _accepted(self, kind: str, request: Packed) -> tuple[Job, dict[str, int]]:
        """The job of a well-formed request that the policy allows, and the size of each shape letter."""
        text = request.fields.get("job")
        if kind not in REQUESTS or not isinstance(text, str):
            raise Refusal(RefusalCode.BAD_REQUEST, "the request is of no known kind or carries no job")
        job = _job(text)
        # The number of heads is what it is, but neither 0 nor above the limit: then no shape fits.
        shape = np.shape(request.arrays.get("weight", ()))
        heads = min(max(1, shape[0]), MAX_HEADS) if kind == "evaluate" and len(shape) == 3 else 1
        dims = dimensions(job.num_classes, backbone_row(job.backbone.name).features, heads)
        problem = problem_with(request, REQUESTS[kind], dims)
        if problem:
            raise Refusal(RefusalCode.BAD_REQUEST, f"the request departs from the contract: {problem}")
        require_allowed(self._file.policy, job)
        return job, dims

    def _describe(self, job: Job, request: Packed) -> Packed:  # noqa: ARG002
        return self._prepare(job, afresh=True).description.pack()

    def _fit(self, job: Job, request: Packed) -> Packed:
        prepared = self._prepare_for(job, request)
        parts = self._standardise(prepared, unpack_standardisation(request.arrays))
        start = unpack_head(request.arrays)
        server_round = int(request.fields["round"])
        head, loss_sum = train_head(start, parts["train"], job.method, seed_of(job.seed, server_round, self.name))
        counts = _count(start, parts["validation"])
        return Packed(
            {**pack_head(head), **pack_counts([counts])},
            {
                **_identity(prepared),
                "round": server_round,
                "examples": len(parts["train"]),
                "loss-sum": loss_sum,
            },
        )

    def _evaluate(self, job: Job, request: Packed) -> Packed:
        prepared = self._prepare_for(job, request)
        part = str(request.fields["part"])
        if part not in EVALUATED_PARTS:
            raise Refusal(
                RefusalCode.BAD_REQUEST, f"heads are counted on these parts only: {', '.join(EVALUATED_PARTS)}"
            )
        examples = self._standardise(prepared, unpack_standardisation(request.arrays))[part]
        counts = [_count(head, examples) for head in unpack_heads(request.arrays)]
        return Packed(pack_counts(counts), {**_identity(prepared), "part": part})

    def _prepare_for(self, job: Job, request: Packed) -> _Prepared:
        prepared = self._prepare(job)
        if request.fields["fingerprint"] != prepared.fingerprint:
            raise Refusal(RefusalCode.BAD_REQUEST, "the request is about another feature space than this hospital's")
        return prepared

    def _prepare(self, job: Job, afresh: bool = False) -> _Prepared:
        """Records and features of a job; kept until another job comes, or a description is asked for again."""
        if self._prepared is None or afresh or self._prepared.job != job:
            self._prepared = self._standardised = None
            self._prepared = self._read(job)
        return self._prepared

    def _read(self, job: Job) -> _Prepared:
        records = assign(read_rows(self._file.data.source), job)
        backbone = shared_backbone(job.backbone, self._file.weights_dir)
        fingerprint = fingerprint_of(job, backbone.digest)
        device = choose_device(self._file.device)
        extractor = Extractor(backbone, device, job.size_px)
        images = [(record.path, job.features.views if record.part == "train" else 1) for record in records.records]
        width = backbone_row(job.backbone.name).features
        cache_dir = self._file.cache or default_cache_dir()
        with FeatureCache(cache_dir, f"{fingerprint}-{extractor.precision}", width) as cache:
            extraction = extract(images, extractor, cache, job, self._file.data.skip_unreadable)
        pairs = list(zip(records.records, extraction.vectors, strict=True))
        readable = [(record, vectors) for record, vectors in pairs if vectors is not None]
        records = Records(
            tuple(record for record, _ in readable), records.other_labels, records.patients_with_several_labels
        )
        parts: dict[str, Examples] = {}
        for part in PARTS:
            chosen = [(vectors, record.label) for record, vectors in readable if record.part == part]
            features = [vectors for vectors, _ in chosen]
            parts[part] = Examples(
                np.concatenate(features) if features else np.zeros((0, width), np.float32),
                np.array([label for vectors, label in chosen for _ in range(len(vectors))], np.int64),
            )
        # Images, not examples: a job with many views must not get round the hospital's rule.
        enough, found = self._file.policy.min_examples, len(records.of("train"))
        if found < enough:
            raise Refusal(
                RefusalCode.TOO_FEW_EXAMPLES, f"{found} readable training images; policy.min_examples is {enough}"
            )
        features64 = parts["train"].features.astype(np.float64)
        description = Description(
            job_id=job.job_id,
            fingerprint=fingerprint,
            backbone_digest=backbone.digest,
            images=records.images(job.num_classes),
            patients=records.patients(),
            sums=features64.sum(axis=0),
            squares=(features64**2).sum(axis=0),
            examples=len(parts["train"]),
            other_labels=sum(records.other_labels.values()),
            unreadable=len(pairs) - len(readable),
            decoded=extraction.decoded,
            cached=extraction.cached,
        )
        return _Prepared(job, fingerprint, records, parts, description)

    def _standardise(self, prepared: _Prepared, standardisation: Standardisation) -> Mapping[str, Examples]:
        """The examples by part, standardised; the standardisation is the same all through a run."""
        key = standardisation.mean.tobytes() + standardisation.scale.tobytes()
        if self._standardised is None or self._standardised[0] != key:
            parts = {
                part: Examples(standardisation.apply(examples.features), examples.labels)
                for part, examples in prepared.parts.items()
            }
            self._standardised = (key, parts)
        return self._standardised[1]


@functools.lru_cache(maxsize=8)
def _job(text: str) -> Job:
    return job_from_json(text)


@functools.lru_cache(maxsize=1)
def shared_backbone(choice: BackboneChoice, weights_dir: Path | None) -> Backbone:
    """The backbone of a job; loaded once for all hospitals simulated in this process.

    Raises:
        WeightsError: as `client.weights.load_backbone`.
    """
    return load_backbone(choice.name, choice.weights, weights_dir)


def _identity(prepared: _Prepared) -> dict[str, str]:
    return {"job-id": prepared.job.job_id, "fingerprint": prepared.fingerprint}


def _count(head: Head, examples: Examples) -> ClassificationCounts:
    if len(examples) == 0:
        return ClassificationCounts.zeros(len(head.bias))
    return count(head.probabilities(examples.features), examples.labels)


def _code_of(error: Exception) -> RefusalCode:
    if out_of_memory(error):
        return RefusalCode.OUT_OF_MEMORY
    if _disk_full(error) or _disk_full(error.__cause__):
        return RefusalCode.DISK_FULL
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), RefusalCode.INTERNAL)


def _disk_full(error: BaseException | None) -> bool:
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or (
        isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    )
