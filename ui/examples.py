"""Example questions with images from installed packages, so that a first try needs no file of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

QUESTIONS = (
    (
        "Stain of the whole field",
        "whole.png",
        "Which stain is this?\nA) H&E\nB) PAS\nC) immunohistochemistry (DAB)\nD) Giemsa",
    ),
    ("Organ, in a crop of it", "crop.png", "Which organ is this tissue from?\nA) liver\nB) colon\nC) brain\nD) skin"),
    ("Haematoxylin channel only", "haematoxylin.png", "Is this an H&E stain?"),
)
SOURCE = "Examples: scikit-image's immunohistochemistry sample (colon, DAB), a crop of it, its haematoxylin channel."


def write_examples(folder: Path) -> list[tuple[str, Path, str]]:
    """Write the three images below ``folder``; returns (label, image, question) of each."""
    from skimage.color import hed2rgb, rgb2hed
    from skimage.data import immunohistochemistry

    folder.mkdir(parents=True, exist_ok=True)
    field = immunohistochemistry()  # [512, 512, 3] uint8, shipped inside the package
    stains = rgb2hed(field)
    haematoxylin = hed2rgb(np.stack([stains[..., 0], *[np.zeros(field.shape[:2])] * 2], axis=-1))
    pictures = {
        "whole.png": field,
        "crop.png": field[128:384, 128:384],
        "haematoxylin.png": (haematoxylin * 255).round().astype(np.uint8),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name)
    return [(label, folder / name, question) for label, name, question in QUESTIONS]
