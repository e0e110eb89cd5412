"""Results as DICOM: written, read back, and held to what they say."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from client.diagnosis_record import REFER, Diagnosis, Heatmap
from client.dicom_results import (
    NOT_FOR_CLINICAL_USE,
    Algorithm,
    is_dicom,
    reference_to,
    secondary_capture,
    structured_report,
)
from client.dicom_series import open_series
from client.frame import Frame
from client.image_quality import Finding
from client.overlay import overlay
from client.slices import AS_IT_IS, Reading
from common.errors import DataError
from tests.dicom_files import write_series

ALGORITHM = Algorithm("Consilium chest", "0.1", "a" * 64, None, ("no operating point: none asked for",))


def written(path: Path, **changes) -> Path:
    """A small digital X-ray."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.PatientID, image.PatientName = "DX", "A-17", "Roe^Jane"
    image.PatientOrientation = ["L", "F"]
    image.Rows, image.Columns, image.SamplesPerPixel = 40, 60, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = np.arange(2400, dtype=np.uint16).tobytes()
    for name, value in changes.items():
        if value is None:
            image.pop(name, None)
        else:
            setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def diagnosis(path: Path) -> Diagnosis:
    grid = np.zeros((8, 8), np.float32)
    grid[4, 6] = 1.0
    return Diagnosis(
        image=path,
        probabilities={"normal": 0.3, "pneumonia": 0.7},
        label=REFER,
        reasons=("unlike the training images", "not confident"),
        leaning="pneumonia",
        confidence=0.7,
        distance=2.5,
        limit=2.0,
        findings=(Finding("blurred: no fine detail", True),),
        frame=Frame.of(60, 40, 64, "pad"),
        heatmap=Heatmap(grid, "pneumonia", "class activation map"),
    )


def test_the_capture_is_the_overlay_in_the_study_of_the_image(tmp_path):
    path = written(tmp_path / "film.dcm")
    found = diagnosis(path)
    picture = overlay(Image.fromarray(np.full((40, 60), 100, np.uint8)), found.heatmap, found.frame)
    secondary_capture(found, reference_to(path, AS_IT_IS), picture, ALGORITHM).save_as(tmp_path / "capture.dcm")
    source, back = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "capture.dcm")
    assert back.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert np.array_equal(back.pixel_array, np.asarray(picture))
    for name in ("StudyInstanceUID", "PatientID", "PatientName"):
        assert back[name].value == source[name].value
    assert back.SeriesInstanceUID != source.SeriesInstanceUID
    assert back.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "not for clinical use" in back.SeriesDescription
    assert back.DerivationDescription.startswith(NOT_FOR_CLINICAL_USE)


def test_the_report_says_probabilities_algorithm_reasons_and_its_limits(tmp_path):
    path = written(tmp_path / "film.dcm")
    structured_report(diagnosis(path), reference_to(path, AS_IT_IS), ALGORITHM).save_as(tmp_path / "report.dcm")
    source, back = pydicom.dcmread(path), highdicom.sr.srread(tmp_path / "report.dcm")
    assert isinstance(back, highdicom.sr.ComprehensiveSR)
    assert (back.StudyInstanceUID, back.VerificationFlag) == (source.StudyInstanceUID, "UNVERIFIED")
    assert back.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    [group] = back.content.get_image_measurement_groups()
    assert {one.name.meaning: one.value for one in group.get_measurements()} == {
        "Probability of normal": 0.3,
        "Probability of pneumonia": 0.7,
        "Confidence": 0.7,
        "Distance from the training images": 2.5,
    }
    said = {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}
    assert said == {
        "Statement of the model": "Refer to a radiologist",
        "Most likely class": "pneumonia",
        "Intended use": "Not for clinical use",
    }
    text = "\n".join(str(element.value) for element in back.iterall() if element.VR != "SQ")
    for wanted in (NOT_FOR_CLINICAL_USE, "unlike the training images", "blurred", "Consilium chest", "a" * 64):
        assert wanted in text
    evidence = back.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_results_of_a_series_refer_to_the_slices_that_were_looked_at(tmp_path):
    folder = write_series(tmp_path / "series", np.arange(9 * 40 * 60, dtype=np.uint16).reshape(9, 40, 60))
    reference = reference_to(folder, Reading(slices=3))
    found, picture = diagnosis(folder), Image.new("RGB", (60, 40))
    secondary_capture(found, reference, picture, ALGORITHM).save_as(tmp_path / "capture.dcm")
    structured_report(found, reference, ALGORITHM).save_as(tmp_path / "report.dcm")
    headers = open_series(folder).headers
    wanted = [str(headers[number].SOPInstanceUID) for number in (1, 4, 7)]
    capture = pydicom.dcmread(tmp_path / "capture.dcm")
    assert [one.ReferencedSOPInstanceUID for one in capture.SourceImageSequence] == [wanted[1]]
    back = highdicom.sr.srread(tmp_path / "report.dcm")
    evidence = back.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert {one.ReferencedSOPInstanceUID for one in evidence} == set(wanted)
    [group] = back.content.get_image_measurement_groups()
    assert group.tracking_identifier == "3 of 9 slices together"
    assert is_dicom(folder)
    assert not is_dicom(tmp_path)


def test_a_scout_beside_one_file_of_frames_is_left_out(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    written(
        folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Modality="CT", SeriesInstanceUID="1.2"
    )
    frames = written(
        folder / "b.dcm", NumberOfFrames=4, PixelData=bytes(4 * 4800), Modality="CT", SeriesInstanceUID="1.2"
    )
    reference = reference_to(folder, AS_IT_IS)
    assert (reference.count, reference.frames, reference.frame) == (4, (3,), 3)
    assert reference.shown.SOPInstanceUID == pydicom.dcmread(frames).SOPInstanceUID
    assert "PixelData" not in reference.shown
    structured_report(diagnosis(folder), reference, ALGORITHM).save_as(tmp_path / "report.dcm")
    [group] = highdicom.sr.srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    assert group.tracking_identifier == "1 of 4 slices"


@pytest.mark.parametrize(
    ("axes", "towards"),
    [([1, 0, 0, 0, 1, 0], "LP"), ([0, 1, 0, 0, 0, -1], "PF"), ([-1, 0, 0, 0, 0.1, 0.9], "RH"), (None, "LF")],
)
def test_the_capture_lies_in_the_patient_as_the_slice_does(tmp_path, axes, towards):
    """By hand: an axial, a sagittal and a mirrored coronal slice; a film that says nothing lies as films do."""
    path = written(tmp_path / "slice.dcm", PatientOrientation=None, ImageOrientationPatient=axes)
    found = diagnosis(path)
    secondary_capture(found, reference_to(path, AS_IT_IS), Image.new("RGB", (60, 40)), ALGORITHM).save_as(
        tmp_path / "c.dcm"
    )
    assert "".join(pydicom.dcmread(tmp_path / "c.dcm").PatientOrientation) == towards


def test_results_of_a_file_of_frames_say_which_frames(tmp_path):
    path = written(tmp_path / "frames.dcm", NumberOfFrames=4, PixelData=bytes(4 * 4800))
    reference = reference_to(path, Reading(slices=2))
    assert (reference.frames, reference.frame) == ((2, 4), 4)
    secondary_capture(diagnosis(path), reference, Image.new("RGB", (60, 40)), ALGORITHM).save_as(
        tmp_path / "capture.dcm"
    )
    structured_report(diagnosis(path), reference, ALGORITHM).save_as(tmp_path / "report.dcm")
    [source] = pydicom.dcmread(tmp_path / "capture.dcm").SourceImageSequence
    assert source.ReferencedFrameNumber == 4
    frames = [
        list(element.value)
        for element in highdicom.sr.srread(tmp_path / "report.dcm").iterall()
        if element.keyword == "ReferencedFrameNumber"
    ]
    assert [2, 4] in frames


def test_what_dicom_wants_to_be_there_even_if_unknown_is_left_empty(tmp_path):
    path = written(tmp_path / "film.dcm", PatientName=None, PatientOrientation=None)
    found = diagnosis(path)
    reference = reference_to(path, AS_IT_IS)
    structured_report(found, reference, ALGORITHM).save_as(tmp_path / "report.dcm")
    secondary_capture(found, reference, Image.new("RGB", (60, 40)), ALGORITHM).save_as(tmp_path / "capture.dcm")
    assert not pydicom.dcmread(tmp_path / "report.dcm").PatientName


def test_a_file_that_nothing_can_refer_to_is_an_error(tmp_path):
    path = written(tmp_path / "film.dcm", StudyInstanceUID=None)
    with pytest.raises(DataError, match="expected a DICOM file with StudyInstanceUID, found none"):
        reference_to(path, AS_IT_IS)
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    assert is_dicom(tmp_path / "bad.dcm")
    with pytest.raises(DataError):
        reference_to(tmp_path / "bad.dcm", AS_IT_IS)


def test_the_content_says_what_is_dicom(tmp_path):
    assert is_dicom(written(tmp_path / "film"))
    (tmp_path / "film.dcm").write_bytes(b"no")
    assert not is_dicom(tmp_path / "film.dcm")
    assert not is_dicom(tmp_path / "gone.dcm")


def test_an_overlay_has_the_size_of_the_image_and_is_hot_where_the_map_is():
    image = Image.fromarray(np.full((40, 60), 100, np.uint8))
    frame = Frame.of(60, 40, 64, "pad")
    grid = np.full((8, 8), -1.0, np.float32)
    grid[4, 6] = 1.0
    picture = np.asarray(overlay(image, Heatmap(grid, "x", "k"), frame)).astype(int)
    assert picture.shape == (40, 60, 3)
    row, column = np.unravel_index((picture[..., 0] - picture[..., 2]).argmax(), (40, 60))
    expected = frame.to_image(6.5 * 8, 4.5 * 8)
    assert abs(column - expected[0]) < 5
    assert abs(row - expected[1]) < 5
    assert (picture[:, :20] == 100).all()
