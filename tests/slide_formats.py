"""Slides written in scanners' formats, as small as their readers accept: DICOM and Hamamatsu's NDPI.

Both carry what must never come out again: a patient's name, a label and a macro image.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

PATIENT = "DOE^JANE"
_TILE = 256
_WSM = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL whole slide microscopy image storage


def _jpeg(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_dicom(folder: Path, field: Image.Image, mpp: float = 0.5, levels: int = 3) -> Path:
    """A series: one file a level and a label; returns the file of the full resolution. Supplement 145, TILED_FULL."""
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    for level in range(levels):
        small = field.resize((field.width >> level, field.height >> level), Image.Resampling.BOX)
        kind = (
            ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if level == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        )
        _write_instance(folder / f"{level}.dcm", small, kind, str(series), mpp * 2**level, level + 1)
    label = Image.new("RGB", (200, 100), (0, 0, 255))
    _write_instance(
        folder / "label.dcm", label, ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], str(series), 50.0, levels + 1
    )
    return folder / "0.dcm"


def _write_instance(path: Path, image: Image.Image, kind: list[str], series: str, mpp: float, number: int) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, generate_uid

    wide, tall = (_TILE, _TILE) if kind[2] == "VOLUME" else image.size
    across, down = -(-image.width // wide), -(-image.height // tall)
    padded = Image.new("RGB", (across * wide, down * tall), "white")
    padded.paste(image)
    boxes = [(x * wide, y * tall, (x + 1) * wide, (y + 1) * tall) for y in range(down) for x in range(across)]
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = _WSM
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.PatientName, one.PatientID = PATIENT, "4711"
    one.Modality, one.SeriesInstanceUID = "SM", series
    one.InstanceNumber, one.ImageType = number, kind
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "YBR_FULL_422", 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
    one.Rows, one.Columns = tall, wide
    one.NumberOfFrames = across * down
    one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows = image.size
    one.DimensionOrganizationType = "TILED_FULL"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    one.SharedFunctionalGroupsSequence = [shared]
    one.LossyImageCompression = "01"
    one.PixelData = encapsulate([_jpeg(padded.crop(box)) for box in boxes])
    one["PixelData"].VR = "OB"
    one.save_as(path, enforce_file_format=True)


def write_ndpi(path: Path, field: Image.Image, mpp: float = 0.5, levels: int = 3) -> Path:
    """One JPEG strip a level and a macro image, Hamamatsu's tags 65420 (format) and 65421 (magnification)."""
    import tifffile

    def page(writer: tifffile.TiffWriter, image: Image.Image, lens: float, pitch: float) -> None:
        writer.write(
            iter([_jpeg(image)]), shape=(image.height, image.width, 3), dtype="uint8", photometric="ycbcr",
            compression="jpeg", subsampling=(1, 1), rowsperstrip=image.height, metadata=None, software="NDP.scan",
            resolution=(1e4 / pitch, 1e4 / pitch), resolutionunit="CENTIMETER", description=PATIENT,
            extratags=[(65420, "I", 1, 1, True), (65421, "f", 1, lens, True)]
            + [(tag, "i", 1, 0, True) for tag in (65422, 65423, 65424)],
        )  # fmt: skip

    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            small = field.resize((field.width >> level, field.height >> level), Image.Resampling.BOX)
            page(writer, small, 20.0 / 2**level, mpp * 2**level)
        page(writer, Image.new("RGB", (320, 160), (0, 0, 255)), -1.0, 50.0)
    return path
