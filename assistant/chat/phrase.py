"""What a request wants boxed, where its words announce it: "a box around the largest gland", "where is the stroma"."""

from __future__ import annotations

import re

_MARK = (
    r"(?:box|bounding box|rectangle|frame|ring|circle|arrow|marker|contours?|outlines?|masks?|coordinates?|position"
    r"|place)"
)
#: What comes before the thing.
_BEFORE = re.compile(
    rf"\b{_MARK}(?:es)?\s+(?:a?round|about|on(?:to)?|over|at|for|of|to)\s+"
    r"|\b(?:point(?:ing)?\s+(?:me\s+)?(?:to|at|out)|locate|locali[sz]e|pinpoint|highlight|indicate|circle|frame|outline"
    r"|encircle|trace"
    r"|delineate|mark(?:\s+out)?|box|find)\s+(?:out\s+|for me\s+|me\s+|with a box\s+|by a box\s+)?"
    r"|\bwhich\s+(?:corner|side|part|half|quadrant|area|region)\s+(?:is|are|has|have|holds?|contains?)\s+"
    r"|\bwhere(?:abouts)?(?:['’]s|\s+(?:is|are|do\s+(?:you|i)\s+see|can\s+(?:i|you)\s+(?:see|find)))\s+"
    r"|\bshow(?:\s+(?:to\s+)?me)?(?:\s+please)?(?:\s+where)?\s+(?=(?:the|an?|all|every|each)\b)"
    rf"|\bput\s+(?:an?|the)\s+{_MARK}\s+(?:a?round|about|on|over|at)\s+"
    r"|\bwhere\s+(?=(?:the|an?|all)\b)",
    re.IGNORECASE,
)
#: What comes after it.
_AFTER = re.compile(
    r"[.,;:?!()\n\"“”]|\s[-–—]\s"
    r"|\s+(?:please|pls|plz|thanks|for\s+(?:me|us|my|the|a)|so\s+(?:that|i|we)|because|since|as\s+i|if\b|when\b|then\b"
    r"|which|that\s+(?:is|are|i)|lies|lie|sits|sit|is|are|was|were|can|could|might|should|would|to\s+(?:me|be|paste|use)"
    r"|with\s+(?:an?|its|their|the)?\s*(?:\w+\s+)?(?:box|boxes|rectangle|frame|arrow|circle|ring|score|coordinates)"
    r"|and\s+(?!(?:the\s+)?\w+\s+(?:nucle|cell|gland))|but|also|plus|by\s+a\s+box"
    r"|(?:in|on|of|from|within)\s+(?:the\s+|this\s+|my\s+|that\s+|our\s+|attached\s+)*(?:\w+\s+)?"
    r"(?:images?|imgs?|pictures?|pics?|photos?|fields?|slides?|scans?|screen|panels?|micrographs?|smears?|first|second"
    r"|third|last|other|number|no\.|it|here|there|\d)|here|there|on\s+this|in\s+this)\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"^(?:(?:me|please|out|exactly|any|all|where|of|to|at|the\s+(?:position|location|place|outlines?|contours?)\s+of|some|just)\s+)+",
    re.I,
)
#: What names nothing itself.
_EMPTY = re.compile(
    r"(?:it|them|this|that|these|those|one|ones|here|there|thing|things|out|me|us|both|each|each one|spot|place|will do"
    r"|would be|needed|enough)(?: |$)",
    re.IGNORECASE,
)
_WORDS = 10


def phrase_of(clause: str, question: str) -> str:
    """The thing to box as it is written, with its qualifiers; "" where the words do not announce one.

    Args:
        clause: The part of the question that asks for a box; where it announces nothing the whole question may.
    """
    return _announced(clause) or _announced(question)


def _announced(text: str) -> str:
    for match in _BEFORE.finditer(text):
        rest = text[match.end() :]
        end = _AFTER.search(rest)
        found = (rest[: end.start()] if end else rest).strip()
        found = _LEAD.sub("", found + " ").strip()
        bare = re.sub(r"^(?:the|an?)\s+", "", found, flags=re.IGNORECASE)
        if bare and not _EMPTY.match(f"{bare} ") and len(found.split()) <= _WORDS and re.search(r"[^\W\d_]{3}", bare):
            return found
    return ""
