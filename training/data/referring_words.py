"""Words of the referring expressions, from ``referring.yaml``; ``val`` has its own of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("referring.yaml")
_READ: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))

Names = tuple[tuple[str, str], ...]
Words = tuple[str, ...]
#: class → (names in train, names in val), singular and plural.
NAMES: dict[str, tuple[Names, Names]] = {
    label: (tuple(map(tuple, sides["train"])), tuple(map(tuple, sides["val"])))
    for label, sides in _READ["names"].items()
}
#: Forms of each kind in train and val; {n} singular, {p} plural, {m} the other object, {w} a position.
FORMS: dict[str, tuple[Words, Words]] = {k: (tuple(v["train"]), tuple(v["val"])) for k, v in _READ["forms"].items()}
#: position → (words in train, words in val).
PLACES: dict[str, tuple[Words, Words]] = {k: (tuple(v["train"]), tuple(v["val"])) for k, v in _READ["places"].items()}
#: Things that none of the sets' fields hold, in train and in val.
ELSEWHERE: tuple[Words, Words] = (tuple(_READ["elsewhere"]["train"]), tuple(_READ["elsewhere"]["val"]))
RELATIONAL = ("nearest", "farthest", "central")
#: Classes that a set's fields surely do not hold.
NEVER = {
    "bccd_boxes": ("gland", "tumour", "stroma"), "wbc_seg": ("gland", "tumour", "stroma"),
    "glas": ("platelet",), "consep_patches": ("platelet",), "luad_tissue_seg": ("platelet",),
    "monuseg": ("platelet",), "dsb2018_stained": ("platelet",),
}  # fmt: skip
