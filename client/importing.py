"""De-identified copies of DICOM images in a folder of their own, from files or from a PACS; originals are only read.

Copies are named by their pseudonyms, PATIENT/SERIES/INSTANCE.dcm, so the same original is the same copy whenever and from
wherever it is imported. What is there already is not made again: an import that was killed goes on where it was.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.deidentify import Copy, Reason, Refused, deidentify
from client.importing_facts import Facts, read_facts
from client.importing_files import Found
from client.importing_journal import Entry, Journal
from client.importing_labels import Labels
from client.importing_manifest import read_rows, write_manifest
from client.progress import progress
from client.pseudonyms import load_salt, salt_fingerprint, uid_pseudonym
from common.artifact import write_atomically
from common.errors import ConfigError, StorageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a person chose. keep_sex_age: sex and age band (as in common.groups) go into the manifest, never into the copies."""

    labels: Labels = field(default_factory=Labels)
    allow_burned_in: bool = False
    keep_sex_age: bool = False


@dataclass(frozen=True)
class Result:
    """Counts of one import; `unlabelled` is of the whole manifest."""

    written: int
    already_there: int
    refused: Counter[Reason]
    unlabelled: int

    @property
    def not_dicom(self) -> int:
        """Files that are something else altogether; they count as no refusal."""
        return self.refused[Reason.NOT_DICOM]

    @property
    def num_refused(self) -> int:
        """DICOM that was not copied."""
        return self.refused.total() - self.not_dicom


@contextlib.contextmanager
def opened(out: Path, salt_file: Path) -> Iterator["Importer"]:
    """An importer into a folder, which no other process writes meanwhile.

    Raises:
        ConfigError: the salt lies in the folder, is open to others, or is another than that of the folder.
        DataError: the folder's journal or manifest is damaged.
        StorageError: something cannot be written.
    """
    if salt_file.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--salt {salt_file} lies in --out {out}: whoever got the copies could undo their pseudonyms; keep it elsewhere"
        )
    salt = load_salt(salt_file)
    journal = Journal(out, salt_fingerprint(salt))
    try:
        yield Importer(out, salt, journal)
    finally:
        journal.close()


class Importer:
    """Imports into one folder, with its journal and its manifest."""

    def __init__(self, out: Path, salt: bytes, journal: Journal) -> None:
        self._out, self._salt, self._journal = out, salt, journal
        self._rows = read_rows(out)
        self._labelled: set[str] = set()
        for partial in out.glob("*/*/.*.dcm.*"):
            partial.unlink(missing_ok=True)  # of a process that was killed

    def run(self, found: Sequence[Found], options: Options) -> Result:
        """Import all of it. However it ends, the manifest names what is there.

        Raises:
            StorageError: the disk is full, or cannot be written.
            DataError: the PACS does not answer any longer.
        """
        outcomes: Counter[str] = Counter()
        refused: Counter[Reason] = Counter()
        try:
            with progress("importing", len(found)) as advance:
                for one in found:
                    outcome = self._import(one, options)
                    if isinstance(outcome, Refused):
                        refused[outcome.reason] += 1
                        log.debug("%s: %s %s", one.name, outcome.reason, outcome.detail)
                    else:
                        outcomes[outcome] += 1
                    advance(1)
        except BaseException:
            with contextlib.suppress(StorageError):
                self._write_manifest(options)
            raise
        return Result(outcomes["written"], outcomes["there"], refused, self._write_manifest(options))

    def _import(self, found: Found, options: Options) -> str | Refused:
        """'written', 'there', or why not."""
        try:
            facts = found.look()
            if isinstance(facts, Refused):
                return facts
            if self._is_there(facts):
                self._note_again(facts, found, options)
                return "there"
            original = found.read()
        except OSError as error:
            return Refused(Reason.UNREADABLE, str(error.strerror))
        if isinstance(original, Refused):
            return original
        facts = read_facts(original)
        copy = deidentify(original, self._salt, options.allow_burned_in)
        if isinstance(copy, Refused):
            return copy
        self._write(copy, facts, found, options)
        return "written"

    def _is_there(self, facts: Facts) -> bool:
        entry = self._journal.entries.get(uid_pseudonym(self._salt, facts.sop_uid)) if facts.sop_uid else None
        return entry is not None and (self._out / entry.path).is_file()

    def _write(self, copy: Copy, facts: Facts, found: Found, options: Options) -> None:
        path = f"{copy.patient}/{copy.series_uid}/{copy.sop_uid}.dcm"
        try:
            write_atomically(self._out / path, copy.data, mode=0o600)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._out / path}: {error.strerror}; what is imported stays. Make room, and run the same "
                "command again"
            ) from error
        self._note(Entry(copy.sop_uid, path, copy.patient), facts, found, options)

    def _note_again(self, facts: Facts, found: Found, options: Options) -> None:
        """What is there already gets what this import says of its label, sex and age."""
        self._note(self._journal.entries[uid_pseudonym(self._salt, facts.sop_uid)], facts, found, options)

    def _note(self, entry: Entry, facts: Facts, found: Found, options: Options) -> None:
        label = options.labels.of(facts, found.path)
        if label:
            entry = replace(entry, label=label)
            self._labelled.add(entry.sop_uid)
        if options.keep_sex_age:
            entry = replace(entry, sex=facts.sex or entry.sex, age_band=facts.age_band or entry.age_band)
        if self._journal.entries.get(entry.sop_uid) != entry:
            self._journal.add(entry)

    def _write_manifest(self, options: Options) -> int:
        return write_manifest(self._out, self._journal.entries, self._rows, self._labelled, options.keep_sex_age)
