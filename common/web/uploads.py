"""What kind of file an upload is, by its content: its name and its declared type are not asked."""

from collections.abc import Mapping

KINDS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".dcm": "DICOM"}
"""By the suffix under which it is read, what the content can be."""

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"BM", ".bmp"),
)
_DICOM_AT, _DICOM = 128, b"DICM"


def suffix_of(data: bytes) -> str | None:
    """The suffix for a file that begins like this (256 bytes are enough); None for all else: zip, gzip, SVG, PDF, text.

    Source: PNG specification 5.2; ITU-T T.81 B.1; TIFF 6.0 section 2; DICOM PS3.10 section 7.1.
    """
    if data[_DICOM_AT : _DICOM_AT + len(_DICOM)] == _DICOM:
        return ".dcm"
    return next((suffix for beginning, suffix in _BEGINNINGS if data.startswith(beginning)), None)
