"""The ledger: an append-only record of every answer that left this hospital, and of every one that was refused.

An entry (`client/ledger_entry.py`) is on the disk before its answer leaves. So whenever the process is killed, what has left
is in the ledger. What a kill can leave behind, `client/ledger_reading.py` tells from a ledger that was changed; opening the
ledger mends it, and an entry notes that.
"""

import contextlib
import functools
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from client.ledger_entry import FORMAT, GENESIS, Decision, Entry, Head, array_records, now, seal, written
from client.ledger_files import LedgerFiles
from client.ledger_reading import repair_of
from client.ledger_refusals import Refusals
from common.errors import LedgerError
from common.job import Job, job_from_json
from common.packed import REFUSAL, Packed
from common.wire import PARTS, REQUESTS


class Ledger:
    """The ledger of one hospital, open for writing; `close` it, or use it as a context.

    Raises:
        ConfigError: another process writes it.
        LedgerError: it was changed, it is another hospital's, or its folder cannot be written.
    """

    def __init__(self, state: Path, hospital: str) -> None:
        self._hospital = hospital
        self._turn = threading.Lock()
        self._refusals = Refusals()
        self._head = Head(seq=0, hash=GENESIS)
        self._spent: dict[str | None, float] = {}
        self._total = 0.0
        self._closed = False
        try:
            self._files = LedgerFiles(state)
            try:
                self._recover()
            except BaseException:
                self._files.close()
                raise
        except OSError as error:
            raise LedgerError(
                f"cannot write the ledger below {state}: {error.strerror}; nothing leaves without it, so mend this first"
            ) from error

    @property
    def head(self) -> str:
        """Number and hash of the last entry, SEQ:HASH, to be noted elsewhere."""
        return self._head.text

    def spent(self, job_id: str | None = None) -> float:
        """Epsilon spent by the answers to one job, or by all. One that was cut off after its entry was written counts."""
        with self._turn:
            return self._total if job_id is None else self._spent.get(job_id, 0.0)

    def record(
        self,
        kind: str,
        request: Packed,
        reply: Packed,
        reason: str | None = None,
        *,
        masked: bool = False,
        epsilon: float = 0.0,
    ) -> str:
        """Write down a reply before it leaves; returns the head. If it raises, the reply must stay here.

        A refusal (`REFUSAL` among its fields) is an entry, too, or is counted where there are very many. reason: why, for the
        hospital's own people. masked: whether its arrays are masked for secure aggregation. epsilon: what it spends.

        Raises:
            OSError: it cannot be written, for instance because the disk is full.
            LedgerError: the ledger was changed meanwhile, or is closed.
        """
        code = str(reply.fields[REFUSAL]) if REFUSAL in reply.fields else None
        kind = kind if kind in REQUESTS else "unknown"
        moment = now()
        content = {"kind": kind, **_about(request)}
        if code is None:
            arrays = array_records(reply)
            content |= {"arrays": arrays, "bytes": sum(one.bytes for one in arrays), "fields": dict(reply.fields)}
            content |= {"masked": masked, "epsilon": float(epsilon)}
        else:
            content |= {"code": code, "reason": reason}
        with self._turn:
            if self._files.size is None or self._closed:
                self._recover()
            if code is None or not self._refusals.counts(kind, code, moment):
                self._write_counted(everything=code is None)
                self._append("sent" if code is None else "refused", moment, **content)
            else:
                self._write_counted(everything=False)
            return self.head

    def close(self) -> None:
        """Write down the refusals that were only counted so far, and let the ledger go."""
        with self._turn:
            if self._closed:
                return
            with contextlib.suppress(OSError, LedgerError):
                self._write_counted(everything=True)
            self._closed = True
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self) -> None:
        """Read and verify the ledger, mend what a killed process or a failed writing left, and go on from there."""
        if self._closed:
            raise LedgerError("the ledger is closed, the agent stops; nothing leaves any more")
        found = self._files.read()
        if found.problems:
            raise LedgerError(
                f"the ledger in {self._files.folder} is not as this hospital wrote it: {found.problems[0]}. Nothing leaves "
                "until a person has looked: consilium hospital ledger verify. To begin anew, move the folder away and keep it"
            )
        owner = found.entries[0].about.get("hospital") if found.entries else self._hospital
        if owner != self._hospital:
            raise LedgerError(
                f"the ledger in {self._files.folder} is that of '{owner}', expected that of '{self._hospital}'; give each "
                "hospital its own 'state' folder in its file"
            )
        repair = repair_of(found)
        # The head first announces the repair, so that a kill on the way loses nothing of it.
        self._head = found.last.model_copy(update={"repair": repair})
        if self._head != found.head:
            self._files.write_head(self._head)
        if found.half:
            self._files.cut()
        self._total, self._spent = 0.0, {}
        for entry in found.entries:
            self._count(entry)
        if not found.entries:
            self._append("begun", now(), about={"format": FORMAT, "hospital": self._hospital})
        elif repair is not None:
            self._append("repaired", now(), about=dict(repair))

    def _append(self, decision: Decision, moment: datetime, **content: Any) -> None:
        total = self._total + content.get("epsilon", 0.0)
        chained = {"seq": self._head.seq + 1, "previous": self._head.hash, "epsilon_total": total}
        entry, line = seal(Entry(time=written(moment), decision=decision, **chained, **content))
        head = Head(seq=entry.seq, hash=entry.hash)
        self._files.append(line, self._head, head)
        self._head = head
        self._count(entry)

    def _count(self, entry: Entry) -> None:
        self._total = entry.epsilon_total
        self._spent[entry.job_id] = self._spent.get(entry.job_id, 0.0) + entry.epsilon

    def _write_counted(self, everything: bool) -> None:
        for one in self._refusals.due(everything):
            self._append("refused", now(), kind=one.kind, code=one.code, count=one.count, since=written(one.since))
            self._refusals.wrote(one)


def _about(request: Packed) -> Mapping[str, Any]:
    """Of a request, which may be hostile: the job if it is one, and round and part if they are ones."""
    fields = request.fields
    job, number, part = _job(fields.get("job")), fields.get("round"), fields.get("part")
    return {
        "job": job.name if job else None,
        "job_id": job.job_id if job else None,
        "round": number if type(number) is int and 0 <= number < 2**31 else None,
        "part": part if part in PARTS else None,
    }


@functools.lru_cache(maxsize=8)
def _job(text: object) -> Job | None:
    try:
        return job_from_json(text) if isinstance(text, str) else None
    except Exception:  # whatever it is, it must not keep a refusal out of the ledger
        return None
