"""DICOM files in all that looks at data quality: the check and what it remembers, the page, the backbone, keyed hashes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client import looks as looks_module
from client.check import check_hospitals
from client.check_page import to_html
from client.duplicate_keys import keyed_hashes
from client.images import load_image
from client.quality import NOTHING_SEEN, look_closer
from client.records import read_rows
from client.slices import AS_IT_IS, Reading
from simulation.pooling import Machine
from tests.client.test_check import quiet
from tests.dicom_files import JPEG_2000, recoded, write_dicom, write_series

RNG = np.random.default_rng(4)
FILMS = [np.asarray(Image.fromarray(RNG.integers(0, 255, (9, 9), np.uint8)).resize((64, 48), 2)) for _ in range(6)]
WHOLE = {"WindowCenter": 128, "WindowWidth": 256}


@pytest.fixture
def films(tmp_path):
    """Five films, the third a second time on its side, a blank one, and a series."""
    folder = tmp_path / "a"
    shown = [*FILMS[:5], np.rot90(FILMS[2]), np.full((48, 64), 9, np.uint8)]
    for number, pixels in enumerate(shown):
        write_dicom(folder / "normal" / f"{number}.dcm", pixels, Modality="DX", PatientID=f"P{number}", **WHOLE)
    write_series(folder / "opacity" / "s", [FILMS[5] // 2, FILMS[5], FILMS[5] // 3], patient="S", **WHOLE)
    return folder


def test_what_is_turned_or_blank_is_found_and_a_second_time_without_looking(films, tmp_path, job, monkeypatch):
    first = check_hospitals({"a": films}, job(), quiet, tmp_path / "cache")
    assert first.turned_duplicates == (("a/normal/2.dcm", "a/normal/5.dcm", "turned by 90 degrees"),)
    assert first.near_duplicates == ()
    assert first.hospitals["a"].faults == {"blank": ("normal/6.dcm",)}
    monkeypatch.setattr(looks_module, "look", lambda path: pytest.fail(f"{path} was looked at again"))
    again = check_hospitals({"a": films}, job(), quiet, tmp_path / "cache")
    assert again.to_dict() == first.to_dict()
    assert [image.grey for image in again.images] == [image.grey for image in first.images]
    page = to_html("a", films, again, NOTHING_SEEN, job(image={"size": 64, "slices": 3}))
    # Six of the one class and the series on the sheet, both of the turned pair, the blank one.
    assert page.count("data:image/jpeg") == 6 + 1 + 2 + 1


def test_a_series_turned_on_its_side_is_named_through_the_backbone(phantoms, job, cache_dir, tmp_path, monkeypatch):
    # Names and patients are the same each time: the heads are drawn by digest and by patient.
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,patient_id"]
    for number, row in enumerate(read_rows(phantoms["hospital-b"])[:24]):
        pixels = np.asarray(load_image(row.path).convert("L"))
        pixels = np.rot90(pixels) if number in (5, 17) else pixels
        write_series(Path("b") / f"s{number}", [pixels, pixels], **WHOLE)
        rows.append(f"s{number},{row.label},{row.patient_id}")
    Path("b/manifest.csv").write_text("\n".join(rows))
    file = Machine(cache_dir=cache_dir, device="cpu").hospital_file("b", Path("b"))
    one = job(features={"stages": "all"}, image={"size": 64, "slices": 2})
    named = {suspect.path.name: suspect.words for suspect in look_closer({"b": file}, one)["b"].turned}
    assert {"s5", "s17"} <= set(named)
    assert len(named) <= 4


def test_keyed_hashes_are_of_what_the_job_looks_at(tmp_path):
    secret = b"0123456789abcdef"
    plain = write_dicom(tmp_path / "1.dcm", FILMS[0], **WHOLE)
    packed = recoded(plain, tmp_path / "2.dcm", JPEG_2000)
    one, other = (keyed_hashes([path], secret, "j") for path in (plain, packed))
    np.testing.assert_array_equal(one.exact, other.exact)
    slices = [FILMS[1], FILMS[2], FILMS[3]]
    series = [
        write_series(tmp_path / name, some, **WHOLE) for name, some in (("s", slices), ("t", [*slices[:2], FILMS[4]]))
    ]
    for reading, same in ((AS_IT_IS, True), (Reading(slices=3), False), (Reading(slices=0), False)):
        one, other = (keyed_hashes([path], secret, "j", reading) for path in series)
        assert np.array_equal(one.exact, other.exact) is same
        assert np.array_equal(one.near, other.near) is same
