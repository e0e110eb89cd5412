"""The hospital's sessions of secure aggregation: between the contract's phases and `common.secure_sum.participant`.

What is asked is fixed when a session begins: the purpose says which of the job's sums, the digest of the question which model or
heads exactly, and all hospitals sign both. The question itself comes with the phase `masked`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.hospital_file import HospitalFile
from common.errors import ConfigError, Refusal, RefusalCode
from common.job import Job
from common.packed import AnyArray, Packed
from common.phases import PARTICIPANTS, PHASE_REQUESTS
from common.schema import Contract, Schema
from common.secure_sum.errors import SecureSumError
from common.secure_sum.terms import MOST_HOSPITALS, Phase, Terms
from common.summed import Question, layout_of, question_digest
from common.wire import Shapes, dimensions, reply_schema, request_schema

if TYPE_CHECKING:  # it imports flwr, which only a hospital with secure aggregation needs
    from common.secure_sum.participant import Participant
    from common.secure_sum.roster import Identity

OPENED = "opened-sums"
"""In the state folder: which sums this hospital has helped to open (`common.secure_sum.once`)."""

_SESSIONS_KEPT = 8

Summand = Callable[[Question, Packed, Terms], Mapping[str, AnyArray]]
"""What this hospital adds to a sum: arrays of the question's layout."""


@dataclass(frozen=True)
class _Session:
    job_id: str
    question: Question
    participant: "Participant"


class SecureSessions:
    """The open sessions of one hospital; the oldest is given up when there are too many."""

    def __init__(self, file: HospitalFile) -> None:
        self._file = file
        self._open: dict[str, _Session] = {}

    def contract(self, kind: str, job: Job, tuned: Shapes, request: Packed) -> Contract:
        """The schemas of a phase.

        Raises:
            Refusal: the purpose is none of the job's, or there is no such session.
        """
        asked, dims = request_schema(kind, job, tuned), dict(dimensions(job))
        if kind == "masked":
            question = self._session(job, request).question
            own = request_schema(question.kind, job, tuned)
            asked = Schema({**own.arrays, **asked.arrays}, {**own.fields, **asked.fields}, own.optional)
            dims = {**dimensions(job, question.heads), "L": layout_of(question, job, tuned).length}
        if kind in PARTICIPANTS:
            rows = request.arrays.get(PARTICIPANTS[kind])
            count = len(rows) if rows is not None and rows.ndim else 0
            # As many as there are, but neither too few nor too many: then no shape fits.
            dims["P"] = min(max(2, count), MOST_HOSPITALS)
        return Contract(asked, reply_schema(kind, job, tuned), dims)

    def answer(self, kind: str, job: Job, tuned: Shapes, request: Packed, summand: Summand) -> Packed:
        """The reply of a phase, without the fields that every reply repeats.

        Raises:
            Refusal: `secure-sum`: the request is not what an honest coordinator sends, or this hospital cannot take part.
        """
        try:
            if kind == "keys":
                return self._begin(job, tuned, request)
            session, phase = self._session(job, request), Phase(kind)
            if phase is not Phase.MASKED:
                reply = session.participant.answer(phase, request)
                if phase is Phase.UNMASK:
                    del self._open[str(request.fields["session"])]
                return reply
            terms, question = session.participant.terms, _question_in(request)
            if question_digest(question) != terms.question:
                raise SecureSumError("the question is not the one that all hospitals of the session have signed")
            arrays = summand(session.question, question, terms)
            reply = session.participant.answer(phase, request, arrays)
            return Packed(reply.arrays, {**reply.fields, "purpose": terms.purpose})
        except SecureSumError as error:
            raise Refusal(RefusalCode.SECURE_SUM, f"secure aggregation, phase {kind}: {error}") from error

    def question(self, request: Packed) -> Question | None:
        """The question of an open session."""
        found = self._open.get(str(request.fields.get("session")))
        return found.question if found else None

    def _begin(self, job: Job, tuned: Shapes, request: Packed) -> Packed:
        from common.secure_sum.once import Once
        from common.secure_sum.participant import Participant
        from common.secure_sum.subject import Subject

        purpose, digest = str(request.fields["purpose"]), str(request.fields["question"])
        try:
            question = Question.read(job, purpose, digest)
        except ConfigError as error:
            raise Refusal(RefusalCode.BAD_REQUEST, f"job '{job.name}': {error}") from error
        subject = Subject(job.job_id, purpose, layout_of(question, job, tuned), digest)
        once, least = Once(self._file.state_folder / OPENED), self._file.policy.min_hospitals_in_sum
        participant = Participant(self._own_identity(), request, subject, once, least)
        reply = participant.answer(Phase.KEYS, request)
        while len(self._open) >= _SESSIONS_KEPT:
            self._open.pop(next(iter(self._open))).participant.close()
        self._open[participant.terms.session] = _Session(job.job_id, question, participant)
        return reply

    def _session(self, job: Job, request: Packed) -> _Session:
        found = self._open.get(str(request.fields.get("session")))
        if found is None or found.job_id != job.job_id:
            raise Refusal(
                RefusalCode.SECURE_SUM,
                f"job '{job.name}': no such session of secure aggregation is open here (was the agent restarted?)",
            )
        return found

    def _own_identity(self) -> "Identity":
        key, roster = self._file.node_key, self._file.roster
        if key is None or roster is None:
            raise SecureSumError(
                "this hospital's file names no node_key and no roster: put the paths of its kit's node_key and roster.txt "
                "into hospital.yaml"
            )
        try:
            # Read each time: a new roster comes when a hospital joins.
            return _identity(self._file.name, key, roster.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SecureSumError(
                f"cannot read the roster {roster}: {error}; ask the coordinator for a new kit"
            ) from error
        except ConfigError as error:
            raise SecureSumError(str(error)) from error


@functools.lru_cache(maxsize=32)
def _identity(name: str, key: Path, roster: str) -> "Identity":
    from common.secure_sum.roster import Identity, load_node_key, parse_roster

    return Identity(name, load_node_key(key), parse_roster(roster))


def _question_in(request: Packed) -> Packed:
    """Of a request of the phase `masked`, the question."""
    secure = PHASE_REQUESTS["masked"]
    return Packed(
        {name: array for name, array in request.arrays.items() if name not in secure.arrays},
        {name: value for name, value in request.fields.items() if name not in secure.fields},
    )
