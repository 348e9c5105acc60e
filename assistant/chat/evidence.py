"""Numbered evidence for an answer: similar cases from a library, passages from notes, and whether the cases agree.

The language model neither sees this evidence nor writes the citations: a model of its size cannot be trusted to. Cases
are found by the image, passages by the question and the answer; both are listed after the answer, and the labels of
the cases are compared with its words. That comparison is of words: it knows no synonyms, and of negation only the
plain kind ("no", "not", "without" shortly before).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assistant.answer import Answer, Case, Note
from assistant.chat.prompt import YES_NO, Question, Turn
from assistant.errors import PathAssistError

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.cases.library import Library
    from assistant.cases.notes import Notes
    from retrieval import records

CASES = 5
PASSAGES = 3
#: Passages less alike than this to question and answer are not quoted: MiniLM gives unrelated texts about 0 to 0.2.
MIN_PASSAGE = 0.3
_HEAD = "Similar cases: [1] "
_NOTES_HEAD = "From the notes: ["
_QUOTE_CHARS = 240
_LABELS = ("diagnosis", "organ", "stain")
_NEGATIONS = {"no", "not", "non", "without", "never"}
_NEGATION_REACH = 3  # words


@dataclass(frozen=True)
class Support:
    """How the labels of the cases go with an answer.

    Attributes:
        state: ``"supported"``, ``"unsupported"``, or ``"unknown"`` where labels say nothing about such an answer.
        text: One sentence for the user.
    """

    state: str
    text: str


def with_evidence(
    answer: Answer, asked: Question, images: Sequence[Image], library: Library | None, notes: Notes | None
) -> Answer:
    """The answer with cases, passages and citations; unchanged where there is nothing to cite.

    A library that cannot be searched becomes a warning: the answer itself is not lost.
    """
    warnings = list(answer.warnings)
    hits: list[records.Hit] = []
    if library is not None and images:
        try:
            hits = library.search(list(images), k=CASES)
        except PathAssistError as error:
            warnings.append(f"similar cases could not be searched: {error}")
    cases: tuple[Case, ...] = answer.cases  # found and listed by a tool already
    if library is not None and hits:
        cases = tuple(
            Case(hit.case.id, round(hit.score, 4), hit.case.title, library.thumbnail_uri(hit.case)) for hit in hits
        )
    found: list[Note] = []
    if notes is not None:
        try:
            passages = notes.search(f"{asked.stem}\n{_plain_claim(answer, asked)}".strip(), PASSAGES)
            found = [
                Note(f"{p.document}/{p.place}", round(p.score, 4), p.title, p.text)
                for p in passages
                if p.score >= MIN_PASSAGE
            ]
        except PathAssistError as error:
            warnings.append(f"the notes could not be searched: {error}")
    support = judge(answer, asked, [hit.case for hit in hits]) if hits else None
    listed = citations(cases, support, found) if hits else citations((), None, found, first=len(cases) + 1)
    blocks = [answer.text.rstrip(), *listed]
    return replace(
        answer,
        text="\n\n".join(blocks) if len(blocks) > 1 else answer.text,
        cases=cases,
        notes=tuple(found),
        support=support.state if support else "",
        support_text=support.text if support else "",
        warnings=tuple(warnings),
    )


def citations(
    cases: Sequence[Case], support: Support | None, notes: Sequence[Note], *, first: int | None = None
) -> list[str]:
    """Paragraphs to put after an answer; cases are numbered from 1, notes go on from there or from ``first``."""
    blocks = []
    if cases:
        titles = [" ".join(case.title.split()) or "untitled" for case in cases]
        listed = "; ".join(f"[{n}] {t} ({c.score:.2f})" for n, (t, c) in enumerate(zip(titles, cases, strict=True), 1))
        blocks.append(f"Similar cases: {listed}." + (f"\n{support.text}" if support else ""))
    if notes:
        start = len(cases) + 1 if first is None else first
        quoted = "\n".join(f"[{n}] {note.title}: “{_short(note.text)}”" for n, note in enumerate(notes, start))
        blocks.append(f"From the notes: {quoted}")
    return blocks


def without_evidence(turn: Turn) -> Turn:
    """An earlier answer as the model gave it: its citations are no words of the model's and only fill its context."""
    if turn.role != "assistant":
        return turn
    starts = [place for mark in (_HEAD, _NOTES_HEAD) if (place := turn.text.find("\n\n" + mark)) >= 0]
    return replace(turn, text=turn.text[: min(starts)].rstrip()) if starts else turn


def judge(answer: Answer, asked: Question, cases: Sequence[records.Case]) -> Support:
    """Whether any case has a label that the answer names.

    For a closed question the words are those of the option chosen; for "yes", those of the question. "No" names
    nothing that a label could confirm.
    """
    claim = _plain_claim(answer, asked)
    if asked.options == YES_NO:
        if not claim.casefold().startswith("yes"):
            return Support("unknown", "Labels of similar cases cannot confirm a “no”.")
        claim = asked.stem
    labelled = [(n, labels) for n, case in enumerate(cases, 1) if (labels := _labels(case))]
    if not labelled:
        return Support("unknown", "The similar cases have no labels to compare the answer with.")
    agreeing = [n for n, labels in labelled if any(_names(claim, label) for label in labels)]
    if agreeing:
        numbers = ", ".join(f"[{n}]" for n in agreeing)
        return Support("supported", f"Named in the labels of {numbers}, {len(agreeing)} of {len(cases)} similar cases.")
    return Support(
        "unsupported", f"No supporting case: none of the {len(cases)} similar cases has a label that the answer names."
    )


def _plain_claim(answer: Answer, asked: Question) -> str:
    """What the answer says, without an option's letter."""
    if asked.closed and answer.best_guess in asked.labels:
        return asked.options[asked.labels.index(answer.best_guess)]
    return answer.best_guess


def _labels(case: records.Case) -> list[str]:
    return [value for name in _LABELS if (value := getattr(case, name))]


def _names(claim: str, label: str) -> bool:
    """Whether a claim holds the words of a label, in their order and not negated."""
    words, wanted = _words(claim), _words(label)
    for start in range(len(words) - len(wanted) + 1):
        before = words[max(0, start - _NEGATION_REACH) : start]
        if wanted and words[start : start + len(wanted)] == wanted and not _NEGATIONS & set(before):
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _short(text: str) -> str:
    return text if len(text) <= _QUOTE_CHARS else text[:_QUOTE_CHARS].rsplit(" ", 1)[0] + " …"
