"""Labelled image records, read in one place for training and for evaluation.

A dataset is a folder with an ``index.jsonl`` (one JSON object a line, image paths relative to the folder). Every set
speaks its own label names; here they become one vocabulary of *facts* (``organ``, ``stain``, ``diagnosis``, …) and one
``group`` (slide, augmentation group or image) by which splits and bootstrap intervals must go.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assistant.errors import BadInput

#: Sets whose licence allows reuse: the shipped core trains on these only.
OPEN_SETS = (
    "atlas",
    "atlas_overviews",
    "lc25000_lung",
    "oral_oscc",
    "pcam_1k",
    "bccd_boxes",
    "dsb2018_stained",
)
#: Sets with a non-commercial or unclear licence: evaluated apart, never trained into the core.
RESTRICTED_SETS = ("crc_polyp5", "herlev_pap", "wbc_seg")

_ORGAN_WORDS = {
    "over": "ovary",
    "lung": "lung",
    "kidney": "kidney",
    "bone": "bone",
}
_TITLE_ORGANS = (
    ("colitis", "colon"), ("colon", "colon"), ("gastri", "stomach"), ("stomach", "stomach"), ("hepat", "liver"),
    ("liver", "liver"), ("duoden", "duodenum"), ("gallbladder", "gallbladder"), ("pancrea", "pancreas"),
    ("pdac", "pancreas"), ("kidney", "kidney"), ("renal", "kidney"), ("lung", "lung"), ("breast", "breast"),
    ("brain", "brain"), ("mening", "meninges"), ("spleen", "spleen"), ("appendi", "appendix"),
    ("esophag", "esophagus"), ("ovar", "ovary"), ("uter", "uterus"), ("endometri", "uterus"), ("cervi", "cervix"),
    ("placent", "placenta"), ("thyroid", "thyroid"), ("skin", "skin"), ("prostat", "prostate"),
)  # fmt: skip


class DataError(BadInput):
    """A dataset is missing or malformed; the message names file, line and remedy."""


@dataclass(frozen=True)
class Record:
    """One labelled image.

    Attributes:
        dataset: Folder name of the set.
        image: Absolute path of the image file.
        split: ``"train"`` or ``"val"``.
        group: Slide, patient or augmentation group: the unit for splits and bootstrap.
        facts: Label name → value, for example ``{"organ": "liver", "stain": "H&E"}``.
        unseen_case: True when no slide of this case is in ``train`` (atlas only).
    """

    dataset: str
    image: Path
    split: str
    group: str
    facts: dict[str, str] = field(default_factory=dict)
    unseen_case: bool = False

    @property
    def id(self) -> str:
        return f"{self.dataset}/{self.image.name}"

    @property
    def centred(self) -> bool:
        """True when the label speaks of the centre of the image, so crops must not be shifted."""
        return self.dataset == "pcam_1k"


def data_root(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The data root: the argument, else ``PATHASSIST_DATA``, else ``../shared/data``.

    Raises:
        DataError: No such folder.
    """
    chosen = explicit or os.environ.get("PATHASSIST_DATA")
    root = Path(chosen) if chosen else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not root.is_dir():
        raise DataError(f"no data folder at {root}; set PATHASSIST_DATA to a folder of datasets (see README, 'Data')")
    return root


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """Read one JSON object a line; a bad line is named by its number."""
    if not path.is_file():
        raise DataError(f"no index at {path}; a dataset is a folder with an index.jsonl")
    rows = []
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object, saw {type(row).__name__}")
            rows.append(row)
    return rows


def _organ(row: dict[str, object]) -> str | None:
    organ = row.get("organ")
    if isinstance(organ, str) and organ:
        return _ORGAN_WORDS.get(organ.lower(), organ.lower())
    title = str(row.get("title", "")).lower()
    hits = {name for word, name in _TITLE_ORGANS if re.search(rf"\b{word}", title)}
    return hits.pop() if len(hits) == 1 else None


def _facts(dataset: str, row: dict[str, object]) -> tuple[str, dict[str, str | None]]:
    """Group and facts of one index row."""
    name = Path(str(row["image"])).stem
    label = str(row.get("label", ""))
    match dataset:
        case "atlas":
            keep = ("organ", "diagnosis", "category", "findings", "stain", "kind")
            facts: dict[str, str | None] = {k: v if isinstance(v := row.get(k), str) else None for k in keep}
            facts["stain_class"] = _stain(facts["stain"])
            if row.get("kind") == "field":
                facts["scale"] = {1: "high", 2: "medium", 4: "low"}.get(int(str(row["downsample"])))
            return str(row["slide"]), facts
        case "atlas_overviews":
            return str(row["case"]), {"organ": _organ(row), "kind": "overview", "title": str(row.get("title", ""))}
        case "lc25000_lung":
            return str(row["group"]), {"organ": "lung", "stain": "H&E", "stain_class": "H&E", "lung": label}
        case "oral_oscc":
            scale = {"100x": "low", "400x": "high"}.get(str(row.get("magnification")))
            facts = {
                "organ": "oral mucosa",
                "stain": "H&E",
                "stain_class": "H&E",
                "oral": label,
                "magnification": scale,
            }
            return name, facts
        case "pcam_1k":
            return name, {"organ": "lymph node", "stain": "H&E", "stain_class": "H&E", "node": label}
        case "bccd_boxes":
            boxes = row.get("boxes")
            kinds = [str(b["label"]) for b in boxes] if isinstance(boxes, list) else []
            return name, {"organ": "blood", "stain": "Romanowsky", "stain_class": "Romanowsky"} | {
                "cells": ", ".join(sorted(set(kinds)))
            }
        case "dsb2018_stained":
            return name, {"n_nuclei": str(row.get("n_nuclei"))}
        case "crc_polyp5":
            return name, {"colorectal": label}
        case "herlev_pap":
            return name, {"cervical": label}
        case "wbc_seg":
            return name, {"leucocyte": label}
    raise DataError(f"no label reader for dataset {dataset!r}; allowed: {', '.join(OPEN_SETS + RESTRICTED_SETS)}")


def _stain(stain: str | None) -> str | None:
    """Every immunostain on its own is too rare to learn: one class "IHC" beside the histochemical stains."""
    return "IHC" if stain and stain.endswith("IHC") else stain


def load_records(
    datasets: Iterable[str] = OPEN_SETS, split: str = "train", root: str | os.PathLike[str] | None = None
) -> list[Record]:
    """Read the records of some sets and one split, in index order.

    Train overviews of a case that ``atlas`` holds back as unseen are left out, so "unseen" stays true.

    Raises:
        DataError: Unknown set, missing index, malformed row.
    """
    base = data_root(root)
    datasets = tuple(datasets)
    held_back: set[str] = set()
    if split == "train" and "atlas_overviews" in datasets and (base / "atlas" / "index.jsonl").is_file():
        held_back = {str(r["case"]) for r in read_jsonl(base / "atlas" / "index.jsonl") if r.get("unseen_case")}
    records = []
    for dataset in datasets:
        for number, row in enumerate(read_jsonl(base / dataset / "index.jsonl"), 1):
            if "image" not in row or "split" not in row:
                raise DataError(f"{base / dataset / 'index.jsonl'}, line {number}: needs 'image' and 'split'")
            if row["split"] != split or (dataset == "atlas_overviews" and str(row["case"]) in held_back):
                continue
            group, facts = _facts(dataset, row)
            records.append(
                Record(
                    dataset=dataset,
                    image=base / dataset / str(row["image"]),
                    split=split,
                    group=f"{dataset}:{group}",
                    facts={k: v for k, v in facts.items() if v},
                    unseen_case=bool(row.get("unseen_case", False)),
                )
            )
    return records


def balanced_weights(records: list[Record], factor: Mapping[str, float]) -> list[float]:
    """Sampling weight of each record: sets by the square root of their size, organs alike within the atlas.

    Args:
        factor: Extra weight of a set; 1 where it is not named.
    """
    sets = Counter(r.dataset for r in records)
    organs = Counter(r.facts.get("organ", "") for r in records if r.dataset == "atlas")
    weights = []
    for r in records:
        w = factor.get(r.dataset, 1.0) / sets[r.dataset] ** 0.5
        if r.dataset == "atlas":
            w *= (len(records) / len(organs) / organs[r.facts.get("organ", "")]) ** 0.5
        weights.append(w)
    return weights
