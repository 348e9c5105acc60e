"""Immunostains made from H&E fields, since the open sets hold one immunostained slide.

An H&E field is taken apart into haematoxylin and eosin; what was haematoxylin stays as a pale blue counterstain, and
where a random patchy field says so, nuclei or cytoplasm get the brown of diaminobenzidine. Absorption vectors are those
of Ruifrok & Johnston 2001. The result teaches what an immunostain looks like on many tissues; it says nothing about
where any real marker would bind, so only organ and stain are kept as facts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2hed
from skimage.filters import gaussian

from training.data.records import Record

MARKER = "virtual IHC"
_SIDE = 376
_HAEMATOXYLIN, _BROWN = np.array([0.650, 0.704, 0.286]), np.array([0.268, 0.570, 0.776])


def virtual_ihc(rgb: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """An H&E field [H, W, 3] as an immunostain would look."""
    hed = rgb2hed(rgb)
    blue, pink = (_unit(hed[..., k]) for k in (0, 1))
    patches = gaussian(generator.normal(size=blue.shape), sigma=generator.uniform(4, 25))
    patches = (patches - patches.mean()) / patches.std()
    positive = 1 / (1 + np.exp(-4 * (patches - generator.uniform(-0.3, 1.2))))
    where = (pink, blue, 0.7 * pink + 0.3 * blue)[int(generator.integers(3))]
    brown = positive * (where - 0.15).clip(0) * generator.uniform(0.5, 1.3)
    counter = blue**1.3 * generator.uniform(0.25, 0.5) * (1 - 0.6 * brown.clip(0, 1)) * 1.6 + 0.15 * pink
    density = counter[..., None] * _HAEMATOXYLIN + 1.8 * brown[..., None] * _BROWN
    return np.asarray((np.exp(-density) * 243).clip(0, 255), dtype=np.uint8)


def _unit(stain: NDArray[np.float64]) -> NDArray[np.float64]:
    """A stain's density from 0 to 1, its 99th percentile at 1."""
    positive = stain.clip(0)
    return np.asarray((positive / (np.percentile(positive, 99) + 1e-6)).clip(0, 1))


def write_virtual(records: list[Record], folder: Path, count: int, seed: int = 0) -> list[Record]:
    """``count`` immunostains made from H&E fields of the atlas; files that exist are kept as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    fields = [r for r in records if r.facts.get("kind") == "field" and r.facts.get("stain") == "H&E"]
    made = []
    for number in generator.permutation(len(fields))[:count]:
        source = fields[number]
        path = folder / f"ihc_{seed}_{source.image.stem}.png"
        if not path.is_file():
            with Image.open(source.image) as image:
                rgb = np.array(image.convert("RGB").resize((_SIDE, _SIDE)))
            Image.fromarray(virtual_ihc(rgb, np.random.default_rng([seed, int(number)]))).save(path)
        facts = {k: v for k, v in source.facts.items() if k == "organ"} | {"stain": MARKER, "stain_class": "IHC"}
        made.append(replace(source, image=path, facts=facts))
    return made
