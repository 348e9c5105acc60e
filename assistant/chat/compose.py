"""Answers from tool results: composed in code, so that every number in them is the tool's own.

The language model has no part in this. A closed question is answered by mapping the result to the options: classes by
their names, counts by the nearest number or by the comparison that the question makes. An open question is answered by
the tools' own sentences. :func:`unsupported_numbers` checks any text against the results.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant.answer import Box, Case, ToolCall
from assistant.chat.grammar import numbers_in
from assistant.chat.prompt import YES_NO, Question
from assistant.chat.trust import trust

#: Spread of the logarithm of a tool's count around the true one: counts are within about 15 %.
COUNT_SPREAD = 0.15
_FEWEST_MATCHES = 2
#: Probability of each option, how the tool came to it, and the class where it names one.
Chances = tuple[list[float], Literal["class", "count", "flag"], str]
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*")
_MORE = re.compile(r"\b(?:more|greater|higher|larger|over|above|exceeds?)\b")
_LESS = re.compile(r"\b(?:fewer|less|lower|smaller|under|below)\b")
_LEAST, _MOST = re.compile(r"\bat least\b|\bor more\b"), re.compile(r"\bat most\b|\bor fewer\b|\bor less\b")
#: Which number of a result a question is about, by words of the question; the first that is there counts.
_QUANTITIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"red (?:blood )?cells?|rbcs?|erythrocyt", ("red blood cell", "red blood cells", "rbc")),
    (r"white (?:blood )?cells?|wbcs?|leu[ck]ocyt", ("white blood cell", "white blood cells", "wbc")),
    (r"platelet|thrombocyt", ("platelet", "platelets")),
    (r"ki.?67|proliferation", ("ki67_index",)),
    (r"h.?score", ("h_score",)),
    (r"positiv|stained|brown", ("positive_percent",)),
    (r"gland|crypt|tubul", ("count_estimate", "count", "glands", "n_glands")),
    (r"nucle|cell", ("count_estimate", "count", "cells", "nuclei")),
    (r"tumou?r", ("tumour_percent", "tumour", "tumor")),
    (r"stroma", ("stroma_percent", "stroma")),
    (r"epitheli", ("epithelium_percent", "epithelium")),
)


@dataclass(frozen=True)
class Mapped:
    """A closed question answered by a tool: probability of each option, and the call it rests on.

    Attributes:
        how: ``"class"`` named by the tool, ``"count"`` compared with the options, or ``"flag"`` that it sets.
        told: The class, where the tool names one.
    """

    chances: list[float]
    call: ToolCall
    how: Literal["class", "count", "flag"] = "class"
    told: str = ""


def worked(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls that gave a result."""
    return [call for call in calls if call.status == "ok"]


def option_chances(asked: Question, calls: Sequence[ToolCall]) -> Mapped | None:
    """The options' probabilities as the tools give them; None where no result speaks about them.

    Classes keep the tool's probabilities, shared out among the options given. For a count the probability follows from
    the distance to each option, on a logarithmic scale with :data:`COUNT_SPREAD`.
    """
    for call in worked(calls):
        numbers = call.result.get("numbers", {})
        if asked.options == YES_NO:
            mapped = _yes_no(asked, numbers)
        elif chances := _by_class(asked, numbers):
            mapped = chances, "class", str(numbers.get("label", ""))
        elif chances := _by_count(asked, numbers):
            mapped = chances, "count", ""
        else:
            mapped = _by_type(asked, call)
        if mapped is not None:
            return Mapped(mapped[0], call, mapped[1], mapped[2])
    return None


def _by_type(asked: Question, call: ToolCall) -> Chances | None:
    """From the commonest type among the white cells, which the tool names without probabilities: how often that type
    was right, and the rest shared among the other options."""
    types: Mapping[str, int] = call.result.get("numbers", {}).get("white_cell_types", {})
    most = [name for name, count in types.items() if count == max(types.values())]
    if len(most) != 1:
        return None
    chosen = [i for i, option in enumerate(asked.options) if plain_name(option) == plain_name(most[0])]
    if len(chosen) != 1:
        return None
    value = trust(call, most[0]).value or 0.5
    chances = [(1 - value) / max(1, len(asked.options) - 1)] * len(asked.options)
    chances[chosen[0]] = value
    return chances, "class", most[0]


def _by_class(asked: Question, numbers: Mapping[str, Any]) -> list[float] | None:
    """From any ``…probabilities`` of the result whose classes name at least two options."""
    for shares in tables(numbers):
        matched = [_class_share(option, shares) for option in asked.options]
        if sum(m is not None for m in matched) < min(_FEWEST_MATCHES, len(asked.options)):
            continue
        total = sum(m for m in matched if m is not None)
        if total > 0:
            return [(m or 0.0) / total for m in matched]
    return None


def _class_share(option: str, shares: Mapping[str, float]) -> float | None:
    wanted = plain_name(option)
    exact = [p for name, p in shares.items() if plain_name(name) == wanted]
    if exact:
        return float(exact[0])
    words = set(wanted.split())
    close = [
        p for name, p in shares.items() if (mine := set(plain_name(name).split())) and (mine <= words or words <= mine)
    ]
    return float(close[0]) if len(close) == 1 else None


def tables(numbers: Mapping[str, Any]) -> Iterator[Mapping[str, float]]:
    """Every mapping of classes to probabilities; those of the class itself before those of the site."""
    found = []
    for key, value in numbers.items():
        if isinstance(value, Mapping):
            plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values())
            if key.endswith("probabilities") and value and plain:
                found.append((key != "probabilities", value))
            else:
                found += [(True, table) for table in tables(value)]
        elif isinstance(value, list):
            found += [(True, t) for item in value if isinstance(item, Mapping) for t in tables(item)]
    yield from (table for _, table in sorted(found, key=lambda pair: pair[0]))


def _by_count(asked: Question, numbers: Mapping[str, Any]) -> list[float] | None:
    options = [numbers_in(option) for option in asked.options]
    value = quantity(asked.stem, numbers)
    if value is None or any(len(o) != 1 for o in options):
        return None
    scores = [-abs(log_ratio(value, o[0])) / COUNT_SPREAD for o in options]
    top = max(scores)
    shares = [math.exp(s - top) for s in scores]
    return [s / sum(shares) for s in shares]


def _yes_no(asked: Question, numbers: Mapping[str, Any]) -> Chances | None:
    said = asked.stem.casefold()
    flag = _flag(said, numbers)
    if flag is not None:
        return ([1.0, 0.0] if flag else [0.0, 1.0]), "flag", ""
    limits, value = numbers_in(asked.stem), quantity(asked.stem, numbers)
    if value is not None and len(limits) == 1:
        more = bool(_MORE.search(said) or _LEAST.search(said)) and not _MOST.search(said)
        less = bool(_LESS.search(said) or _MOST.search(said)) and not _LEAST.search(said)
        if more != less:
            edge = 0.5 if _LEAST.search(said) or (less and not _MOST.search(said)) else -0.5
            above = 1 / (1 + math.exp(-1.7 * log_ratio(value + edge, limits[0]) / COUNT_SPREAD))
            return ([above, 1 - above] if more else [1 - above, above]), "count", ""
    abnormal = numbers.get("abnormal_probability")
    if isinstance(abnormal, int | float) and ("normal" in said or "dysplas" in said):
        asks_abnormal = "abnormal" in said or "dysplas" in said
        chances = [abnormal, 1 - abnormal] if asks_abnormal else [1 - abnormal, abnormal]
        return chances, "class", str(numbers.get("summary", ""))
    return None


def _flag(said: str, numbers: Mapping[str, Any]) -> bool | None:
    """What ``check_quality`` says on a yes/no question."""
    for pattern, key, when in (
        (r"blur|out of focus", "blurred", True), (r"\bsharp|in focus", "blurred", False),
        (r"\bpen\b|\bink\b|marker", "pen", True), (r"fold", "fold", True),
        (r"usable|good enough|fit for|quality", "usable", True), (r"blank|empty", "blank", True),
    ):  # fmt: skip
        if re.search(pattern, said) and isinstance(numbers.get(key), bool):
            return numbers[key] is when
    return None


def quantity(question: str, numbers: Mapping[str, Any]) -> float | None:
    """The number of a result that a question is about, where its words tell."""
    flat = dict(_numbers(numbers))
    said = question.casefold()
    for pattern, keys in _QUANTITIES:
        if re.search(pattern, said):
            for key in keys:
                if key in flat:
                    return flat[key]
    return None


def _numbers(numbers: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of a result by name, those on top last so that they win."""
    for key, value in numbers.items():
        if isinstance(value, Mapping) and not key.endswith("probabilities"):
            yield from _numbers(value)
    for key, value in numbers.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key.casefold(), float(value)


def log_ratio(value: float, other: float) -> float:
    """Logarithm of the ratio of two counts; half a unit is added, so that none is 0."""
    return math.log(max(value, 0.0) + 0.5) - math.log(max(other, 0.0) + 0.5)


def report(calls: Sequence[ToolCall]) -> str:
    """The tools' sentences, one paragraph a call, with what each warns of; failures are said as such."""
    several = len({call.arguments.get("image", 1) for call in calls}) > 1
    return "\n\n".join(_sentence(call, several) for call in calls)


def _sentence(call: ToolCall, several: bool) -> str:
    said = str(call.result.get("text", "")).strip()
    if call.status != "ok":
        return f"{call.name} gave no result: {said.removeprefix(call.name + ': ').rstrip('.')}."
    image = call.arguments.get("image", 1)
    numbered = f" (image {image})" if several or image != 1 else ""
    notes = [str(w).rstrip(".") for w in call.result.get("warnings", ())]
    kept = f"\nNote: {'; '.join(notes)}." if notes else ""
    return f"{call.name}{numbered}: {said}{kept}"


def unsupported_numbers(text: str, calls: Sequence[ToolCall], question: str = "") -> list[str]:
    """Numbers in a text that no result, no argument and no part of the question holds; empty when all are quoted."""
    known = set(_TOKEN.findall(question))
    for call in calls:
        known |= set(_TOKEN.findall(call.name))
        known |= set(_TOKEN.findall(json.dumps([call.result, call.arguments], ensure_ascii=False, default=str)))
    return [number for number in _TOKEN.findall(text) if number not in known]


def boxes_of(calls: Sequence[ToolCall]) -> tuple[Box, ...]:
    """Boxes of ``ground_phrase``."""
    found = []
    for call in worked(calls):
        if call.name != "ground_phrase":
            continue
        for box in call.result.get("numbers", {}).get("boxes", ()):
            x0, y0, x1, y1 = (float(v) for v in box["xyxy"])
            label = str(box.get("label", call.arguments.get("phrase", "")))
            score, image = float(box.get("score", 0.0)), int(call.arguments.get("image", 1))
            found.append(Box(label, (x0, y0, x1, y1), score, image))
    return tuple(found)


def cases_of(calls: Sequence[ToolCall]) -> tuple[Case, ...]:
    """Cases that ``find_similar_cases`` found, each once."""
    found: dict[str, Case] = {}
    for call in worked(calls):
        if call.name == "find_similar_cases":
            for case in call.result.get("numbers", {}).get("cases", ()):
                found.setdefault(case["id"], Case(case["id"], float(case["score"]), case["title"]))
    return tuple(found.values())


def plain_name(name: str) -> str:
    """A class by its words and figures alone, small."""
    return " ".join(re.findall(r"[a-z0-9]+", name.casefold()))
