"""A hospital's side of the search for images that two hospitals have (`duplicates: check`): keyed hashes out, places back."""

import logging
from collections.abc import Mapping

import numpy as np

from client.duplicate_keys import KeyedHashes, keep_collisions, keyed_hashes, read_secret
from client.hospital_file import HospitalFile
from client.local_state import LocalState
from client.participation import Participation
from client.slices import reading_of
from common.errors import Refusal, RefusalCode
from common.packed import AnyArray

log = logging.getLogger(__name__)


class SharedImages:
    """The keyed hashes of the images of a job; kept while the hospital is at work at it."""

    def __init__(self, file: HospitalFile) -> None:
        self._file = file
        self._keyed: tuple[Participation, KeyedHashes] | None = None

    def hashes_of(self, part: Participation) -> Mapping[str, AnyArray]:
        """What leaves: `exact` and `near`.

        Raises:
            Refusal, ConfigError, DataError: there is no secret, or an image cannot be read.
        """
        found = self._hashes(part)
        return {"exact": found.exact, "near": found.near}

    def told(self, part: Participation, places: Mapping[str, AnyArray], hospital: str) -> None:
        """Keep which of the hospital's images are at another one; places: by kind, for each row that was sent.

        Raises:
            Refusal: it is about another number of rows.
        """
        same, digests = self._hashes(part).same, part.prepared.digests
        if len(places["exact"]) != len(same):
            raise Refusal(RefusalCode.BAD_REQUEST, f"it is about {len(places['exact'])} images, not {len(same)}")
        found = {
            kind: [digests[at].hex() for row in np.flatnonzero(places[kind]).tolist() for at in same[row]]
            for kind in ("exact", "near")
        }
        keep_collisions(LocalState(self._file.cache_folder, hospital, part.prepared.job).folder, **found)
        log.info(
            "%d images of this hospital are at another one, too: consilium check --html", sum(map(len, found.values()))
        )

    def _hashes(self, part: Participation) -> KeyedHashes:
        if self._keyed is None or self._keyed[0] is not part:
            where = self._file.consortium_secret
            if where is None:
                raise Refusal(RefusalCode.AGAINST_POLICY, "the hospital file names no consortium_secret")
            job = part.prepared.job
            paths = [record.path for record in part.prepared.records.records]
            self._keyed = (part, keyed_hashes(paths, read_secret(where), job.job_id, reading_of(job)))
        return self._keyed[1]
