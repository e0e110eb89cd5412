"""What a hospital's pages show, read from its state folder at each request: agent, jobs, ledger; and a look through its data."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import yaml

from client.agent_status import read_status
from client.approvals import Approvals, KnownJob
from client.hospital_file import HospitalFile
from client.job_in_words import in_words
from client.ledger_reading import Reading, read_ledger
from client.ledger_summary import summarise
from client.web.models import Agent, CheckSaid, Hospital, JobSaid, Line, Sent, SentOfJob
from common.errors import ConsiliumError

log = logging.getLogger(__name__)


def hospital(own: HospitalFile) -> Hospital:
    """The hospital, its agent and its jobs."""
    return Hospital(
        name=own.name,
        automatic=own.policy.approve == "auto",
        agent=agent(own),
        jobs=[job_said(one, own) for one in Approvals(own.state_folder).known()],
    )


def agent(own: HospitalFile) -> Agent:
    """What the agent wrote last of itself."""
    try:
        status = read_status(own.state_folder)
    except ConsiliumError:
        return Agent(state="away", problem="its status file cannot be read; start the agent again")
    if status is None:
        return Agent(state="away")
    return Agent(
        **{key: getattr(status, key) for key in ("state", "doing", "done", "total", "answered", "declined")},
        **{key: getattr(status, key) for key in ("since", "last_answer", "problem")},
    )


def job_said(known: KnownJob, own: HospitalFile) -> JobSaid:
    """A job as a person reads it before it is approved."""
    job = known.job
    return JobSaid(
        job_id=job.job_id,
        name=job.name,
        approved=known.approved,
        words=[Line(heading=heading, words=words) for heading, words in in_words(job, own.policy)],
        in_full=yaml.safe_dump(job.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True),
    )


def known_job(own: HospitalFile, job_id: str) -> KnownJob | None:
    """The job with this id, in full; None if there is none."""
    return next((one for one in Approvals(own.state_folder).known() if one.job.job_id == job_id), None)


def ledger(own: HospitalFile) -> Reading | None:
    """The ledger; None if there is none yet.

    Raises:
        LedgerError: it cannot be read.
    """
    return read_ledger(own.state_folder)


def sent(reading: Reading) -> Sent:
    """What a ledger adds up to."""
    found = summarise(reading.entries)
    jobs = [
        SentOfJob(
            job=one.name,
            job_id=one.detail,
            answers=one.sent,
            bytes=one.bytes,
            masked=one.masked,
            epsilon=one.epsilon,
            refused=one.refused,
            first=one.first,
            last=one.last,
        )
        for one in found.jobs
    ]
    return Sent(
        verified=not reading.problems,
        problems=[str(one) for one in reading.problems],
        note=reading.note,
        head=reading.last.text,
        answers=found.everything.sent,
        bytes=found.everything.bytes,
        refused=found.everything.refused,
        epsilon=found.everything.epsilon,
        jobs=jobs,
    )


class DataCheck:
    """The look through this hospital's images, one at a time, in a thread; what it found is in memory only."""

    def __init__(self, own: HospitalFile) -> None:
        self._own, self._lock = own, threading.Lock()
        self._said = CheckSaid(state="never")
        self._thread: threading.Thread | None = None

    @property
    def said(self) -> CheckSaid:
        """How far it is, or what it found."""
        with self._lock:
            return self._said

    def start(self) -> CheckSaid:
        """Begin anew, unless it is at work."""
        with self._lock:
            if self._said.state != "running":
                self._said = CheckSaid(state="running")
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            return self._said

    def wait(self) -> None:
        """Until it is over."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            from client.check import check_hospitals  # torch comes with it, and most visits look at no data

            where, own = {self._own.name: self._own.data.source}, self._own
            found = check_hospitals(where, None, self._progress, own.cache_folder, own.state_folder)
        except Exception as error:
            log.error("the data check failed (%s)", type(error).__name__)
            log.debug("it was this", exc_info=True)
            self._change(CheckSaid(state="failed", finished=time.time()))
            return
        one = found.hospitals.get(self._own.name)
        classes = one.classes if one else {}
        self._change(
            CheckSaid(
                state="done",
                finished=time.time(),
                classes={label: of.images for label, of in classes.items()},
                patients={label: of.patients for label, of in classes.items()},
                images_by_part=dict(one.images_by_part) if one else {},
                unreadable=len(one.unreadable) if one else 0,
                errors=list(found.errors),
                warnings=list(found.warnings),
            )
        )

    def _change(self, said: CheckSaid) -> None:
        with self._lock:
            self._said = said

    @contextmanager
    def _progress(self, _title: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self._change(CheckSaid(state="running", done=done, total=total))

        advance(0)
        yield advance
