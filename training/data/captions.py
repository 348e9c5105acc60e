"""Captions from a record's facts, in varied wording, each with the facts it states.

A caption that says less than all facts also fits other images; knowing what it states is what keeps such images from
being its negatives (``training.clip.pairs``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.immunostains import immunostain
from training.data.knowledge import synonyms
from training.data.records import DataError, Record, read_jsonl
from training.data.virtual import MARKER as VIRTUAL

#: Facts that name what is shown, most telling first; a set has one of them.
SUBJECTS = ("lung", "oral", "node", "diagnosis")
_WITH_ORGAN = (
    "{subject} in the {organ}",
    "{organ}: {subject}",
    "{organ} with {subject}",
    "histology of the {organ} showing {subject}",
    "{subject}, {organ}",
)
_SUBJECT = ("{subject}", "a micrograph of {subject}", "histology of {subject}", "an image of {subject}")
_ORGAN = ("{organ}", "tissue of the {organ}", "a section of {organ}", "histology of the {organ}", "{organ} tissue")
_CATEGORY = ("{category} disease of the {organ}", "{organ}, {category} process", "{category} change in the {organ}")
_STAIN = ("{}, {stain} stain", "{}, {stain}", "{stain} stained section: {}", "{} ({stain})")
_SCALE = ("{} at {scale} magnification", "{scale}-power field of {}", "{}")


@dataclass(frozen=True)
class Caption:
    """A text and the facts it states; whatever agrees on these facts fits the text too."""

    text: str
    facts: Mapping[str, str]

    def fits(self, record: Record) -> bool:
        """True when nothing in the caption is wrong for ``record``."""
        return all(record.facts.get(k) == v for k, v in self.facts.items())


def subject_of(record: Record) -> str | None:
    """Which of ``SUBJECTS`` this record has."""
    return next((k for k in SUBJECTS if k in record.facts), None)


def draw_caption(record: Record, rng: random.Random, synonym_share: float = 0.3) -> Caption | None:
    """One caption of ``record``; None when it has no fact to tell.

    Args:
        rng: Fixes wording and choice of facts.
        synonym_share: How often a term is replaced by one of its synonyms.
    """
    facts, kind = record.facts, subject_of(record)
    if "caption" in facts:
        return Caption(facts["caption"], {"caption": facts["caption"]})
    organ = facts.get("organ")
    stated: dict[str, str] = {}

    def word(name: str) -> str:
        stated[name] = facts[name]
        if facts[name] == VIRTUAL:  # no marker was stained for, so any may be named
            return immunostain(rng)
        if name == "stain" and facts[name].endswith(" IHC") and rng.random() < synonym_share:
            return immunostain(rng, facts[name].removesuffix(" IHC"))
        other = synonyms(name, facts[name])
        return rng.choice(other) if other and rng.random() < synonym_share else facts[name]

    draw = rng.random()
    if organ == "blood":
        text = rng.choice(("a blood smear", "peripheral blood film", "blood cells in a smear"))
        stated["organ"] = organ
        if "cells" in facts and draw < 0.7:
            text += f" with {word('cells')}"
    elif kind and (organ is None or (draw < 0.35 and kind != "diagnosis") or draw < 0.1):
        subject = facts.get("findings") if kind == "diagnosis" and rng.random() < 0.5 else None
        stated |= {kind: facts[kind]} if subject else {}
        text = rng.choice(_SUBJECT).format(subject=subject or word(kind))
    elif organ and (kind is None or draw < 0.35):
        text = rng.choice(_ORGAN).format(organ=word("organ"))
    elif organ and kind == "diagnosis" and "category" in facts and draw < 0.5:
        text = rng.choice(_CATEGORY).format(organ=word("organ"), category=word("category"))
    elif organ and kind:
        text = rng.choice(_WITH_ORGAN).format(organ=word("organ"), subject=word(kind))
        if "findings" in facts and rng.random() < 0.35:
            stated[kind] = facts[kind]
            text += f": {facts['findings']}"
    elif "stain" in facts:
        return Caption(rng.choice(("a section stained with {}", "{} stain")).format(word("stain")), stated)
    else:
        return None
    if "stain" in facts and rng.random() < (0.8 if facts.get("stain_class") == "IHC" else 0.35):
        text = rng.choice(_STAIN).format(text, stain=word("stain"))
    if "scale" in facts and rng.random() < 0.15:
        text = rng.choice(_SCALE).format(text, scale=word("scale"))
    return Caption(text, stated)


def plain_caption(record: Record) -> Caption | None:
    """The one full caption of a record in wording that training never uses; two slides may share it."""
    kind, organ = subject_of(record), record.facts.get("organ")
    named = [record.facts[k] for k in (kind, "stain") if k and k in record.facts]
    if kind is None or not named:
        return None
    parts = [f"Microscopy, {organ}" if organ else "Microscopy", *named]
    keep = {k: record.facts[k] for k in ("organ", kind, "stain") if k in record.facts}
    return Caption(" - ".join(parts), keep)


def read_pairs(path: Path) -> list[Record]:
    """Own image–text pairs as records: JSONL of ``{"image", "caption", "group"?}``, paths relative to the file.

    ``group`` is the slide or patient, by default the image itself. The layout is PathCap's with one object a line.

    Raises:
        DataError: Names file and line.
    """
    records = []
    for number, row in enumerate(read_jsonl(path), 1):
        image, caption = row.get("image"), row.get("caption")
        if not isinstance(image, str) or not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{path}, line {number}: needs 'image' and a caption that is not empty")
        file = path.parent / image
        if not file.is_file():
            raise DataError(f"{path}, line {number}: no image at {file}")
        group = str(row.get("group", image))
        records.append(Record(path.stem, file, "train", f"{path.stem}:{group}", {"caption": caption.strip()}))
    return records
