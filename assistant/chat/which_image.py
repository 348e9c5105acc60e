"""Which of several images a request means: "img 3", "the middle one", "not the first", "the other", "both of them".

A mention is a place in the text that names an image. It is put aside where its part of the sentence says that the image
does not matter ("the second is just the overview, ignore it"); what is left is meant, and where all but one image are
put aside that one is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_NOUN = (
    r"(?:images?|imgs?|pictures?|pics?|photos?|photographs?|fields?|micrographs?|views?|tiles?|slides?|sections?"
    r"|patch(?:es)?|scans?|panels?|smears?|films?|cells?|cores?|crops?|shots?|frames?|samples?|specimens?|spots?"
    r"|attachments?|files?|captures?|regions?|biops(?:y|ies)|snapshots?|figures?)"
)
#: Characters of a text that are read.
LONGEST = 4000
_NEAR, _FAR = 48, 160
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
SPELLED = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_UNIT = r"(?!\s*(?:µm|μm|um\b|nm\b|mm|mpp|micro|mic\b|px|pixel|%|percent|x\b|×))(?![.,]?\d)"
_WORDS = r"(?:\s+(?!of\b|in\b|on\b|to\b|and\b|or\b|is\b|for\b)[\w&+-]+){0,2}"
#: After "the second": what shows that no noun of something else follows.
_ENDS = (
    r"(?=\s*(?:'s|’s|[,.;:!?)–—-]|$)|\s+(?:as|is|was|are|were|to|and|or|but|only|into|onto|like|with|from|by|has|had"
    r"|came|comes|please|pls|plz|looks?|instead|rather|alone|should|could|can|be|needs?|for|of|in|isn|doesn|if|then"
    r"|that|which|image|will|would|does|did|it|now|thanks)\b)"
)
_FIRST = "|".join(ORDINALS)
_ANY_NUMBER = rf"\d{{1,2}}|(?:{'|'.join(SPELLED)})\b"
_ENTRY = rf"(?:{_WORDS}\s+(?:{_NOUN}|one)\b)"
#: Ways to name an image; the name of the group says how its text is read.
_MENTION = re.compile(
    "|".join((
        rf"\b(?P<before_last>penultimate|second[- ](?:to[- ])?last|last but one)\b{_ENTRY}?",
        rf"\b{_NOUN}\s*(?:no\b\.?|number|nr\b\.?|num\b\.?|#|№)?\s*\(?(?P<noun>{_ANY_NUMBER}){_UNIT}",
        rf"(?:#|№|\bno\.|\bno(?=\s*\d)|\bnumber|\bnr\.?|\bnum\.?)\s*(?P<sign>{_ANY_NUMBER}){_UNIT}",
        rf"\b(?P<nth>\d{{1,2}})(?:st|nd|rd|th)\b(?:{_ENTRY}|{_ENDS})",
        rf"\b(?P<ordinal>{_FIRST}){_ENTRY}",
        rf"\bthe\s+(?:very\s+)?(?P<bare>{_FIRST})\b{_ENDS}",
        rf"\b(?P<plain>{_FIRST})(?=\s+(?:to|onto|like)\s+(?:the\s+)?(?:{_FIRST}|last)\b)",
        rf"\b(?:to|onto|like)\s+(?P<towards>{_FIRST}){_ENDS}",
        rf"\b(?P<last>last|final|bottom){_ENTRY}",
        rf"\bthe\s+(?P<end>last|latter){_ENDS}",
        rf"\b(?P<middle>middle|cent(?:re|er|ral))\s+(?:{_NOUN}|one)\b",
        rf"\b(?:{_NOUN}|one)\s+in\s+the\s+(?P<amid>middle|cent(?:re|er))\b",
        rf"\bthe\s+(?P<former>former){_ENDS}",
        rf"\b(?P<side>left|right)(?:[- ]?(?:hand|most))?\s+(?:{_NOUN}|one)\b",
        rf"\b(?:{_NOUN}|one)\s+(?:on|to|at)\s+(?:the\s+)?(?:far\s+)?(?P<at>left|right)\b|\((?P<noted>left|right)\)",
        rf"(?<!on )(?<!to )(?<!at )\bthe\s+(?P<alone>left|right){_ENDS}",
        rf"\bthe\s+(?P<other>other)(?:{_ENTRY}|{_ENDS})",
        r"(?:(?<=\d to )|(?<=\d onto )|(?<=\d and )|(?<=\d, )|(?<=\dand )|(?<=not ))(?P<pair>[1-9])\b(?![.,]?\d)",
        rf"(?<=\w and )(?P<listed>{'|'.join(SPELLED[1:])})\b"
        r"(?=\s+(?:\w+\s+){0,3}(?:already|are|were|came|have|can|should)\b)",
        rf"\b(?:{_NOUN}|in|from|only|just|ignore|skip|score|measure|count|of)\s+(?P<letter>[A-D])\b(?!['’.]?\w)",
        rf"\bthe\s+(?P<rest>one\s+(?:that\s+)?(?:remains|remaining|between|left)|remaining\s+(?:\w+\s+)?(?:{_NOUN}|one))\b",
        rf"\b(?P<opening>opening|initial)\s+(?:{_NOUN}|one)\b|\bat the (?P<finish>very end|end)\b(?=\s*[.,;?!]|\s*$)",
        r"\((?P<bracket>\d)\)",
        r"(?<![\w.,/])(?P<digit>[1-9])(?=\s*(?:->|→|=>)|['’]s"
        r"|,\s*(?:not\s+)?[1-9]\b(?![.,]?\d)|:\s"
        r"|\s+(?:is|was|came|comes|has|have|are|were|and|to|onto|like|with|alone|only)\b)",
        r"(?:->|→|=>|\b(?:to|onto|and|like|is|of|with|against|in|on|for|from|i\.e\.))\s*(?P<after>[1-9])"
        r"(?=\s*(?:[,.;:!?)]+(?:\s|$)|$)"
        rf"|\s+(?:and|or|to|was|is|please|pls|which|that|with|then|for|alone|only|so)\b){_UNIT}",
    )),
    re.IGNORECASE,
)  # fmt: skip
#: A part of a sentence: what is said of an image in one does not hold for those of the next.
_PART = re.compile(
    rf"[.;!?\n]+(?=\s|$)|,\s+(?!(?:and\s+|not\s+)*[1-9]\b)|\s+(?:but|while|whereas|so)\s+"
    rf"|\s+and\s+(?!(?:[1-9]|{'|'.join(SPELLED)})\b)|\s*[–—]\s*|:\s+"
)
_SENTENCE = re.compile(r"[.;!?\n]+(?=\s|$)")
_ASIDE = re.compile(
    r"\bignor\w*|\bdisregard|\bnever ?mind|\bforget\b|\bskip|\birrelevant|\bno longer|\bdiscard|\bexclud|\buseless"
    r"|\bleave (?:it|that|this)\b|\bfor (?:orientation|reference only|context|nothing)\b|\bagreed on\b"
    r"|\bby (?:accident|mistake)|\bwithout interest|\bsent (?:only )?for context|\blabelled (?:\w+ )?already"
    r"|(?:\b(?:is|was|are|were|there|it)|['’]s)\s+(?:just|only|merely|simply)\s+(?:for|an?|the|my|our|there)\b"
    r"|\b(?:is|was|are|were)\s+(?:\w+\s+)?(?:an?|the|our|my)\s+(?:[\w&-]+\s+){0,3}"
    r"(?:control|overview|duplicate|macro|label|h&e|thumbnail|mistake)\b"
    r"|\balready (?:done|scored|counted|know|have|been|measured)|\bdone with\b"
    r"|\b(?:is|was|are|were) (?:fine|done|ok|okay|crushed|damaged|unusable|spoil(?:ed|t)|torn|empty|blank)\b"
    r"|(?:\b(?:isn'?t|not)|n'?t)\s+(?:needed|relevant|important|concerned|of interest|matter|to be)"
    r"|\b(?:don'?t|do not|doesn'?t|does not|didn'?t|no)\s+"
    r"(?:care|bother|need|want|touch|use|matter|interest|look|count|concern|analy|measure|run)\w*",
    re.IGNORECASE,
)
_NOT = re.compile(
    r"\b(?:not|neither|nor|instead of|rather than|except(?: for)?|other than|unlike|without|not counting|apart from)"
    r"(?:\s+(?:on|in|for|from|with|of|the|my|that|this))*\s*$",
    re.IGNORECASE,
)
_EVERY = re.compile(
    rf"\b(?:both|all|each|every)(?:\s+of)?(?:\s+(?:the|these|those|my|our|them))?(?:\s+(?:two|three|four|\d))?\s+{_NOUN}\b"
    r"|\b(?:both|all|each)\s+of\s+(?:them|these|those)\b|\ball\s+(?:two|three|four)\b|\bfor each,"
    r"|\b(?:in|on|of|for|from|across|at|per)\s+(?:both|each)(?:\b(?!\s+(?!one)\w)|\s*(?:[,.;:!?]|$|so\b|and\b|please|pls))"
    r"|\beach\s*(?:one)?\s*(?:[.?!]|$)|\bside by side\b(?!\s+fig)|\beither (?:image|picture|field|slide)",
    re.IGNORECASE,
)
#: All of them, where none is named.
_SET = re.compile(
    rf"\b(?:the|these|those|my|our)\s+(?:two|three|four|pair)\b(?!\s+(?!{_NOUN}|of (?:them|these|those)\b)\w)"
    r"|\bthe pair\b|\bboth\s+(?:were|are|have|come|came)\b|\bone and then (?:on )?the other\b",
    re.IGNORECASE,
)
_ONLY = re.compile(r"\b(?:only|just|solely|purely)(?:\s+(?:on|in|for|from|of|at|the))*\s*$", re.IGNORECASE)
_ALONE = re.compile(r"\s+(?:only|alone)\b", re.IGNORECASE)
_LEFT_ALONE = re.compile(r"\bleave\b[^.;!?]*\b(?:out|alone|aside)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """An image that a text names.

    Attributes:
        number: From 1.
        start, end: Where in the text.
        aside: The text says that it does not matter.
        only: The text says that no other does.
    """

    number: int
    start: int
    end: int
    aside: bool = False
    only: bool = False


def mentions(text: str, images: int, made: int = 0) -> list[Mention]:
    """Images that a text names, in its order; ``made`` as in :func:`meant`."""
    out: list[Mention] = []
    text = text[:LONGEST]
    parts = _parts(text)
    left_alone = [m.span() for m in _LEFT_ALONE.finditer(text)]
    for match in _MENTION.finditer(text):
        number = _number(match, images, out)
        if number is None or not 1 <= number <= images + made:
            continue
        start, end = match.start(match.lastgroup or 0), match.end()
        only = bool(_ONLY.search(text[max(0, start - _NEAR) : start]) or _ALONE.match(text, end))
        aside = any(a < start < b for a, b in left_alone) or _put_aside(text, match.start(), end, parts)
        out.append(Mention(number, match.start(), end, aside, only))
    return out


def _parts(text: str) -> list[tuple[int, int, str]]:
    """Parts of the sentences: where each starts and ends, and what follows it."""
    out, start = [], 0
    for match in _PART.finditer(text):
        out.append((start, match.start(), match.group()))
        start = match.end()
    return [*out, (start, len(text), "")]


def _number(match: re.Match[str], images: int, before: Sequence[Mention]) -> int | None:
    kind, word = match.lastgroup, (match.group(match.lastgroup) if match.lastgroup else "").casefold()
    if kind in ("noun", "sign", "nth", "bracket", "digit", "after", "pair", "listed"):
        return SPELLED.index(word) + 1 if word in SPELLED else int(word)
    if kind in ("ordinal", "bare", "plain", "towards"):
        return ORDINALS.index(word) + 1
    if kind in ("last", "end", "finish"):
        return images
    if kind == "before_last":
        return images - 1
    if kind in ("middle", "amid"):
        return (images + 1) // 2 if images % 2 else None
    if kind in ("side", "at", "noted", "alone"):
        return 1 if word == "left" else images
    if kind in ("former", "opening"):
        return 1
    if kind == "letter":
        return "abcd".index(word) + 1
    named = {m.number for m in before}  # the other: the only one not named
    left = [n for n in range(1, images + 1) if n not in named]
    if word.endswith("between") and not named and images % 2:
        return (images + 1) // 2
    return left[0] if named and len(left) == 1 else None


def _put_aside(text: str, start: int, end: int, parts: Sequence[tuple[int, int, str]]) -> bool:
    """Whether the words around a mention say that this image does not matter."""
    at = bisect_right(parts, start, key=lambda part: part[0]) - 1
    first, last, separator = parts[at]
    before, after = text[max(first, start - _FAR) : start], text[start : min(max(last, end), end + _FAR)]
    if _NOT.search(before) or _ASIDE.search(before + after):
        return True
    # "The second is the overview, ignore it": the next part of the sentence speaks of the same image.
    if at + 1 < len(parts) and not _SENTENCE.match(separator):
        following = text[parts[at + 1][0] : parts[at + 1][1]]
        return bool(_ASIDE.search(following)) and not _MENTION.search(following)
    return False


def meant(text: str, images: int, made: int = 0) -> list[int]:
    """Numbers of the images a text means, each once, in its order; none where it names none.

    Args:
        made: Pictures made since, which are numbered after the ``images`` sent and are meant by their number only.
    """
    text = text[:LONGEST]
    found = mentions(text, images, made)
    out = {m.number for m in found if m.aside}
    if only := list(dict.fromkeys(m.number for m in found if m.only and not m.aside)):
        return only
    kept = list(dict.fromkeys(m.number for m in found if not m.aside))
    left = [n for n in range(1, images + 1) if n not in out]
    if _EVERY.search(text) or (not kept and _SET.search(text)):
        return left
    return kept or (left if found and len(left) == 1 else [])


_TARGET = r"(?:reference|template|target|standard|exemplar|example|model)\b"
_FROM = re.compile(  # the colours of A, for B
    r"\b(?:apply|transfer|copy|take|borrow|impose|project|use|put)\b[^.;!?]{0,60}$", re.IGNORECASE
)
_TOWARDS = re.compile(
    r"\b(?:to|like|onto|into|after|from|with|match(?:es|ing)?|against|as|than|resemble|by)"
    r"(?:\s+(?:that|those|the|what|of|in|my|our|colou?rs?|hues?|palette|stain(?:ing)?|look|tones?|appearance)){0,5}\s*$"
    r"|(?:->|→|=>)\s*$",
    re.IGNORECASE,
)

_WITH = re.compile(  # give it the colours of A
    r"\b(?:give|take|apply|use|adopt|borrow|lend)\b[^.;!?]{0,40}"
    r"\b(?:colou?rs?|hues?|palette|stain(?:ing)?|look|tones?|appearance)\s+(?:of|from|in)\s*$",
    re.IGNORECASE,
)


def recoloured(text: str, images: int) -> tuple[int, int] | None:
    """(image, reference) of a request to give one image the colours of another; None where the words leave it open.

    Args:
        images: Images sent, two or more.
    """
    text = text[:LONGEST]
    found = mentions(text, images)
    numbers = list(dict.fromkeys(m.number for m in found))
    references = {m.number for m in found if _is_reference(text, m)}
    if len(references) == 1:
        reference = references.pop()
        left = [n for n in numbers if n != reference and not any(m.number == n and m.aside for m in found)]
        left = left or [n for n in numbers if n != reference]
        if not left and images == 2:
            left = [3 - reference]
        return (left[0], reference) if left else None
    kept = list(dict.fromkeys(m.number for m in found if not m.aside))
    if len(kept) == 2 and not references:
        first, second = kept
        at = next(m for m in found if m.number == first)
        if _FROM.search(text[: at.start]):
            return second, first
        if re.search(r"\blike\s+(?:the\s+)?$", text[: at.start], re.I):
            return second, first
        return first, second
    if len(numbers) == 1 and images == 2:
        (only,) = numbers
        before = text[: found[0].start]
        return (3 - only, only) if _TOWARDS.search(before) or _WITH.search(before) else (only, 3 - only)
    return None


_BEFORE_IT = re.compile(
    rf"\b{_TARGET}(?:\s*(?:[=:,]|is|being|will be|should be|from|are))*\s*(?:the\s+)?$", re.IGNORECASE
)
_AFTER_IT = re.compile(
    r"(?:['’]s)?\s*(?:[=(,:]|is|as|being|was|should be|will be|for|to be|serv(?:es|ing) as)"
    rf"(?:\s+(?:the|our|my|a|an|is|be|serve|act|as|[\w&-]+)){{0,3}}?\s*{_TARGET}"
    rf"(?!\s*(?:[=:]|is\b)?\s*(?:the\s+)?(?:{_NOUN}\s*)?(?:(?:number|no\.?)\s*|#)?\d)",  # that of another image
    re.IGNORECASE,
)


def _is_reference(text: str, mention: Mention) -> bool:
    """Whether the words next to a mention call the image the one to be like."""
    before = text[max(0, mention.start - _NEAR) : mention.start]
    return bool(_BEFORE_IT.search(before) or _AFTER_IT.match(text[mention.end : mention.end + _NEAR]))
