"""Arguments of our own tools that the words of a request settle: which image, pixel size, how many cases, which marker.

What is left (texts to search for, phrases to box, which image is the reference) the language model writes. Every value
is checked against the tool's parameters, so that nothing is proposed that its schema does not allow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from assistant.chat.grammar import FunctionTool, Parameter, numbers_in

_PICTURE = r"(?:images?|pictures?|photos?|fields?|micrographs?|views?|tiles?|slides?|sections?|patch(?:es)?|scans?)"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_SPELLED = ("one", "two", "three", "four", "five", "six", "seven", "eight")
NUMBERED = re.compile(
    rf"\b{_PICTURE}\s*(?:no\.?|number|nr\.?|#)?\s*(\d{{1,3}}|{'|'.join(_SPELLED)})\b(?!\s*(?:µm|um|micro|%|percent))"
    rf"|\b(\d{{1,2}})(?:st|nd|rd|th)\s+{_PICTURE}\b|\b({'|'.join(_ORDINALS)})\s+(?:{_PICTURE}|one)\b|\b(last)\s+{_PICTURE}\b",
    re.IGNORECASE,
)
_UNIT = r"(?:µm|μm|um|microns?|micromet(?:er|re)s?|mpp)"
MPP = re.compile(
    rf"(\d*\.?\d+)\s*{_UNIT}\b(?!\s*(?:wide|long|thick))|(?:pixel size|resolution|mpp)\D{{0,12}}?(\d*\.?\d+)", re.I
)
_THRESHOLD = re.compile(r"threshold\D{0,12}?(\d*\.\d+|\d+)", re.IGNORECASE)
#: Words that decide an enum: argument, value, pattern; the first that is found counts.
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("compartment", "membrane", r"\bher-?2|\berbb-?2|membran|\bpd-?l1|\btps\b|\bcps\b"),
    ("method", "vahadane", r"\bvahadane"), ("method", "reinhard", r"\breinhard"), ("method", "macenko", r"\bmacenko"),
    ("method", "classical", r"\bclassical|\bwatershed"),
    ("site", "colorectal", r"\bcolo(?!u)|bowel|polyp|\brect(?:um|al)|sigmoid|caec|cecum|intestin"),
    ("site", "lung", r"\blung|pulmon|bronch"), ("site", "oral", r"\boral|\bmouth|tongue|gingiv"),
    ("site", "lymph node", r"lymph node|\bnodal"),
)  # fmt: skip


#: Words of an order that points back: what is meant was named before ("Where is the largest gland? Box it.").
_POINTING = re.compile(
    r"a|about|again|also|and|around|at|be|box|boxed|boxes|bounding|can|circle|could|draw|find|for|frame"
    r"|have|highlight|i|in|indicate|is|it|its|just|like|locate|mark|me|my|now|of|on|one|outline|ones|out"
    r"|place|please|point|put|rectangle|ring|see|show|so|spot|tell|that|the|them|then|there|these|they|this"
    r"|those|thanks|to|too|us|want|where|which|with|would|you"
)


def points_back(clause: str) -> bool:
    """Whether a clause names nothing itself."""
    return all(_POINTING.fullmatch(word) for word in re.findall(r"[^\W\d_]+", clause.casefold()))


def images_named(text: str) -> list[int]:
    """Numbers of the images that a text names, in their order; 0 stands for the last one."""
    found = []
    for number, nth, ordinal, last in NUMBERED.findall(text):
        word = (number or ordinal or nth).casefold()
        if last:
            found.append(0)
        elif word in _ORDINALS:
            found.append(_ORDINALS.index(word) + 1)
        else:
            found.append(_SPELLED.index(word) + 1 if word in _SPELLED else int(word))
    return found


def settled(
    tool: FunctionTool, clause: str, question: str, images: int, made: int
) -> tuple[dict[str, Any], tuple[Parameter, ...]]:
    """Arguments the words settle, and the parameters that are left to the language model.

    Args:
        clause: The part of the question that asks for the tool.
        images: Images sent. made: Pictures that earlier calls of this turn made, numbered after those; a tool that
            follows works on the last of them unless its clause names another.
    """
    out: dict[str, Any] = {}
    left = []
    references = [p for p in tool.parameters if p.kind == "image" and p.name != "image"]
    for parameter in tool.parameters:
        if parameter.kind == "image":
            if references and images + made > 1:
                left.append(parameter)
            else:
                out[parameter.name] = _image(clause, question, images, made)
        elif parameter.kind == "string":
            left.append(parameter)
        else:
            value = _value(parameter, clause, question)
            if value is not None:
                out[parameter.name] = value
            elif parameter.required:
                left.append(parameter)
    return out, tuple(left)


def _image(clause: str, question: str, images: int, made: int) -> int:
    named = _within(images_named(clause), images + made)
    if named:
        return named[0]
    if made:
        return images + made
    everywhere = set(_within(images_named(question), images))
    return everywhere.pop() if len(everywhere) == 1 else 1


def _within(numbers: Sequence[int], most: int) -> list[int]:
    return [n or most for n in numbers if n <= most]


def _value(parameter: Parameter, clause: str, question: str) -> Any:
    """The value that the words name and the parameter allows; None where there is none."""
    if parameter.kind == "enum":
        for name, value, pattern in _WORDS:
            if name == parameter.name and value in parameter.values and re.search(pattern, clause, re.IGNORECASE):
                return value
        return None
    match parameter.name:
        case "mpp":
            found = [float(a or b) for a, b in MPP.findall(question)]
        case "threshold":
            found = [float(v) for v in _THRESHOLD.findall(clause)]
        case "k":
            bare = MPP.sub(" ", NUMBERED.sub(" ", clause))
            found = numbers_in(re.sub(r"\b(?:this|that|which|no|the|such|only|any)\s+one\b", " ", bare, flags=re.I))
        case _:
            return None
    fitting = [v for v in found if parameter.allows(v)]
    if not fitting:
        return None
    return int(fitting[0]) if parameter.kind == "integer" else fitting[0]


def narrowed(tool: FunctionTool, fixed: dict[str, Any], left: Sequence[Parameter]) -> FunctionTool:
    """The tool with what is settled allowed one value only, and nothing else that was not left open."""
    kept = []
    for parameter in tool.parameters:
        if parameter.name in fixed:
            kept.append(replace(parameter, kind="enum", required=True, values=(fixed[parameter.name],)))
        elif parameter in left:
            kept.append(replace(parameter, required=parameter.required or parameter.kind == "image"))
    return replace(tool, parameters=tuple(kept))
