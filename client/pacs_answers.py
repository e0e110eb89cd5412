"""What a PACS answers, tried again while it is away or busy, and in words if it answers anything but what was asked for."""

import time
from collections.abc import Callable
from typing import TypeVar

import requests

from client.pacs import WHERE, Access
from common.errors import DataError, NotDeliveredError

_AGAIN = (408, 425, 429, 502, 503, 504)
T = TypeVar("T")


def retried(action: Callable[[], T], way: Access, kind: str, tries: int | None = None) -> T:
    """What an action over HTTP returns, tried again while the PACS is away or busy. tries: at most so many.

    Raises:
        NotDeliveredError: the PACS is there, and does not deliver this one thing.
        DataError: the PACS cannot be reached, lets nobody in, has no trusted certificate, or speaks something else than `kind`.
    """
    waits_s = list(way.waits_s)[: None if tries is None else tries - 1]
    while True:
        try:
            return action()
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError) as error:
            if not waits_s or not _passes(error):
                raise _explained(error, way, kind) from error
        time.sleep(waits_s.pop(0))


def _passes(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _AGAIN
    away = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, away) and not isinstance(error, requests.exceptions.SSLError)


def _explained(error: Exception, way: Access, kind: str) -> DataError:
    """The error in words; the address of the request is left out, it names patients."""
    url = way.url
    if isinstance(error, requests.exceptions.SSLError):
        return DataError(
            f"{url}: no secure connection: its certificate is not of an authority that is trusted here, or not for this name, "
            "or it does not speak TLS. Give the authority's certificate with --ca FILE"
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return DataError(f"{url} sends us to another address, which is not followed; give the final address")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        if status == 401:
            return DataError(f"{url} lets nobody in without a valid user and password or token (401). {WHERE}")
        if status == 403:
            return DataError(
                f"{url} knows us, but does not allow this (403); ask its administrator for the right to search and read"
            )
        if status in _AGAIN:
            return DataError(f"{url} is not ready: it answers with {status} again and again; look into its log")
        if status in (400, 404, 405, 406, 415):
            return NotDeliveredError(f"{url} does not answer as {kind} does ({status}); {_EXPECTED[kind]}")
        return NotDeliveredError(f"{url} answers with {status}; look into its log")
    if isinstance(error, requests.Timeout):
        return DataError(f"{url} does not answer in time; is it overloaded, or does a firewall swallow the way to it?")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return DataError(
            f"{url} cannot be reached; is the address right, does it run, does the network let us through?"
        )
    return NotDeliveredError(f"{url} answers, but not as {kind} does ({type(error).__name__}); {_EXPECTED[kind]}")


def limited(way: Access, shown: int) -> DataError:
    """The error for a PACS that leaves out results without a word."""
    return DataError(
        f"{way.url} holds more than it lists: it gives {shown} results and no more on asking (Orthanc: LimitFindResults and "
        "LimitFindInstances in its configuration). Raise the limit, or ask for less at once, such as --query StudyDate=20260101"
    )


_EXPECTED = {
    "DICOMweb": "expected the root of its DICOMweb service, such as https://HOST/dicom-web (Orthanc needs its DICOMweb plugin)",
    "Orthanc": "expected the root of Orthanc's REST API, such as https://HOST:8042; for other PACS use --dicomweb",
}
