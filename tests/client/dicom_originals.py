"""DICOM images with everything in them that has to go."""

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from client.quiet_pydicom import quiet_pydicom

SECRETS = (
    *(
        "DOE",
        "Jane",
        "MRN-4711",
        "ACC-0815",
        "19700203",
        "20260115",
        "101112",
        "St. Anywhere",
        "ROE",
        "Richard",
        "Main Street",
    ),
    *("CONSOLE7", "GATEWAY9", "SER-99", "private text", "nested private", "nested remark", "overlay remark", "1.2.3.4"),
)


def original(patient="MRN-4711", study="1.2.3.4.1", series="1.2.3.4.1.1", number=1, size_px=8, **changes) -> Dataset:
    """A CT image of `size_px`, with private tags, nested sequences, an overlay and a preamble; changes: by keyword."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = "GATEWAY9"
    found = Dataset()
    found.file_meta = meta
    found.preamble = b"DOE Jane".ljust(128, b"!")
    found.SpecificCharacterSet = "ISO_IR 100"
    found.SOPClassUID = CTImageStorage
    found.SOPInstanceUID = f"{series}.{number}"
    found.StudyInstanceUID, found.SeriesInstanceUID = study, series
    found.PatientName, found.PatientID, found.PatientBirthDate = "DOE^Jane", patient, "19700203"
    found.PatientSex, found.PatientAge = "F", "055Y"
    found.AccessionNumber, found.StudyDate, found.StudyTime = "ACC-0815", "20260115", "101112"
    found.InstitutionName, found.ReferringPhysicianName = "St. Anywhere", "ROE^Richard"
    found.PatientAddress, found.StationName, found.DeviceSerialNumber = "Main Street", "CONSOLE7", "SER-99"
    found.Modality, found.BodyPartExamined, found.Manufacturer, found.ConvolutionKernel = "CT", "CHEST", "Maker", "B30f"
    found.ImageType, found.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], number
    found.SliceThickness, found.ImagePositionPatient = 1.5, [0.0, 0.0, 1.5 * number]
    inner = Dataset()
    inner.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "nested private")
    inner.TextString = "nested remark"
    inner.ReferencedSOPInstanceUID = f"{series}.{number + 1}"
    found.SourceImageSequence = Sequence([inner])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D3000", "SRT", "nested remark"
    found.AnatomicRegionSequence = Sequence([code])
    block = found.private_block(0x0009, "ACME", create=True)
    block.add_new(1, "LO", "private text")
    block.add_new(2, "SQ", Sequence([inner]))
    found.add_new(0x60003000, "OW", b"\1\0" * 4)
    found.add_new(0x60004000, "LT", "overlay remark")
    found.Rows = found.Columns = size_px
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.PixelData = np.random.default_rng(number).integers(0, 4096, (size_px, size_px), dtype=np.uint16).tobytes()
    with quiet_pydicom():
        for keyword, value in changes.items():
            setattr(found, keyword, value)
    return found


def as_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(dataset: Dataset) -> Dataset:
    """As it comes from a file."""
    return pydicom.dcmread(io.BytesIO(as_bytes(dataset)))


def private_tags(dataset: Dataset) -> int:
    return sum(element.tag.is_private for element in dataset.iterall())
