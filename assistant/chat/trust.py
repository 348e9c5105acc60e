"""How far a tool's result can be trusted, by what was measured of it: the confidence shown with an answer from tools.

For a class it is how often the tool was right on ``val`` when it said that class; for a count how often the count was
within 15 % of the true one. Both are measured by ``python -m eval.tool_trust`` and shipped. Where nothing of the kind
was measured there is no confidence, and the reason is given. How sure the planner was of the call plays no part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from assistant.answer import NO_CONFIDENCE, ToolCall
from assistant.model.vlm import WEIGHTS
from assistant.tools.registry import find_tools

FILE = WEIGHTS / "embedded-tools" / "trust.json"
#: A class that was said less often than this on ``val`` is judged by all classes of its tool.
FEWEST = 8
#: Relative error up to which a count is right.
NEAR = 0.15
_WHY_NOT = {
    "score_ihc": "its counts were never measured against counted cells",
    "normalise_stain": "a picture with other colours cannot be right or wrong",
    "find_similar_cases": "likeness was not measured as right or wrong; each case has its own score",
    "ground_phrase": "each box has its own score",
    "check_quality": "blur, pen and folds were never measured against labels",
}
#: Tools judged by a number of their card.
_CARD = {"segment_tissue": "pixel accuracy"}


@dataclass(frozen=True)
class Trust:
    """Confidence of a call or an answer, None where nothing was measured, and what it rests on."""

    value: float | None
    basis: str


def trust(call: ToolCall, told: str = "") -> Trust:
    """How often a result like this one was right.

    Args:
        told: What the answer takes from it: a class, or a kind of count; "" for its main result.
    """
    numbers = call.result.get("numbers", {})
    table = measured().get(call.name, {})
    part, label = part_of(call.name, numbers, told)
    rows: Mapping[str, Any] = table.get(part, {})
    if not rows:
        for one in find_tools()[call.name].measured if call.name in _CARD else ():
            if one.metric == _CARD[call.name]:
                return Trust(
                    one.value, f"confidence {one.value:.2f}: {one.metric} of {call.name} on {one.data}, n = {one.n}"
                )
        why = _WHY_NOT.get(call.name, f"nothing was measured for {part or 'such a result'}")
        if part == COUNTS:
            why = "how often its counts are close was not measured; its card has the mean error"
        return Trust(None, f"{NO_CONFIDENCE} {call.name}: {why}")
    one = rows.get(label, {"right": 0, "said": 0})
    said, right = int(one["said"]), int(one["right"])
    which = f"{call.name} says {label}"
    if said < FEWEST:
        said, right = (sum(int(r[key]) for r in rows.values()) for key in ("said", "right"))
        which = f"{call.name} names a class of {part}"
    value = (right + 1) / (said + 2)
    if part == COUNTS:
        basis = f"a count of {label} by {call.name} was within {NEAR:.0%} of the true one in {right} of {said} fields"
    else:
        basis = f"when {which}, it was right in {right} of {said} fields"
    return Trust(value, f"confidence {value:.2f}: {basis} of val")


COUNTS = "counts"
#: Tools that count, and what of.
_COUNTED = {"segment_nuclei": "nuclei", "segment_glands": "glands"}


def part_of(name: str, numbers: Mapping[str, Any], told: str = "") -> tuple[str, str]:
    """Part of the measurements that a result belongs to, and the row in it."""
    if name == "detect_blood_cells":
        types: Mapping[str, int] = numbers.get("white_cell_types", {})
        kinds = {"red blood cell", "white blood cell", "platelet"}
        if told in types:
            return "leucocyte", told
        counts: Mapping[str, int] = numbers.get("counts", {})
        most = told if told in kinds else max(counts, key=lambda k: counts[k], default="red blood cell")
        return COUNTS, most
    if name in _COUNTED:
        return COUNTS, _COUNTED[name]
    label = str(numbers.get("label", ""))
    if name == "classify_tissue":
        return str(numbers.get("site", "")), label
    return ("class", label) if name == "classify_cervical_cell" else ("", label)


def confidence(calls: Sequence[ToolCall]) -> Trust:
    """Of an open answer: the least of its results'; those without are named."""
    found = [trust(call) for call in calls if call.status == "ok"]
    values = [one.value for one in found if one.value is not None]
    basis = "; ".join(dict.fromkeys(one.basis for one in found))
    return Trust(min(values) if values else None, basis)


@lru_cache(maxsize=1)
def measured() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Tool → part → class or kind → ``said`` and ``right``; empty where the file is missing."""
    if not FILE.is_file():
        return {}
    found: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(FILE.read_text(encoding="utf-8"))["tools"]
    return found
