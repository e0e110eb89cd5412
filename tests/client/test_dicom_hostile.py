"""DICOM files that somebody damaged or made up: a refusal with a reason, which repeats nothing of the file."""

import io
import logging
import struct
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.data.data_manager import DATA_ROOT
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.dicom_codestream import size_px
from client.images import load_image
from client.patients import modality_of, patient_of
from common.errors import DataError
from tests.dicom_files import JPEG_2000, JPEG_LOSSLESS, JPEG_LS, RLE, dicom_of, item, recoded, write_dicom

SECRET = "ZZSECRETZZ"
PIXELS = (np.arange(32 * 32) % 251).astype(np.uint16).reshape(32, 32)
NAMED = {
    "PatientName": f"{SECRET}^A",
    "PatientID": SECRET,
    "StudyDescription": SECRET,
    "InstitutionName": SECRET,
    "AccessionNumber": SECRET,
}


@pytest.fixture
def refusals(tmp_path, caplog):
    """Loads a file; says how it was refused, or nothing; fails if a value of the file comes out anywhere."""

    def load(path):
        with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                assert load_image(path).mode in ("L", "RGB")
                said, cause = "", ""
            except DataError as error:
                said, cause = str(error), repr(error.__cause__)
        for text in [said, cause, caplog.text, *(str(one.message) for one in warned)]:
            assert SECRET not in text
        return said.replace(str(tmp_path), "")

    return load


@pytest.mark.parametrize("syntax", [None, JPEG_LOSSLESS, JPEG_2000, RLE, JPEG_LS])
def test_cut_off_files(tmp_path, refusals, syntax):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **NAMED)
    path = recoded(path, tmp_path / "b.dcm", syntax) if syntax else path
    whole = path.read_bytes()
    for share in (0.0, 0.05, 0.3, 0.5, 0.8):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "expected" in refusals(path)


def test_random_damage_gives_an_image_or_a_refusal_and_nothing_else(tmp_path, refusals):
    rng = np.random.default_rng(2)
    refused = 0
    for syntax in (None, JPEG_LOSSLESS, JPEG_2000, RLE):
        path = write_dicom(tmp_path / "a.dcm", PIXELS, WindowCenter=100, WindowWidth=200, **NAMED)
        path = recoded(path, tmp_path / "b.dcm", syntax) if syntax else path
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(132, len(whole), 12)] = rng.integers(0, 256, 12)
            path.write_bytes(damaged.tobytes())
            refused += bool(refusals(path))
    assert refused > 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "pixels"),
        ({"Rows": 0}, "pixels"),
        ({"Rows": 64}, "damaged"),
        ({"NumberOfFrames": 2**31 - 1}, "frames"),
        ({"NumberOfFrames": 5000}, "damaged"),
        ({"NumberOfFrames": -3}, "frames"),
        ({"BitsAllocated": 64, "BitsStored": 64}, "damaged"),
        ({"BitsAllocated": 7}, "damaged"),
        ({"SamplesPerPixel": 3}, "photometric"),
        ({"PhotometricInterpretation": "CMYK"}, "photometric"),
        ({"PhotometricInterpretation": SECRET}, "photometric"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "damaged"),
        ({"WindowCenter": "nan", "WindowWidth": "inf"}, ""),
        ({"RescaleSlope": "0"}, ""),
    ],
)
def test_headers_that_promise_what_is_not_there(tmp_path, refusals, change, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_dicom(tmp_path / "a.dcm", PIXELS, **NAMED, **change)
    assert words in refusals(path)
    assert bool(refusals(path)) == bool(words)


def test_missing_elements_are_named(tmp_path, refusals):
    found = dicom_of(PIXELS, **NAMED)
    del found.Rows, found.BitsStored
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "expected Rows, BitsStored in the header" in refusals(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000])
def test_a_compressed_frame_that_says_it_is_enormous_is_not_decoded(tmp_path, refusals, syntax, monkeypatch):
    path = recoded(write_dicom(tmp_path / "a.dcm", PIXELS, **NAMED), tmp_path / "b.dcm", syntax)
    whole = path.read_bytes()
    small, huge = (
        (struct.pack(">II", 32, 32), struct.pack(">II", 60000, 60000))
        if syntax == JPEG_2000
        else (struct.pack(">HH", 32, 32), struct.pack(">HH", 60000, 60000))
    )
    at = whole.index(b"\xff\x51" if syntax == JPEG_2000 else b"\xff\xf7" if syntax == JPEG_LS else b"\xff\xc3")
    assert small in whole[at : at + 16]
    path.write_bytes(whole[:at] + whole[at:].replace(small, huge, 1))
    monkeypatch.setattr("client.dicom_pixels.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    assert "compressed image of the width and height in the header" in refusals(path)


def test_sizes_of_compressed_frames():
    assert size_px(b"") is size_px(b"\xff\xd8") is size_px(b"\xff\xd8\xff\xe0\xff\xff\xff") is size_px(b"RLE") is None
    head = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08" + struct.pack(">HH", 7, 9)
    assert size_px(head + b"\0" * 9) == (9, 7)


def test_deep_nesting_is_refused(tmp_path, refusals):
    deepest = item(PatientName=SECRET)
    for _ in range(400):
        deepest = item(ReferencedSeriesSequence=[deepest])
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **NAMED)
    inner = b""
    for _ in range(5000):
        start, end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
        inner = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + start + inner + end + b"\xfe\xff\xdd\xe0\0\0\0\0"
    whole = path.read_bytes()
    at = whole.index(b"\x10\x00\x10\x00PN")
    path.write_bytes(whole[:at] + inner + whole[at:])
    assert "damaged" in refusals(path)


def test_an_element_that_says_it_is_four_gigabytes(tmp_path, refusals):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **NAMED)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"\xe0\x7f\x10\x00OW\0\0")
    whole[at + 8 : at + 12] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(whole))
    refusals(path)  # what is there of it is enough for the picture, or it is refused: no memory is taken for the rest


def test_a_deflated_bomb_is_refused(tmp_path, refusals, monkeypatch):
    monkeypatch.setattr("client.dicom_header._MOST_INFLATED", 2**20)
    found = dicom_of(PIXELS, **NAMED)
    found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    plain = io.BytesIO()
    found.save_as(plain, enforce_file_format=True)
    (tmp_path / "a.dcm").write_bytes(plain.getvalue())
    assert refusals(tmp_path / "a.dcm") == ""
    (length,) = struct.unpack_from("<I", plain.getvalue(), 140)
    meta_end = 144 + length
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * 2**24) + deflater.flush()
    (tmp_path / "a.dcm").write_bytes(plain.getvalue()[:meta_end] + bomb)
    assert "bytes once inflated" in refusals(tmp_path / "a.dcm")


def test_headers_are_read_without_a_word_of_them_as_well(tmp_path, refusals):
    path = tmp_path / "a.dcm"
    path.write_bytes(write_dicom(tmp_path / "b.dcm", PIXELS, **NAMED).read_bytes()[:400])
    for read in (modality_of, lambda one: patient_of(one, tmp_path)):
        try:
            found = read(path)
        except DataError as error:
            found = str(error)
        assert SECRET not in str(found)


def test_the_bundled_broken_files_warn_nobody(refusals):
    for name in ("badVR.dcm", "MR_truncated.dcm", "rtplan_truncated.dcm", "MR_small_padded.dcm"):
        refusals(pydicom.data.data_manager.Path(DATA_ROOT) / "test_files" / name)
