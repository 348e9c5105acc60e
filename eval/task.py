"""What a benchmark is: items, a prompt, a score for one response, a summary of all scores.

A task knows nothing of models, files of results or controls; the runner (``eval.runner``) knows nothing of benchmarks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from assistant.errors import BadInput
from eval.stats import cluster_interval

Root = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        id: Unique within the benchmark and its split.
        group: Slide, patient or image: the unit of the bootstrap.
        part: Subset that the item is reported under.
        image: The picture; None for a question without one. A file that is not there is an error of every condition
            that shows it.
        answer: The truth, as the task's ``score`` wants it; plain values and lists only.
        fields: What else the task needs, for example ``question`` and ``options``.
        problem: Why the item cannot be asked at all; it is then an error, whoever answers.
    """

    id: str
    group: str
    part: str
    image: Path | None
    answer: Any
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Response:
    """What a model said about one item.

    Attributes:
        text: The words; never empty (an empty reply is an error).
        confidence: Probability that the answer is right, where the model states one.
        box: (x0, y0, x1, y1) in pixels of the image, for grounding.
    """

    text: str
    confidence: float | None = None
    box: tuple[float, float, float, float] | None = None


class Task(Protocol):
    """A benchmark.

    Attributes:
        name: As on the command line.
        version: Changes whenever prompts, items or scores change; part of a run's identity.
        kind: ``"answer"`` (text) or ``"ground"`` (a box).
        max_new_tokens: Longest reply.
    """

    name: str
    version: str
    kind: str
    max_new_tokens: int

    def load(self, root: Root, split: str) -> list[Item]:
        """All items of a split, in published order; what cannot be asked carries its ``problem``."""

    def prompt(self, item: Item) -> str:
        """The text put to the model (for grounding: the phrase)."""

    def score(self, item: Item, response: Response) -> dict[str, Any]:
        """Columns of this item: plain values only. Called for every item that got a response."""

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Tidy table of measures, as :func:`measures` makes it."""


#: Columns of a summary.
SUMMARY = ("part", "metric", "condition", "value", "low", "high", "n", "errors", "groups")


def measures(
    rows: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    errors_wrong: Sequence[str] = (),
    parts: Callable[[pd.DataFrame], list[tuple[str, pd.DataFrame]]] | None = None,
) -> pd.DataFrame:
    """Mean of some columns for every part and condition, with n, errors and a clustered 95 % interval.

    Args:
        rows: Items as the runner stores them: ``part``, ``condition``, ``group``, ``status`` and the task's columns.
        metrics: Column → name shown. A column that no item has is left out.
        errors_wrong: Columns in which an item without a response counts as 0. In all others it is left out of n, and
            the table shows how many there were.
        parts: Splits the rows of one condition; default: all, then each ``part``.
    """
    out = []
    for condition, inside in rows.groupby("condition", sort=False):
        for name, part in (parts or by_part)(inside):
            errors = int((part["status"] == "error").sum())
            for column, shown in metrics.items():
                if column not in part:
                    continue
                values = part[column].astype("float64")
                if column in errors_wrong:
                    values = values.mask(part["status"] == "error", 0.0)
                kept = values.notna()
                mean, low, high = cluster_interval(values[kept], list(part["group"][kept]))
                groups = int(part["group"][kept].nunique())
                out.append((name, shown, condition, mean, low, high, int(kept.sum()), errors, groups))
    return pd.DataFrame(out, columns=list(SUMMARY))


def by_part(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """All rows, then each part where there are several."""
    names = sorted(rows["part"].unique())
    return [("all", rows)] + ([(name, rows[rows["part"] == name]) for name in names] if len(names) > 1 else [])


def with_duplicates_marked(items: Sequence[Item]) -> list[Item]:
    """Every later item of a repeated id becomes an error with an id of its own, so that n stays what was published."""
    seen: dict[str, int] = {}
    out = []
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
        if seen[item.id] > 1:
            item = replace(item, id=f"{item.id}~{seen[item.id]}", problem=f"the id {item.id!r} occurs again")
        out.append(item)
    return out


def one_of(value: str, allowed: Sequence[str], what: str) -> str:
    """``value`` when it is allowed.

    Raises:
        BadInput: It is not; the message lists what is.
    """
    if value not in allowed:
        raise BadInput(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")
    return value
