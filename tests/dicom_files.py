"""DICOM files made for tests: small, and with exactly the elements a test is about."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = "1.2.826.0.1.3680043.8.498.1."
JPEG_LOSSLESS, JPEG_LS, JPEG_2000, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("4.70", "4.80", "4.90", "5"))


def uid(*what) -> str:
    """A UID that is the same each time."""
    return generate_uid(prefix=ROOT, entropy_srcs=[str(one) for one in what])


def dicom_of(pixels, **elements) -> FileDataset:
    """A data set of grey (H, W), grey frames (F, H, W) with frames=True, or colour (H, W, 3) pixels."""
    frames = elements.pop("frames", False)
    pixels = np.ascontiguousarray(pixels)
    colour = pixels.ndim == 3 and not frames
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = elements.get("SOPInstanceUID", uid(pixels.tobytes()))
    meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    found = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Modality = "CT"
    found.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    found.SamplesPerPixel = 3 if colour else 1
    if colour:
        found.PlanarConfiguration = 0
    if frames:
        found.NumberOfFrames = len(pixels)
    found.Rows, found.Columns = pixels.shape[1:] if frames else pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(found, name, value)
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OB" if bits == 8 else "OW"
    return found


def write_dicom(path: Path, pixels, **elements) -> Path:
    """The same as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom_of(pixels, **elements).save_as(path, enforce_file_format=True)
    return path


def item(**elements) -> Dataset:
    """An item of a sequence."""
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def write_series(folder: Path, slices, modality: str = "CT", patient: str = "P1", **elements) -> Path:
    """A folder with one file for each slice (n, H, W), the names not in the order of the positions."""
    for number, pixels in enumerate(slices):
        write_dicom(
            folder / f"{(7 * number + 3) % 101:03d}.dcm",
            pixels,
            Modality=modality,
            PatientID=patient,
            StudyInstanceUID=uid(folder, "study"),
            SeriesInstanceUID=uid(folder, "series"),
            SOPInstanceUID=uid(folder, number),
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 2.5 * number],
            **elements,
        )
    return folder


def recoded(source: Path, target: Path, syntax: str) -> Path:
    """The same file in another transfer syntax, by GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target
