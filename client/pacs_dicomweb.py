"""A PACS that speaks DICOMweb: search (QIDO-RS) and retrieval (WADO-RS).

Source: DICOM PS3.18, sections 10.6 (search) and 10.4 (retrieve).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from client.deidentify import Reason, Refused
from client.importing_facts import Facts
from client.importing_files import Found
from client.pacs import TIMEOUT_S, Access, session_for
from client.pacs_answers import limited, retried
from client.progress import progress
from client.quiet_pydicom import quiet_pydicom
from common.errors import ConsiliumError, NotDeliveredError

_KIND = "DICOMweb"
# As JSON names them: group and element.
_STUDY, _SERIES, _SOP, _ACCESSION, _IN_SERIES = "0020000D", "0020000E", "00080018", "00080050", "00201209"
_DATE = "00080020"
_AS_STORED = (("application/dicom", "*"),)
"""In whatever transfer syntax the PACS keeps it, so that the pixel data stay as they are."""

Answer = dict[str, dict[str, Any]]


class DicomWeb:
    """One DICOMweb service."""

    def __init__(self, way: Access) -> None:
        self._way = way
        self._client = DICOMwebClient(way.url, session_for(way), permissive_uid=True, timeout=TIMEOUT_S)
        self._client.set_http_retry_params(retry=False)  # `retried` does it, for broken connections too

    def find(self, query: Mapping[str, str]) -> list[Found]:
        """All instances of the series that a query matches.

        Raises:
            DataError: the service cannot be used, with the reason.
        """
        series = list(self._series(query, tries=3))
        self._prove_complete(series)
        found: list[Found] = []
        with progress("asking the PACS", len(series)) as advance:
            for one in series:
                instances = list(self._instances(_value(one, _STUDY), _value(one, _SERIES), _value(one, _ACCESSION)))
                if len(instances) < int(_value(one, _IN_SERIES) or 0):
                    raise limited(self._way, len(instances))
                found += instances
                advance(1)
        return found

    def _series(self, query: Mapping[str, str], tries: int | None = None) -> Iterator[Answer]:
        def page(offset: int) -> list[Answer]:
            fields = [_ACCESSION, _IN_SERIES]
            return self._client.search_for_series(offset=offset, fields=fields, search_filters=dict(query))

        return self._pages(page, _SERIES, tries)

    def _prove_complete(self, series: Sequence[Answer]) -> None:
        """A service that leaves out results should say so, and Orthanc does not.

        Then even of all series it shows no more than of these; so it has these alone, or it leaves out others. The others may
        come to light before or after the middle of these studies' dates.

        Raises:
            DataError: it leaves out some.
        """

        def any_series(offset: int, limit: int) -> set[str]:
            return {_value(one, _SERIES) for one in self._client.search_for_series(offset=offset, limit=limit)}

        if not series:
            return
        count, own = len(series), {_value(one, _SERIES) for one in series}
        try:
            if retried(partial(any_series, count, 1), self._way, _KIND):
                return
            others = retried(partial(any_series, 0, count + 1), self._way, _KIND) - own
            for dates in _around(sorted(_value(one, _DATE) for one in series)[count // 2]):
                others |= {_value(one, _SERIES) for one in self._series({"StudyDate": dates})} - own
        except NotDeliveredError:
            return  # it answers no search of this kind
        if others:
            raise limited(self._way, count)

    def _instances(self, study: str, series: str, accession: str) -> Iterator[Found]:
        def page(offset: int) -> list[Answer]:
            return self._client.search_for_instances(study, series, offset=offset)

        for one in self._pages(page, _SOP):
            facts = Facts("", _value(one, _SOP), series, study, accession or _value(one, _ACCESSION))
            yield Found(f"instance {facts.sop_uid}", partial(_same, facts), partial(self._read, facts))

    def _pages(self, page: Callable[[int], list[Answer]], key: str, tries: int | None = None) -> Iterator[Answer]:
        """All answers, once each; a service may give as few at a time as it likes, or ignore the offset."""
        seen: dict[str, Answer] = {}
        offset = 0
        while True:
            answers = retried(partial(_keyed, page, offset, key), self._way, _KIND, tries)
            new = {uid: one for uid, one in answers if uid and uid not in seen}
            if not new:
                return
            yield from new.values()
            seen |= new
            offset += len(answers)

    def _read(self, facts: Facts) -> Dataset | Refused:
        def fetch() -> Dataset:
            with quiet_pydicom():
                return self._client.retrieve_instance(facts.study_uid, facts.series_uid, facts.sop_uid, _AS_STORED)

        try:
            return retried(fetch, self._way, _KIND)
        except NotDeliveredError as error:
            return Refused(Reason.NOT_DELIVERED, str(error))
        except ConsiliumError:
            raise
        except Exception as error:  # what was delivered is damaged, and may raise anything
            return Refused(Reason.UNREADABLE, type(error).__name__)


def _same(facts: Facts) -> Facts:
    return facts


def _around(date: str) -> list[str]:
    """Three ranges of dates: before a day, the day, after it; none if this is no date."""
    try:
        day = datetime.strptime(date, "%Y%m%d").date()
    except ValueError:
        return []
    return [f"-{day - timedelta(days=1):%Y%m%d}", date, f"{day + timedelta(days=1):%Y%m%d}-"]


def _keyed(page: Callable[[int], list[Answer]], offset: int, key: str) -> list[tuple[str, Answer]]:
    """A page of answers with their UIDs; raises what `retried` understands if they are no DICOM in JSON."""
    return [(_value(one, key), one) for one in page(offset)]


def _value(answer: Answer, key: str) -> str:
    """The first value of an attribute in DICOM's JSON, or an empty text."""
    values = answer.get(key, {}).get("Value") or [""]
    return str(values[0])
