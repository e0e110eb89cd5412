"""Orthanc, through the REST API that it has without any plugin.

Source: https://orthanc.uclouvain.be/book/users/rest.html
"""

import io
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import pydicom
import requests
from pydicom.dataset import Dataset

from client.deidentify import Reason, Refused
from client.importing_facts import Facts
from client.importing_files import Found
from client.pacs import TIMEOUT_S, Access, session_for
from client.pacs_answers import limited, retried
from client.progress import progress
from client.quiet_pydicom import quiet_pydicom
from common.errors import NotDeliveredError

_KIND = "Orthanc"


class Orthanc:
    """One Orthanc server."""

    def __init__(self, way: Access) -> None:
        self._way = way
        self._session = session_for(way)

    def find(self, query: Mapping[str, str]) -> list[Found]:
        """All instances of the series that a query matches.

        Raises:
            DataError: the server cannot be used, with the reason.
        """
        retried(lambda: self._json("GET", "/system")["ApiVersion"], self._way, _KIND, tries=3)
        series = list(dict.fromkeys(self._series(query)))
        retried(partial(self._prove_complete, len(series)), self._way, _KIND)
        found: list[Found] = []
        with progress("asking the PACS", len(series)) as advance:
            for one in series:
                found += retried(partial(self._instances, one), self._way, _KIND)
                advance(1)
        return found

    def _series(self, query: Mapping[str, str]) -> Iterator[str]:
        """Orthanc's own ids of series, a thousand at a time."""
        since = 0
        while True:
            body: dict[str, Any] = {"Level": "Series", "Query": dict(query), "Since": since, "Limit": 1000}
            page = retried(partial(self._ids, body), self._way, _KIND)
            if not page:
                return
            yield from page
            since += len(page)

    def _prove_complete(self, count: int) -> None:
        """A server with LimitFindResults leaves out what is beyond, and says nothing; then even of all series it shows no more.

        Raises:
            DataError: it does.
        """
        beyond = {"Level": "Series", "Query": {}, "Since": count, "Limit": 1}
        if int(self._json("GET", "/statistics")["CountSeries"]) > count and not self._ids(beyond):
            raise limited(self._way, count)

    def _instances(self, series: str) -> list[Found]:
        found = []
        place = f"/series/{quote(series, safe='')}"
        study = self._json("GET", f"{place}/study")["MainDicomTags"]
        tags = self._json("GET", place)["MainDicomTags"]
        for one in self._json("GET", f"{place}/instances"):
            facts = Facts(
                "",
                str(one["MainDicomTags"]["SOPInstanceUID"]),
                str(tags["SeriesInstanceUID"]),
                str(study["StudyInstanceUID"]),
                str(study.get("AccessionNumber", "")),
            )
            id_ = str(one["ID"])
            found.append(Found(f"instance {id_}", partial(_same, facts), partial(self._read, id_)))
        return found

    def _read(self, id_: str) -> Dataset | Refused:
        try:
            content = retried(lambda: self._get(f"/instances/{quote(id_, safe='')}/file").content, self._way, _KIND)
        except NotDeliveredError as error:
            return Refused(Reason.NOT_DELIVERED, str(error))
        with quiet_pydicom():
            try:
                return pydicom.dcmread(io.BytesIO(content), force=True)
            except Exception as error:  # a damaged file may raise anything here
                return Refused(Reason.UNREADABLE, type(error).__name__)

    def _ids(self, body: dict[str, Any]) -> list[str]:
        return [str(one) for one in self._json("POST", "/tools/find", body)]

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        response = self._session.request(method, self._way.url + path, json=body, timeout=TIMEOUT_S)
        response.raise_for_status()
        return response.json()

    def _get(self, path: str) -> requests.Response:
        response = self._session.get(self._way.url + path, timeout=TIMEOUT_S)
        response.raise_for_status()
        return response


def _same(facts: Facts) -> Facts:
    return facts
