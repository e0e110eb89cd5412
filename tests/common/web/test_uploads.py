"""The content decides what an upload is."""

import pytest

from common.web.uploads import KINDS, suffix_of


@pytest.mark.parametrize(
    ("beginning", "suffix"),
    [
        (b"\x89PNG\r\n\x1a\n....", ".png"),
        (b"\xff\xd8\xff\xe0....", ".jpg"),
        (b"II*\x00....", ".tif"),
        (b"MM\x00*....", ".tif"),
        (b"BM......", ".bmp"),
        (b"\x00" * 128 + b"DICM", ".dcm"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 120 + b"DICM", ".dcm"),
        (b"", None),
        (b"\x89PN", None),
        (b"PK\x03\x04" + b"\x00" * 200, None),
        (b"\x1f\x8b\x08", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", None),
        (b"<?xml version='1.0'?><svg/>", None),
        (b"%PDF-1.7", None),
        (b"GIF89a", None),
    ],
)
def test_the_first_bytes_tell(beginning, suffix):
    assert suffix_of(beginning) == suffix
    assert suffix is None or suffix in KINDS
