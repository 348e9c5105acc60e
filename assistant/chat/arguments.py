"""Arguments of our own tools that the words of a request settle: which image, pixel size, how many cases, which marker.

What is left (texts to search for, phrases to box, which image is the reference) the language model writes. Every value
is checked against the tool's parameters, so that nothing is proposed that its schema does not allow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from assistant.chat.grammar import FunctionTool, Parameter, digits_for_words
from assistant.chat.phrase import phrase_of
from assistant.chat.which_image import meant, recoloured

_MICROMETRE = r"(?:µm|μm|um|mu|mic|microns?|micromet(?:er|re)s?)"
_PIXEL = r"(?:pix(?:els?)?|px)"
#: Sizes of a pixel, in micrometres, in nanometres, or pixels in a micrometre.
MPP = re.compile(
    rf"(?P<per>\d*\.?\d+)\s*{_PIXEL}\s*(?:/|per|to (?:a|the|one)|in (?:a|one)|a)\s*(?:1\s*)?{_MICROMETRE}\b"
    rf"|(?P<nm>\d+(?:\.\d+)?)\s*(?:nm|nanomet(?:er|re)s?)\b"
    rf"|(?P<um>\d*\.?\d+)\s*(?:{_MICROMETRE}|mpp)\b(?!\s*(?:wide|long|thick|sections?|cuts?|across|in diameter))"
    r"|(?:pixel size|resolution|mpp)\D{0,12}?(?P<size>\d*\.?\d+)",
    re.IGNORECASE,
)
_THRESHOLD = re.compile(r"\b(?:thresh(?:old)?|cut-?off)\b\D{0,12}?(\d*\.\d+|\d+)", re.IGNORECASE)
_FOUND = (
    r"(?:cases?|hits?|look-?alikes?|neighbou?rs?|match(?:es)?|examples?|results?|precedents?|nearest|closest|similar)"
)
#: How many cases: "ten hits", "top 7", "3 similar cases".
_HOW_MANY = re.compile(rf"\b(?:top|best|k\s*=)\s*(\d+)\b|\b(\d+)\s+(?:[\w-]+\s+){{0,3}}?{_FOUND}\b", re.IGNORECASE)
#: What narrows a search for cases, as far as words announce it.
_NARROWED = re.compile(
    r"\b(?:keywords?|the words?|terms?|restrict\w*(?: \w+){0,3} to|narrow\w*(?: \w+){0,3} (?:to|by|with))\s*:?\s*"
    r"(?:the (?:keywords?|words?|terms?):?\s*)?(?:[\"“]([^\"“”]{3,80})[\"”]|([^.;:!?,\"“”]{3,80}))",
    re.IGNORECASE,
)
_MASKS = re.compile(r"\b(?:outlin|contour|mask|trac(?:e|ing)|delineat|silhouette)", re.IGNORECASE)
#: Words that decide an enum: argument, value, pattern; the first that is found counts.
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("compartment", "membrane", r"\bher-?2|\berbb-?2|membran|\bpd-?l1|\btps\b|\bcps\b|cadherin|\begfr|claudin"),
    ("method", "vahadane", r"\bvahadane"), ("method", "reinhard", r"\breinhard"), ("method", "macenko", r"\bmacenko"),
    ("method", "classical", r"\bclassical|\bwatershed"),
    ("method", "network", r"\b(?:with|by|using|the|go for|deep|neural)\s+(?:\w+\s+)?net(?:work)?\b|\bnetwork method"),
    ("site", "colorectal", r"\bcolo(?!u)|bowel|polyp|\brect(?:um|al)|sigmoid|caec|cecum|intestin"),
    ("site", "lung", r"\blung|pulmon|bronch"), ("site", "oral", r"\boral|\bmouth|tongue|gingiv"),
    ("site", "lymph node", r"lymph node|\bnodal"),
)  # fmt: skip


#: Words of an order that points back: what is meant was named before ("Where is the largest gland? Box it.").
_POINTING = re.compile(
    r"a|about|again|also|and|around|at|be|box|boxed|boxes|bounding|can|circle|could|draw|find|for|frame"
    r"|have|highlight|i|image|in|indicate|is|it|its|just|like|locate|mark|me|my|now|of|on|one|outline|ones|out"
    r"|do|field|photo|picture|place|please|point|put|rectangle|ring|see|show|slide|so|spot|tell|that|the|them"
    r"|then|there|these|they|this|those|thanks|to|too|us|want|where|which|will|with|would|you"
)
#: Words that say no more of cases than that some are searched for.
_SEARCHING = re.compile(
    r"a|about|again|ago|alikes?|all|also|an|and|any|anything|appearance|attached|archiv(?:e|ed|es|al)|are|at|before|best|bring|by"
    r"|can|cases?|clos(?:e|est)|collection|come|comes|compar(?:able|e|ison)|could|databases?|dig|do|does|earlier|every"
    r"|examples?|f(?:etch|ields?|iles?|ind|irst|rom|or)|get|give|go|had|has|have|here|how|i|images?|in|into|is|it|its|kept|last|librar(?:y|ies)"
    r"|like|list|look|look(?:alikes?|ing|s)|many|match(?:es|ing)?|me|met|mine|more|most|my|near(?:est)?|neighbou?rs?|new"
    r"|of|old|older|on|one|ones|or|other|others|our|ours|out|past|pattern|photos?|pictures?|please|pls|precedents?"
    r"|previous|pull|put|query|records?|resembl(?:e|es|ing)|results?|retrieve|reverse|s|same|search|second|seen|show|similar"
    r"|similarity|slides?|so|some|something|stored?|such|thanks|that|the|their|them|then|there|these|this|those|through"
    r"|to|top|try|under|up|us|using|very|we|what|which|with|would|years?|you|your"
)


def points_back(clause: str) -> bool:
    """Whether a clause names nothing itself."""
    return all(_POINTING.fullmatch(word) for word in re.findall(r"[^\W\d_]+", clause.casefold()))


def says_what(text: str) -> bool:
    """Whether a text to search cases for says more than that cases are searched for."""
    return any(not _SEARCHING.fullmatch(word) for word in re.findall(r"[^\W\d_]+", text.casefold()))


def images_asked(
    clause: str, question: str, images: int, remade: Mapping[int, int], references: Collection[int] = ()
) -> list[int]:
    """Numbers of the images that a tool is asked to work on, at least one.

    Args:
        clause: The part of the question that asks for the tool.
        images: Images sent.
        remade: Image → the picture that an earlier call of this turn made of it, numbered after those sent; what is
            asked of an image holds for that picture, and without a word the tool works on the last of them.
        references: Images that gave their colours to others; beside those they are named for that alone.
    """
    if images + len(remade) < 2:
        return [1]
    named = meant(clause, images, len(remade))
    if not named and remade:
        return [max(remade.values())]
    named = [number for number in named if number not in references] or named
    named = named or meant(question, images) or [1]
    return list(dict.fromkeys(remade.get(number, number) for number in named))


def settled(
    tool: FunctionTool, clause: str, question: str, image: int, room: int
) -> tuple[dict[str, Any], tuple[Parameter, ...]]:
    """Arguments the words settle, and the parameters that are left to the language model.

    Args:
        clause: The part of the question that asks for the tool.
        image: Which of :func:`images_asked` the call is for.
        room: Images there are, those that earlier calls made included.
    """
    out: dict[str, Any] = {}
    left = []
    others = [p.name for p in tool.parameters if p.kind == "image" and p.name != "image"] if room > 1 else []
    if others == ["reference"] and (pair := recoloured(question, room)):
        out["image"], out["reference"] = pair
    for parameter in tool.parameters:
        if parameter.kind == "image":
            if not others:
                out[parameter.name] = image
            elif parameter.name not in out:
                left.append(parameter)
        elif parameter.kind == "string":
            words = said_of(parameter.name, clause, question)
            if words:
                out[parameter.name] = words[: parameter.longest]
            else:
                left.append(parameter)
        else:
            value = _value(parameter, clause, question)
            if value is not None:
                out[parameter.name] = value
            elif parameter.required:
                left.append(parameter)
    return out, tuple(left)


def said_of(name: str, clause: str, question: str) -> str:
    """A text argument that words announce: what to box, or what narrows a search; "" where none do."""
    if name == "text":
        found = _NARROWED.search(clause) or _NARROWED.search(question)
        words = (found.group(1) or found.group(2)).strip() if found else ""
        return words if says_what(words) else ""
    return phrase_of(clause, question) if name == "phrase" else ""


def _value(parameter: Parameter, clause: str, question: str) -> Any:
    """The value that the words name and the parameter allows; None where there is none."""
    if parameter.name == "masks":
        asks = clause if phrase_of(clause, "") else question
        return True if _MASKS.search(asks) else None
    if parameter.kind == "enum":
        for text in (clause, question):  # "By Vahadane, please: image 1 as image 2"
            for name, value, pattern in _WORDS:
                if name == parameter.name and value in parameter.values and re.search(pattern, text, re.IGNORECASE):
                    return value
        return None
    match parameter.name:
        case "mpp":
            found = pixel_sizes(question)
        case "threshold":
            found = [float(v) for v in _THRESHOLD.findall(question)]
        case "k":
            found = [float(a or b) for text in (clause, question) for a, b in _HOW_MANY.findall(digits_for_words(text))]
        case _:
            return None
    fitting = [v for v in found if parameter.allows(v)]
    if not fitting:
        return None
    return int(fitting[0]) if parameter.kind == "integer" else fitting[0]


def pixel_sizes(text: str) -> list[float]:
    """Micrometres a pixel, as far as a text states them, in its order."""
    out = []
    for match in MPP.finditer(text):
        value = float(match.group(match.lastgroup or "um"))
        if match.lastgroup == "per":
            value = 1 / value if value else 0.0
        elif match.lastgroup == "nm":
            value /= 1000
        out.append(round(value, 6))
    return out


def narrowed(tool: FunctionTool, fixed: dict[str, Any], left: Sequence[Parameter]) -> FunctionTool:
    """The tool with what is settled allowed one value only, and nothing else that was not left open."""
    kept = []
    for parameter in tool.parameters:
        if parameter.name in fixed:
            kept.append(replace(parameter, kind="enum", required=True, values=(fixed[parameter.name],)))
        elif parameter in left:
            kept.append(replace(parameter, required=parameter.required or parameter.kind == "image"))
    return replace(tool, parameters=tuple(kept))
