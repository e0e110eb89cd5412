"""A diagnosis as DICOM objects of the patient's study: a Secondary Capture of the heat map, and a Structured Report.

The report is a Comprehensive SR of template TID 1500 (Measurement Report): for the image it measures the probability
of each class, the confidence and the distance from the training images, says what the model says, names the
algorithm, and why a radiologist is asked. Of a series or a file of several frames it refers to those that the model
looked at, and the capture shows the middle one of them. Both say that they are not for clinical use.

Source: DICOM PS3.3 A.8.4 (Multi-frame and single Secondary Capture), A.35.3 (Comprehensive SR); PS3.16 TID 1500, 1501, 4019.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from client.diagnosis_record import REFER, Diagnosis
from client.dicom_header import has_magic, read_header
from client.dicom_series import is_series, open_series
from client.slices import Reading, chosen
from common.errors import DataError
from common.head import Float64
from common.operating_point import OperatingPoint

NOT_FOR_CLINICAL_USE = "Not for clinical use: output of a research model, not of a medical device."
_SCHEME, _MAKER = "99CONSILIUM", "Consilium (research software)"
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_TYPE_1 = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Algorithm:
    """Which model it was. digest: sha256 of its file. lacking: what the model file has not, in sentences."""

    name: str
    version: str
    digest: str
    point: OperatingPoint | None
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """What the model looked at of a DICOM file or series of `count` slices: headers, one for each file, and which one is shown.

    frames: numbers from 1 of a file that has several, of which `frame` is shown; None of other files.
    """

    count: int
    headers: tuple[Dataset, ...]
    shown: Dataset
    frames: tuple[int, ...] | None = None
    frame: int | None = None


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, or a folder a series, by its content."""
    return is_series(path) if path.is_dir() else has_magic(path)


def reference_to(path: Path, reading: Reading) -> Reference:
    """What results about an image refer to. Type 2 elements that are not there are empty in it.

    Raises:
        DataError: it cannot be read, or lacks what a reference to it needs.
    """
    headers = open_series(path).headers if path.is_dir() else (read_header(path),)
    count = len(headers) if len(headers) > 1 else int(headers[0].get("NumberOfFrames") or 1)
    numbers = chosen(count, reading.slices)
    middle = numbers[len(numbers) // 2]
    if len(headers) > 1:
        series = {number: _referable(path, headers[number]) for number in numbers}
        return Reference(count, tuple(series.values()), series[middle])
    header = _referable(path, headers[0])
    if count == 1:
        return Reference(1, (header,), header)
    return Reference(count, (header,), header, tuple(number + 1 for number in numbers), middle + 1)


def secondary_capture(found: Diagnosis, reference: Reference, picture: Image.Image, algorithm: Algorithm) -> Dataset:
    """The picture (mode RGB, of the size of the slice that is shown) as a Secondary Capture in the study of the image."""
    source = reference.shown
    shown = found.heatmap.shown if found.heatmap else ""
    capture = SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=np.asarray(picture.convert("RGB"), np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=_orientation(source),
        series_instance_uid=generate_uid(),
        series_number=9001,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MAKER,
        series_description=f"What speaks for {shown}; not for clinical use"[:64],
    )
    capture.DerivationDescription = (
        f"{NOT_FOR_CLINICAL_USE} {found.heatmap.kind if found.heatmap else ''} of {algorithm.name}"
    )
    capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    capture.BurnedInAnnotation = "NO"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if reference.frame is not None:
        item.ReferencedFrameNumber = reference.frame
    capture.SourceImageSequence = [item]
    return capture


def structured_report(found: Diagnosis, reference: Reference, algorithm: Algorithm) -> Dataset:
    """The diagnosis as a Comprehensive SR in the study of the image; it refers to all that was looked at."""
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[algorithm.digest]),
        name="Consilium",
        manufacturer_name=_MAKER,
        model_name=algorithm.name,
        serial_number=algorithm.digest[:64],
    )
    frames = list(reference.frames) if reference.frames is not None else None
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=generate_uid(), identifier=_seen(reference)),
        finding_type=_code("finding", "Finding of a model"),
        algorithm_id=AlgorithmIdentification(
            name=algorithm.name, version=algorithm.version, parameters=list(_parameters(algorithm))
        ),
        measurements=list(_measurements(found)),
        qualitative_evaluations=list(_evaluations(found)),
        source_images=[
            SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID, frames) for one in reference.headers
        ],
    )
    comments = [
        NOT_FOR_CLINICAL_USE,
        *(f"Referred to a radiologist: {reason}" for reason in found.reasons),
        *(f"Image quality: {finding.words}" for finding in found.findings),
        *(f"The model has {sentence}" for sentence in algorithm.lacking),
    ]
    for text in comments:
        # TID 1501 is extensible; highdicom has no argument for comments.
        group[0].ContentSequence.append(
            TextContentItem(codes.DCM.Comment, text, relationship_type=RelationshipTypeValues.CONTAINS)
        )
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=_code("image-review", "Review of one image by a model"),
        imaging_measurements=[group],
    )
    return ComprehensiveSR(
        evidence=list(reference.headers),
        content=report[0],
        series_instance_uid=generate_uid(),
        series_number=9002,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MAKER,
        is_complete=True,
        is_verified=False,
        series_description="Research model; not for clinical use",
    )


def _measurements(found: Diagnosis) -> Iterator[Measurement]:
    for number, (name, value) in enumerate(found.probabilities.items()):
        yield Measurement(
            _code(f"probability-{number}"[:16], f"Probability of {name}"[:64]), round(value, 6), codes.UCUM.NoUnits
        )
    if found.confidence is not None:
        yield Measurement(_code("confidence", "Confidence"), round(found.confidence, 6), codes.UCUM.NoUnits)
    if found.distance is not None:
        yield Measurement(
            _code("distance", "Distance from the training images"), round(found.distance, 4), codes.UCUM.NoUnits
        )


def _evaluations(found: Diagnosis) -> Iterator[QualitativeEvaluation]:
    said = "Refer to a radiologist" if found.label == REFER else found.label
    yield QualitativeEvaluation(_code("statement", "Statement of the model"), _code("said", said))
    if found.leaning is not None:
        yield QualitativeEvaluation(_code("leaning", "Most likely class"), _code("class", found.leaning))
    yield QualitativeEvaluation(_code("use", "Intended use"), _code("not-clinical", "Not for clinical use"))


def _parameters(algorithm: Algorithm) -> Iterator[str]:
    yield NOT_FOR_CLINICAL_USE
    yield f"Model file sha256 {algorithm.digest}"
    if algorithm.point is not None:
        yield (
            f"Operating point: {algorithm.point.name} from probability {algorithm.point.threshold:.4f}, promised sensitivity "
            f"{algorithm.point.sensitivity:.3f}, specificity {algorithm.point.specificity:.3f}"
        )


def _code(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=_SCHEME, meaning=meaning[:64])


def _seen(reference: Reference) -> str:
    """What was measured, in words."""
    if reference.count == 1:
        return "The whole image"
    number = len(reference.frames) if reference.frames is not None else len(reference.headers)
    return f"{number} of {reference.count} slices" + (" together" if number > 1 else "")


def _referable(path: Path, header: Dataset) -> Dataset:
    """A header with empty values for what DICOM wants to be there even if it is not known (type 2)."""
    lacking = [name for name in _TYPE_1 if not header.get(name)]
    if lacking:
        raise DataError(
            f"{path}: expected a DICOM file with {', '.join(lacking)}, found none; no result can refer to it"
        )
    source = deepcopy(header)
    source.pop("PixelData", None)
    for name in _TYPE_2:
        if name not in source:
            setattr(source, name, None)
    if not source.StudyDate:
        source.StudyDate = datetime.now(UTC).strftime("%Y%m%d")
    if not source.StudyTime:
        source.StudyTime = "000000"
    return source


def _orientation(source: Dataset) -> tuple[str, str]:
    """Where the image's rows and columns point: as it says, or by its position in the patient, else as radiographs lie.

    Source: PS3.3 C.7.6.1.1.1 (Patient Orientation), C.7.6.2.1.1 (the axes: x to the left, y to the back, z to the head).
    """
    given = source.get("PatientOrientation")
    if given and len(given) == 2 and all(given):
        return str(given[0]), str(given[1])
    placed = source
    for name in ("SharedFunctionalGroupsSequence", "PlaneOrientationSequence"):
        placed = (placed.get(name) or [placed])[0]
    axes = placed.get("ImageOrientationPatient")
    if not axes or len(axes) != 6:
        return "L", "F"
    row, column = np.array(axes, np.float64).reshape(2, 3)
    return _towards(row), _towards(column)


def _towards(direction: Float64) -> str:
    """The side of the patient to which a direction points most."""
    axis = int(np.abs(direction).argmax())
    return ("LPH" if direction[axis] > 0 else "RAF")[axis]
