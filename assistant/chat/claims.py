"""Where a question claims something that a tool's result contradicts, that is said: in code, with both numbers.

"I counted 900 nuclei, please check" beside a tool that finds 120; "there are no glands" beside one that finds 7; "the
cytologist calls this cervical cell normal" beside the class carcinoma in situ. The tool is called all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from assistant.answer import ToolCall
from assistant.chat.arguments import MPP
from assistant.chat.compose import COUNT_SPREAD, log_ratio, plain_name, quantity, tables, worked
from assistant.chat.grammar import numbers_in
from assistant.chat.which_image import ORDINALS, SPELLED

#: A share differs from one in percent by more than this many points.
POINTS = 10.0
_PICTURE = r"(?:images?|pictures?|photos?|fields?|micrographs?|views?|tiles?|slides?|sections?|patch(?:es)?|scans?)"
#: A number that says which image, and claims nothing.
_NUMBERED = re.compile(
    rf"\b{_PICTURE}\s*(?:no\.?|number|nr\.?|#)?\s*(\d{{1,3}}|{'|'.join(SPELLED)})\b(?!\s*(?:µm|um|micro|%|percent))"
    rf"|\b(\d{{1,2}})(?:st|nd|rd|th)\s+{_PICTURE}\b|\b({'|'.join(ORDINALS)})\s+(?:{_PICTURE}|one)\b|\b(last)\s+{_PICTURE}\b",
    re.IGNORECASE,
)
_COMPARISON = re.compile(
    r"\b(?:more|fewer|less|greater|over|under|above|below|at least|at most|exceeds?|between|top|nearest|closest)\b",
    re.I,
)
_NONE = re.compile(
    r"\b(?:no|not (?:a single|one|any)|isn't (?:a single|any)|aren't any|without(?: any)?|zero)\s+$", re.I
)
_THINGS = re.compile(
    r"\b(nuclei|nucleus|cells?|glands?|crypts?|platelets?|thrombocytes?|(?:red|white) (?:blood )?cells?)\b",
    re.I,
)
_SENTENCE = re.compile(r"(?<=[.?!;\n])\s+")


def contradictions(question: str, calls: Sequence[ToolCall]) -> list[str]:
    """A sentence for each claim of the question that a result does not bear out."""
    found = []
    for call in worked(calls):
        numbers = call.result.get("numbers", {})
        said = _number(question, numbers) or _absence(question, numbers) or _label(question, numbers) or _sharp(
            question, numbers
        )  # fmt: skip
        if said:
            claimed, measured = said
            found.append(f"This contradicts the question, which speaks of {claimed}: {call.name} gives {measured}.")
    return found


def _number(question: str, numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    for sentence in _SENTENCE.split(question):
        if sentence.rstrip().endswith("?") or _COMPARISON.search(sentence):
            continue
        bare = MPP.sub(" ", _NUMBERED.sub(" ", sentence))
        claimed, measured = numbers_in(bare), quantity(bare, numbers)
        if len(claimed) != 1 or measured is None:
            continue
        percent = re.search(r"%|per ?cent", bare, re.IGNORECASE) is not None
        apart = (
            abs(claimed[0] - measured) > POINTS if percent else abs(log_ratio(measured, claimed[0])) > 2 * COUNT_SPREAD
        )
        if apart:
            sign = " %" if percent else ""
            return f"{claimed[0]:g}{sign}", f"{measured:g}{sign}"
    return None


def _absence(question: str, numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    for thing in _THINGS.finditer(question):
        if _NONE.search(question[: thing.start()]):
            measured = quantity(thing.group(0), numbers)
            if measured is not None and measured >= 1:
                return f"no {thing.group(0)}", f"{measured:g}"
    return None


def _label(question: str, numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    """One class is named in a sentence that is no question, and another was found."""
    label = numbers.get("label")
    if not isinstance(label, str):
        return None
    told = " ".join(s for s in _SENTENCE.split(question) if not s.rstrip().endswith("?")).casefold()
    classes = {plain_name(name) for table in tables(numbers) for name in table}
    named = [name for name in classes if re.search(rf"\b{re.escape(name)}\b", plain_name(told))]
    if " or " in told or len(named) > 1:
        return None
    summary = numbers.get("summary")
    if not named and summary in ("normal", "abnormal"):
        mentioned = re.findall(r"\b(normal|benign|abnormal|dysplastic|malignant)\b", told)
        kinds = {"normal" if word in ("normal", "benign") else "abnormal" for word in mentioned}
        if len(kinds) == 1 and summary not in kinds:
            return str(mentioned[0]), f"{label} ({summary})"
        return None
    return (named[0], label) if named and named[0] != plain_name(label) else None


def _sharp(question: str, numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    blurred = numbers.get("blurred")
    if not isinstance(blurred, bool):
        return None
    told = " ".join(s for s in _SENTENCE.split(question) if not s.rstrip().endswith("?"))
    if re.search(r"\b(?:or|whether|if|check that|make sure|rule out)\b", told, re.IGNORECASE):
        return None
    sharp = re.search(r"\b(?:is|are|perfectly|looks?|seems?) (?:\w+ )?(?:sharp|in focus|crisp)\b", told, re.IGNORECASE)
    dull = re.search(
        r"\b(?:is|are|looks?|seems?) (?:\w+ ){0,2}(?:blurr(?:ed|y)|fuzzy|out of focus)\b", told, re.IGNORECASE
    )
    if sharp and not dull and blurred:
        return "a sharp image", "a blurred one"
    if dull and not sharp and not blurred:
        return "a blurred image", "a sharp one"
    return None
