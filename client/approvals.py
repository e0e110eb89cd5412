"""Which jobs the hospital's people have approved, and which wait for them: small files in the hospital's state folder.

    jobs/<job_id>.json         the job in full, as it was asked for or as a person brought it
    approvals/<job_id>.json    approved: when, and by which account

A courier has no way here: `consilium hospital approve` writes the files, the agent reads them at every request.
"""

import contextlib
import getpass
import hashlib
import json
import logging
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from common.artifact import write_atomically
from common.errors import ConfigError
from common.job import Job, job_from_json

log = logging.getLogger(__name__)

MAX_WAITING = 100
"""Jobs kept for a person to read, at most: a coordinator must not fill the disk."""

_JOB_ID = re.compile(r"[0-9a-f]{64}")
_LEAST_DIGITS = 6


@dataclass(frozen=True)
class KnownJob:
    """A job that was asked for or brought here; approved: when and by whom, or None."""

    job: Job
    approved: str | None


class Approvals:
    """The approvals of one hospital, in its state folder."""

    def __init__(self, state: Path) -> None:
        self._state, self._jobs, self._approvals = state, state / "jobs", state / "approvals"

    def allows(self, job_id: str) -> bool:
        """Whether a person approved this job."""
        return bool(_JOB_ID.fullmatch(job_id)) and (self._approvals / f"{job_id}.json").is_file()

    def note(self, job: Job) -> None:
        """Keep a job that was asked for, so that a person can read and approve it."""
        path = self._jobs / f"{job.job_id}.json"
        if path.exists():
            return
        if sum(not self.allows(known) for known in self._ids()) >= MAX_WAITING:
            log.warning("%d jobs wait for approval already: another one is not kept", MAX_WAITING)
            return
        self._write(path, job.canonical_json())
        log.info("job '%s' waits for approval: consilium hospital approve %s", job.name, job.job_id[:12])

    def known(self) -> list[KnownJob]:
        """All jobs, the waiting ones first, then by name. A file that was tampered with is left out, and logged."""
        found = []
        for job_id in self._ids():
            try:
                found.append(KnownJob(self._read(job_id), self._approved(job_id)))
            except ConfigError as error:
                log.warning("a job is left out: %s", error)
        return sorted(found, key=lambda one: (one.approved is not None, one.job.name, one.job.job_id))

    def find(self, beginning: str) -> Job:
        """The one job whose id begins like this.

        Raises:
            ConfigError: there is none, or several, or fewer than 6 digits are given.
        """
        if len(beginning) < _LEAST_DIGITS:
            raise ConfigError(f"a job id has 64 hex digits; give at least {_LEAST_DIGITS} of them, got '{beginning}'")
        matching = [job_id for job_id in self._ids() if job_id.startswith(beginning.lower())]
        if len(matching) != 1:
            known = ", ".join(job_id[:12] for job_id in self._ids()) or "none"
            raise ConfigError(
                f"expected one job whose id begins with '{beginning}', got {len(matching)}; known here: {known}. A job that "
                "nobody has asked for yet is approved by its file"
            )
        return self._read(matching[0])

    def approve(self, job: Job) -> None:
        """From now on the agent answers what this job asks, within the hospital's policy."""
        self._write(self._jobs / f"{job.job_id}.json", job.canonical_json())
        when = {"approved": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": _account(), "name": job.name}
        self._write(self._approvals / f"{job.job_id}.json", json.dumps(when))

    def revoke(self, job: Job) -> bool:
        """The agent declines the job from its next request on; False if it was not approved."""
        path = self._approvals / f"{job.job_id}.json"
        was = path.exists()
        path.unlink(missing_ok=True)
        return was

    def approved_jobs(self, besides: Collection[str] = ()) -> list[Job]:
        """The jobs that were approved, but for some job ids; files that were tampered with are left out."""
        found = []
        for job_id in self._ids():
            if job_id not in besides and self.allows(job_id):
                with contextlib.suppress(ConfigError):
                    found.append(self._read(job_id))
        return found

    def _write(self, path: Path, text: str) -> None:
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, text, mode=0o600)

    def _ids(self) -> list[str]:
        files = self._jobs.glob("*.json") if self._jobs.is_dir() else []
        return sorted(path.stem for path in files if _JOB_ID.fullmatch(path.stem))

    def _read(self, job_id: str) -> Job:
        path = self._jobs / f"{job_id}.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read {path}: {error}; remove it, and the job will wait again when it is asked for"
            ) from error
        if hashlib.sha256(text.encode()).hexdigest() != job_id:
            raise ConfigError(f"{path} is not the job of its name (its sha256 is another); remove it")
        return job_from_json(text)

    def _approved(self, job_id: str) -> str | None:
        path = self._approvals / f"{job_id}.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return f"{content['approved']} by {content['by']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "at an unknown time"


def _account() -> str:
    """The account that approves: `approvals` are for the hospital's own eyes."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's account may have no name
        return "an account without a name"
