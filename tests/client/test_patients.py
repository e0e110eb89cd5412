"""Whose an image is, where only its DICOM header says so; manifests and class folders of medical files."""

import nibabel
import numpy as np
import pytest

from client.hospital_file import Data, HospitalFile
from client.patients import SALT_FILE, modality_of, patient_of
from client.pseudonyms import load_salt, pseudonym
from client.records import read_rows
from common.errors import DataError
from simulation.hospitals import find_hospitals
from tests.dicom_files import uid, write_dicom, write_series

PIXELS = (np.arange(64, dtype=np.uint16) * 5).reshape(8, 8)
STACK = np.arange(3, dtype=np.uint16)[:, None, None] + PIXELS


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def hashed(keys):
    """A patient's id as this hospital hashes it."""
    return lambda patient_id: pseudonym(load_salt(keys / SALT_FILE), patient_id)


def test_one_patient_has_one_id_in_files_and_series_and_no_other(tmp_path, keys, hashed):
    one = write_dicom(tmp_path / "a.dcm", PIXELS, PatientID="P1", StudyInstanceUID=uid(1))
    two = write_dicom(tmp_path / "IM0002", PIXELS + 1, PatientID="P1 ", StudyInstanceUID=uid(2))
    other = write_dicom(tmp_path / "c.dcm", PIXELS, PatientID="P2")
    series = write_series(tmp_path / "ct", STACK, patient="P1")
    found = [patient_of(path, keys) for path in (one, two, series, other)]
    assert found[0] == found[1] == found[2] == hashed("P1") != found[3]
    assert patient_of(write_dicom(tmp_path / "d.dcm", PIXELS), keys) is None
    assert (modality_of(one), modality_of(series)) == ("CT", "CT")


def test_no_key_is_made_where_nobody_needs_one(tmp_path, keys):
    (tmp_path / "manifest.csv").write_text("path,label,patient_id\na.dcm,normal,p1\nb.png,normal,p2\n")
    write_dicom(tmp_path / "a.dcm", PIXELS, PatientID="P1")
    assert [row.patient_id for row in read_rows(tmp_path, keys)] == ["p1", "p2"]
    assert not keys.exists()


@pytest.mark.parametrize("head", ["path,label,patient_id", "path,label"])
def test_a_manifest_without_patients_takes_them_from_the_files(tmp_path, keys, head, hashed):
    write_dicom(tmp_path / "a.dcm", PIXELS, PatientID="P1")
    write_dicom(tmp_path / "b", PIXELS, PatientID="P1")
    write_series(tmp_path / "ct", STACK, patient="P2")
    end = "," if head.count(",") == 2 else ""
    lines = [head, *(f"{name},normal{end}" for name in ("a.dcm", "b", "ct"))]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    one, two, three = (row.patient_id for row in read_rows(tmp_path, keys))
    assert (one, two, three) == (hashed("P1"), hashed("P1"), hashed("P2"))


def test_what_nobody_says_is_named_line_by_line_or_as_a_column(tmp_path, keys):
    write_dicom(tmp_path / "a.dcm", PIXELS, PatientID="P1")
    write_dicom(tmp_path / "b.dcm", PIXELS)
    (tmp_path / "c.dcm").write_bytes(b"no dicom")
    (tmp_path / "manifest.csv").write_text("path,label,patient_id\na.dcm,x,\nb.dcm,x,\nc.dcm,x,\nd.png,x,\n")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path, keys)
    found = [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]
    assert found == [f"line {line}: 'patient_id' is empty" for line in (3, 4, 5)]
    (tmp_path / "manifest.csv").write_text("path,label\na.dcm,x\nb.dcm,x\n")
    with pytest.raises(DataError, match="column 'patient_id' is missing; the columns are: path, label"):
        read_rows(tmp_path, keys)


def test_class_folders_hold_files_series_and_files_without_suffix(tmp_path, keys, hashed):
    folder = tmp_path / "st-marys"
    write_dicom(folder / "normal" / "IM0001", PIXELS, PatientID="P1")
    write_dicom(folder / "normal" / "deep" / "x.dcm", PIXELS)
    write_series(folder / "normal" / "study", STACK, patient="P2")
    # Two films of one examination are two images, though they are of one series.
    write_series(folder / "opacity" / "films", STACK[:2], modality="DX", patient="P3")
    nibabel.save(nibabel.Nifti1Image(STACK, np.eye(4)), folder / "opacity" / "v.1.nii.gz")
    (folder / "opacity" / "notes").write_text("text")
    found = [(str(row.path.relative_to(folder)), row.label, row.patient_id) for row in read_rows(folder, keys)]
    assert found == [
        ("normal/IM0001", "normal", hashed("P1")),
        ("normal/deep/x.dcm", "normal", "x"),
        ("normal/study", "normal", hashed("P2")),
        ("opacity/films/003.dcm", "opacity", hashed("P3")),
        ("opacity/films/010.dcm", "opacity", hashed("P3")),
        ("opacity/v.1.nii.gz", "opacity", "v.1"),
    ]


def test_a_hospital_with_a_folder_for_each_series_is_found(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / name / "normal" / "s1", STACK)
        write_series(tmp_path / name / "opacity" / "s2", STACK)
    assert list(find_hospitals([tmp_path / "a"])) == ["a"]
    assert list(find_hospitals([tmp_path])) == ["a", "b"]


def test_the_key_lies_with_the_hospitals_state(tmp_path):
    data = Data(folder=tmp_path)
    assert HospitalFile(name="a", data=data, state=tmp_path / "s", cache=tmp_path / "c").key_folder == tmp_path / "s"
    assert HospitalFile(name="a", data=data, cache=tmp_path / "c").key_folder == tmp_path / "c"


def test_links_to_folders_are_not_followed(tmp_path, keys):
    write_dicom(tmp_path / "a" / "normal" / "1.dcm", PIXELS, PatientID="P1")
    (tmp_path / "a" / "normal" / "again").symlink_to(tmp_path / "a" / "normal", target_is_directory=True)
    assert len(read_rows(tmp_path / "a", keys)) == 1
