"""Whole slides: any region at any resolution, and nothing of what a slide file says about its patient.

    with open_slide("slide.svs") as slide:
        slide.size, slide.mpp, slide.objective        # (46000, 32914), 0.499, 20.0
        field = slide.read(12000, 8000, 2048, 2048, out=(1024, 1024))

Readers: OpenSlide (SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF), tiffslide (OME-TIFF and other pyramids OpenSlide
does not know), our own for Deep Zoom (``.dzi`` with its folder of tiles), and plain pictures as slides of one level.
Label and macro images, file names, comments and DICOM tags are never read; there is no way to ask a ``Slide`` for them.
"""

from assistant.slides.base import MAX_READ_PIXELS, Level, Slide, Window, nice_length
from assistant.slides.open import SUFFIXES, is_slide_name, open_slide

__all__ = ["MAX_READ_PIXELS", "SUFFIXES", "Level", "Slide", "Window", "is_slide_name", "nice_length", "open_slide"]
