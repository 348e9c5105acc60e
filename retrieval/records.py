"""What is known of a case besides its vector, and the filters on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from retrieval.errors import BadRequest

#: Filter: key → one value or several, any of which will do. Keys are ``FILTER_COLUMNS`` or names of facts.
Where = Mapping[str, str | Sequence[str]]

Region = tuple[int, int, int, int]

FILTER_COLUMNS = ("id", "organ", "stain", "diagnosis", "group", "licence", "source")
#: Columns in the order that both stores keep them.
COLUMNS = (
    "id", "locator", "image", "region", "title", "text", "organ", "stain", "diagnosis", "group", "licence", "source",
    "hash", "stamp", "facts",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One image, or one region of a slide, in the library.

    Attributes:
        id: Unique in the store. Re-adding an id replaces the case.
        image: Path of the image or slide, for opening it; never shown, since file names may name patients.
        region: x, y, width, height in pixels of the full resolution, for a part of a slide.
        title: Short caption.
        text: Longer description.
        group: Slide or patient; cases of the query's own group are left out of its results.
        licence: As the source states it.
        source: Where the image comes from.
        hash: SHA-256 of the pixels, by which duplicates are found.
        stamp: Size and time of the file when it was read, by which unchanged files are skipped.
        facts: Any other labels.
    """

    id: str
    image: str = ""
    region: Region | None = None
    title: str = ""
    text: str = ""
    organ: str = ""
    stain: str = ""
    diagnosis: str = ""
    group: str = ""
    licence: str = ""
    source: str = ""
    hash: str = ""
    stamp: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def locator(self) -> str:
        """Where the pixels came from: the path, with the region if there is one."""
        return self.image if self.region is None else f"{self.image}#{','.join(map(str, self.region))}"

    def to_row(self) -> tuple[str | None, ...]:
        """The values of ``COLUMNS``, without what databases do not take: halves of characters and zeros."""
        region = None if self.region is None else json.dumps(self.region)
        special = {"region": region, "facts": json.dumps(dict(self.facts), ensure_ascii=False, sort_keys=True)}
        values = [special[name] if name in special else getattr(self, name) for name in COLUMNS]
        return tuple(v and v.encode("utf-8", "replace").decode("utf-8").replace("\0", "") for v in values)

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Case:
        """The inverse of ``to_row``; JSON columns may come decoded."""
        values = dict(zip(COLUMNS, row, strict=True))
        for name in ("region", "facts"):
            if isinstance(values[name], str):
                values[name] = json.loads(values[name])
        values["region"] = None if values["region"] is None else tuple(values["region"])
        return cls(**{f.name: values[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class Hit:
    """A case found.

    Attributes:
        score: Cosine similarity to the query, −1 to 1.
        as_close: Share of pairs of one diagnosis from different groups that are less alike than this (0 to 1), where
            the store is calibrated and the query is of images only.
    """

    case: Case
    score: float
    as_close: float | None = None


def plain_where(where: Where | None) -> dict[str, list[str]]:
    """A filter with lists for values."""
    return {key: [value] if isinstance(value, str) else list(value) for key, value in (where or {}).items()}


def unknown_key(key: str, facts: Sequence[str]) -> BadRequest:
    """The error for a filter key that no case has."""
    return BadRequest(f"no case has {key!r} to filter by; there are: {', '.join([*FILTER_COLUMNS, *facts])}")


def explain_no_match(key: str, values: Sequence[str], known: dict[str, int]) -> None:
    """Raise BadRequest where none of ``values`` is known."""
    if not set(values) & set(known):
        listed = ", ".join(list(known)[:12]) + (", …" if len(known) > 12 else "")
        raise BadRequest(f"no case has {key} = {' or '.join(map(repr, values))}; known values: {listed or 'none'}")
