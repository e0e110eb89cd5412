"""The hospital: answers a coordinator's questions about a job. The same object answers in one process and behind a socket.

Each answer is checked against the allow-list (`common.wire.reply_schema`), then recorded, and only then given. Nothing raised
in here leaves as anything but a neutral `RefusalCode`.

Letters: N examples, D features, C classes, M heads.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from client.approvals import Approvals
from client.hospital_file import HospitalFile
from client.local_state import LocalState
from client.noised_training import centre_told, noised_fit, require_training
from client.participation import Participation
from client.policy import require_allowed, require_budget, require_payload, require_small_reply
from client.preparation import Prepared, prepare, shapes_tuned
from client.refusal_codes import code_of
from client.releases import Releases
from client.secure_sessions import SecureSessions
from client.shared_images import SharedImages
from client.summands import summand
from common.errors import ConfigError, Refusal, RefusalCode
from common.job import Job, job_from_json
from common.messages import pack_counts, unpack_below, unpack_heads, unpack_model, unpack_named, unpack_standardisation
from common.model import TUNED, Model
from common.phases import PHASE_REQUESTS
from common.private_release import NOISED
from common.schema import Contract
from common.unlike import UNLIKE, Spread
from common.wire import (
    ASKED_BY,
    CORRECTION,
    EVALUATED_PARTS,
    MAX_HEADS,
    PERSONALISED,
    REFUSAL,
    REQUESTS,
    STATISTICS_DTYPE,
    Field,
    Packed,
    Shapes,
    dimensions,
    problem_with,
    reply_schema,
    request_schema,
)

log = logging.getLogger(__name__)

Preparing = Callable[[Job, HospitalFile], Prepared]


class Books(Protocol):
    """What is written down of every answer. `client.agent.KeptLedger` is the real one; simulated hospitals keep none."""

    def record(
        self, kind: str, request: Packed, reply: Packed, reason: str | None, masked: bool = False, epsilon: float = 0.0
    ) -> None:
        """Is told of a checked reply before it leaves, and of a refusal and why. If it raises, no answer leaves; a refusal does.

        masked: whether the reply is a part of a sum of secure aggregation. epsilon: what it spends.
        """

    def spent(self, job_id: str | None) -> float:
        """Epsilon that was spent by one job, or by all."""


class Hospital:
    """One hospital with its images, its policy and its cache.

    `answer` is the only door: a request goes in, a checked reply comes out, and no exception ever. One call at a time.
    """

    def __init__(self, file: HospitalFile, books: Books | None = None, preparing: Preparing | None = None) -> None:
        """preparing: makes a job ready, by default `client.preparation.prepare`; another only where there are no images."""
        self._file, self._books, self._preparing = file, books, preparing
        self._sessions = SecureSessions(file)
        self._approvals = Approvals(file.state_folder)
        self._part: Participation | None = None
        self._shared = SharedImages(file)

    @property
    def name(self) -> str:
        """The hospital's name in its own file."""
        return self._file.name

    def answer(self, kind: str, request: Packed) -> Packed:
        """The reply to a request of a kind (`common.wire.REQUESTS`), or a refusal with a neutral code."""
        try:
            job, tuned, contract = self._accepted(kind, request)
            epsilon = self._epsilon(kind, job, request)
            part = self._taking_part(kind, job, request)
            if kind == "duplicates":
                contract = replace(contract, dims=dimensions(job, images=len(part.prepared.records.records)))
                require_small_reply(self._file.policy, contract.reply, contract.dims)
            reply = (
                self._phase(kind, tuned, part, request) if kind in PHASE_REQUESTS else self._plain(kind, part, request)
            )
            problem = problem_with(reply, contract.reply, contract.dims)
            if problem:
                raise Refusal(RefusalCode.INTERNAL, f"the reply is not on the allow-list: {problem}")
            if self._books is not None:
                self._books.record(kind, request, reply, None, masked=kind == "masked", epsilon=epsilon)
        except Exception as error:
            return self.decline(kind, request, error)
        return reply

    def decline(self, kind: str, request: Packed, error: Exception) -> Packed:
        """The refusal that an error becomes: logged, recorded, and only a neutral code."""
        code = error.code if isinstance(error, Refusal) else code_of(error)
        log.warning("%s declines: %s%s", self.name, code, f" ({error})" if isinstance(error, Refusal) else "")
        # The text of any other error may name files: for whoever turns on DEBUG at the hospital, and nobody else.
        log.debug("%s declines because: %s", self.name, error, exc_info=code is RefusalCode.INTERNAL)
        reply = Packed({}, {REFUSAL: code.value})
        if self._books is not None:
            try:
                why = str(error) if isinstance(error, Refusal) else type(error).__name__
                self._books.record(kind, request, reply, why)
            except Exception as unrecorded:
                log.warning("a refusal is not in the ledger: %s", type(unrecorded).__name__)
        return reply

    def allows(self, text: str) -> bool:
        """Whether policy and approvals still allow the job in a request."""
        try:
            require_allowed(self._file.policy, _job(text), self._approvals)
        except (ConfigError, Refusal):
            return False
        return True

    def prepare(self, job: Job) -> None:
        """Read the images of a job and make their features, so that its first request need not wait for that.

        Raises:
            ConsiliumError, MemoryError: as `client.preparation.prepare`; the text is for the hospital's own people.
        """
        require_allowed(self._file.policy, job, self._approvals)
        if self._part is None or self._part.prepared.job != job:
            self._part = self._begin(job)

    def part_in(self, text: str) -> Participation | None:
        """Its part in the job of this text, if it is at work at that one; nothing of it may leave but through `answer`."""
        return self._part if self._part is not None and self._part.text == text else None

    def _begin(self, job: Job) -> Participation:
        if job.noised_locally:
            require_training(job)
        state, releases = (
            LocalState(self._file.cache_folder, self.name, job),
            Releases(self._file.state_folder, job.job_id),
        )
        return Participation((self._preparing or prepare)(job, self._file), state, self.name, releases)

    def _epsilon(self, kind: str, job: Job, request: Packed) -> float:
        """What the answer spends of the hospital's budget; refuses a job that the budget does not allow any more."""
        owed = require_budget(self._file.policy, job, self._books.spent if self._books else None)
        if kind == "masked":
            question = self._sessions.question(request)
            return owed if question is not None and question.kind in NOISED else 0.0
        told = job.noised_locally and not job.privacy.secure_aggregation and kind in ("describe", "fit")
        return owed if told else 0.0

    def _phase(self, kind: str, tuned: Shapes, part: Participation, request: Packed) -> Packed:
        reply = self._sessions.answer(kind, part.prepared.job, tuned, request, functools.partial(summand, part))
        return Packed(reply.arrays, {**_identity(part), **reply.fields})

    def _plain(self, kind: str, part: Participation, request: Packed) -> Packed:
        answers: Mapping[str, Callable[[Participation, Packed], Packed]] = {
            "describe": self._describe,
            "initial": self._initial,
            "statistics": self._statistics,
            "fit": self._fit,
            "evaluate": self._evaluate,
            "distances": self._distances,
            "own": self._own,
            "personalise": self._personalise,
            "duplicates": self._duplicates,
            "collisions": self._collisions,
            "groups": self._groups,
        }
        return answers[kind](part, request)

    def _accepted(self, kind: str, request: Packed) -> tuple[Job, Shapes, Contract]:
        """The job of a well-formed request that the policy allows, shapes of what it tunes of the backbone, and the contract."""
        require_payload(self._file.policy, request.arrays)
        text = request.fields.get("job")
        if kind not in REQUESTS or not isinstance(text, str):
            raise Refusal(RefusalCode.BAD_REQUEST, "the request is of no known kind or carries no job")
        try:
            job = _job(text)
        except ConfigError as error:
            # As repr: it repeats words of the sender, which must not look like lines of this log.
            raise Refusal(RefusalCode.BAD_REQUEST, f"its job is not valid: {str(error)[:1000]!r}") from error
        require_allowed(self._file.policy, job, self._approvals)
        if not ASKED_BY[kind](job):
            raise Refusal(RefusalCode.BAD_REQUEST, f"job '{job.name}' does not ask for {kind}")
        tuned = shapes_tuned(job, self._file) if job.tune.deep else {}
        secure = kind in PHASE_REQUESTS
        contract = (
            self._sessions.contract(kind, job, tuned, request) if secure else _contract(kind, job, tuned, request)
        )
        problem = problem_with(request, contract.request, contract.dims)
        if problem:
            raise Refusal(RefusalCode.BAD_REQUEST, f"the request departs from the contract: {problem}")
        number = int(request.fields.get("round", 0))
        if number > job.method.rounds or (kind == "fit" and number < 1):
            raise Refusal(
                RefusalCode.BAD_REQUEST, f"job '{job.name}' has {job.method.rounds} rounds, this is about {number}"
            )
        if kind == "personalise":
            contract = replace(contract, dims=dimensions(job, len(PERSONALISED)))
        require_small_reply(self._file.policy, contract.reply, contract.dims)
        return job, tuned, contract

    def _taking_part(self, kind: str, job: Job, request: Packed) -> Participation:
        """This hospital's part in a job; kept until another job comes, or a description is asked for again."""
        if self._part is None or kind == "describe" or self._part.prepared.job != job:
            self._part = None
            self._part = self._begin(job)
        fingerprint = self._part.prepared.fingerprint
        if kind != "describe" and request.fields["fingerprint"] != fingerprint:
            raise Refusal(RefusalCode.BAD_REQUEST, "the request is about another feature space than this hospital's")
        return self._part

    def _describe(self, part: Participation, request: Packed) -> Packed:  # noqa: ARG002
        told, job = part.prepared.description, part.prepared.job
        if job.privacy.secure_aggregation:
            return told.space.pack()
        if job.noised_locally:
            return Packed({"centre": centre_told(part)}, told.space.pack().fields)
        return told.pack()

    def _initial(self, part: Participation, request: Packed) -> Packed:  # noqa: ARG002
        return Packed({f"{TUNED}{name}": array for name, array in part.prepared.tuned.items()}, _identity(part))

    def _statistics(self, part: Participation, request: Packed) -> Packed:
        sums = part.sums(unpack_standardisation(request.arrays))
        arrays = {"gram": sums.triangle(STATISTICS_DTYPE), "class-sums": sums.class_sums.astype(STATISTICS_DTYPE)}
        return Packed(arrays, {**_identity(part), "examples": part.prepared.description.examples})

    def _fit(self, part: Participation, request: Packed) -> Packed:
        if part.prepared.job.noised_locally:
            number = int(request.fields["round"])
            return Packed(Model(noised_fit(part, request)).arrays(), {**_identity(part), "round": number})
        start, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
        number = int(request.fields["round"])
        correction = unpack_below(CORRECTION, request.arrays)
        # Counted first: a fit may change what the hospital keeps of the round before.
        counts = part.count([start.head], start.tuned, standardisation, "validation", number - 1)
        fitted = part.fit(start, standardisation, number, correction)
        arrays = {**fitted.model.arrays(), **pack_counts(counts)}
        fields: dict[str, Field] = {
            **_identity(part),
            "round": number,
            "examples": fitted.examples,
        }
        if part.prepared.suppression is None:  # with a head made for it, the sum would count its training images
            fields["loss-sum"] = fitted.loss_sum
        return Packed(arrays, {**fields, "steps": fitted.steps} if part.prepared.job.method.counts_steps else fields)

    def _evaluate(self, part: Participation, request: Packed) -> Packed:
        which, number = _evaluated(request), int(request.fields["round"])
        tuned = unpack_below(TUNED, request.arrays)
        standardisation = unpack_standardisation(request.arrays)
        counts = part.count(unpack_heads(request.arrays), tuned, standardisation, which, number)
        return Packed(pack_counts(counts), {**_identity(part), "part": which, "round": number})

    def _distances(self, part: Participation, request: Packed) -> Packed:
        counts = part.distances(Spread.from_arrays(unpack_named(UNLIKE, request.arrays)))
        return Packed({"distances": counts.astype(np.int32)}, _identity(part))

    def _own(self, part: Participation, request: Packed) -> Packed:
        head = part.own(unpack_standardisation(request.arrays))
        return Packed(Model(head).arrays(), {**_identity(part), "examples": part.prepared.description.examples})

    def _personalise(self, part: Participation, request: Packed) -> Packed:
        which, number = _evaluated(request), int(request.fields["round"])
        model, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
        counts = part.personal(model, standardisation, which, number)
        return Packed(pack_counts(counts), {**_identity(part), "part": which, "round": number})

    def _duplicates(self, part: Participation, request: Packed) -> Packed:  # noqa: ARG002
        return Packed(self._shared.hashes_of(part), _identity(part))

    def _collisions(self, part: Participation, request: Packed) -> Packed:
        self._shared.told(part, request.arrays, self.name)
        return Packed({}, _identity(part))

    def _groups(self, part: Participation, request: Packed) -> Packed:
        model, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
        number = int(request.fields["round"])
        counts = part.count_groups(model, standardisation, number)
        return Packed({"confusion": counts.astype(np.int32)}, {**_identity(part), "round": number})


@functools.lru_cache(maxsize=8)
def _job(text: str) -> Job:
    return job_from_json(text)


def _contract(kind: str, job: Job, tuned: Shapes, request: Packed) -> Contract:
    if kind == "collisions":
        rows = np.shape(request.arrays.get("exact", ()))
        return Contract(
            request_schema(kind, job, tuned),
            reply_schema(kind, job, tuned),
            dimensions(job, images=rows[0] if rows else 0),
        )
    # The number of heads is what it is, but neither 0 nor above the limit: then no shape fits.
    shape = np.shape(request.arrays.get("weight", ()))
    heads = min(max(1, shape[0]), MAX_HEADS) if kind == "evaluate" and len(shape) == 3 else 1
    return Contract(request_schema(kind, job, tuned), reply_schema(kind, job, tuned), dimensions(job, heads))


def _evaluated(request: Packed) -> str:
    part = str(request.fields["part"])
    if part not in EVALUATED_PARTS:
        raise Refusal(RefusalCode.BAD_REQUEST, f"heads are counted on these parts only: {', '.join(EVALUATED_PARTS)}")
    return part


def _identity(part: Participation) -> dict[str, str]:
    return dict(part.identity)
