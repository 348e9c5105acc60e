"""A question with tools: run the calls it asks for, then answer from their results.

What a tool measured is quoted in its own words and numbers (:mod:`assistant.chat.compose`). The chat model answers only
what the tools leave open, and where it would have answered a closed question otherwise, that is said.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from assistant.answer import Answer, ToolCall, Usage
from assistant.chat import compose
from assistant.chat.claims import contradictions
from assistant.chat.evidence import citations
from assistant.chat.trust import Trust, confidence, trust

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.cases.library import Library
    from assistant.chat.tool_loop import Plans, Tools
    from assistant.tools.run import ToolState

_MEASURING = re.compile(
    r"how (?:many|much|large|big|dense)|count|number|percent|fraction|share|index|score|ratio|area|measure|quantif"
    r"|density",
    re.IGNORECASE,
)
NOTHING_MEASURED = "No tool gave a result, so there is not enough evidence to answer."


@dataclass
class Toolbox:
    """The tools of one question and what came of them.

    Attributes:
        library: Searched where the conversation's state names none.
        calls: Calls that ended, in their order.
        probabilities: How sure the planner was of each; that a call is right says nothing of its result, so no answer
            shows them.
        warnings: Sentences about calls that failed or a stain that does not fit.
    """

    tools: Tools = "none"
    state: ToolState | None = None
    planner: Plans | None = None
    library: Library | None = None
    calls: tuple[ToolCall, ...] = ()
    probabilities: tuple[float, ...] = ()
    warnings: list[str] = field(default_factory=list)

    def run(self, question: str, images: Sequence[Image], stop: threading.Event | None = None) -> Iterator[ToolCall]:
        """Plan and run; every call is yielded as it ends.

        Raises:
            BadInput: A tool that does not exist. NotAvailable: There is no planner.
        """
        if isinstance(self.tools, str) and self.tools == "none":
            return
        from assistant.chat.tool_loop import facts_of, offered_tools, run_loop, stain_note
        from assistant.tools.run import ToolState

        offered = offered_tools(self.tools)
        state = self.state if self.state is not None else ToolState()
        state.images = list(images)
        if not state.store and self.library is not None:
            state.store = self.library.url
        facts = facts_of(images)
        try:
            for called in run_loop(question, offered, state, planner=self.planner, stop=stop):
                call = called.call
                self.calls += (call,)
                self.probabilities += (called.probability,)
                if call.status != "ok":
                    self.warnings.append(f"{call.name} gave no result ({call.status})")
                note = stain_note(call, facts)
                if note is not None:
                    self.warnings.append(note)
                yield call
        finally:
            if self.state is None:
                state.close()


def answer_with_tools(
    assistant: Any, prepared: Any, box: Toolbox, stop: threading.Event | None
) -> Iterator[str | Answer]:
    """Text and the answer, after the calls.

    Args:
        assistant: The :class:`~assistant.assistant.Assistant`, for what the tools leave open.
        prepared: Its prepared question.
    """
    said = _report(box.calls, prepared.asked.stem)
    if prepared.asked.closed:
        yield from _closed(assistant, prepared, box, said)
    elif compose.worked(box.calls):
        yield said
        yield _answer(assistant, prepared, box, said, confidence(box.calls))
    else:
        yield from _without_result(assistant, prepared, box, said, stop)


def _closed(assistant: Any, p: Any, box: Toolbox, said: str) -> Iterator[str | Answer]:
    mapped = compose.option_chances(p.asked, box.calls)
    own = None
    for piece in assistant._closed(p):
        if isinstance(piece, Answer):
            own = piece
    assert own is not None  # noqa: S101
    answer = own
    if mapped is not None:
        best = max(range(len(mapped.chances)), key=mapped.chances.__getitem__)
        label = p.asked.labels[best]
        sure, basis = _sure(mapped, label)
        chance = mapped.chances[best] if sure is None else sure
        answer = assistant._answer(replace(p, empty=False), label, chance, own.usage.completion_tokens)
        answer = replace(
            answer,
            options=dict(zip(p.asked.labels, mapped.chances, strict=True)),
            confidence=0.0 if sure is None else sure,
            warnings=(*answer.warnings, basis),
        )
        if own.best_guess != label:
            doubt = f"the chat model without {mapped.call.name} would answer {own.best_guess}"
            answer = replace(answer, warnings=(*answer.warnings, doubt))
    answer = replace(
        answer,
        text=f"{answer.text}\n\n{said}",
        boxes=compose.boxes_of(box.calls),
        cases=compose.cases_of(box.calls),
    )
    yield answer.text
    yield answer


def _sure(mapped: compose.Mapped, label: str) -> tuple[float | None, str]:
    """Confidence of an option that a tool decided, and what it rests on; None where nothing was measured."""
    best = max(mapped.chances)
    if mapped.how == "flag":
        basis = trust(mapped.call)
        return basis.value, basis.basis
    if mapped.how == "count":
        spread = f"{compose.COUNT_SPREAD:.0%}"
        said = f"confidence {best:.2f}: by how far the options are from the count of {mapped.call.name}"
        return best, f"{said}, taken to be off by about {spread}"
    basis = trust(mapped.call, mapped.told)
    told = compose.plain_name(mapped.told)
    if basis.value is None or (told not in compose.plain_name(label) and mapped.told not in ("normal", "abnormal")):
        return best, f"confidence {best:.2f}: the share of the options that {mapped.call.name} gives this one"
    return basis.value, basis.basis


def _without_result(
    assistant: Any, p: Any, box: Toolbox, said: str, stop: threading.Event | None
) -> Iterator[str | Answer]:
    """No call worked: the chat model answers on its own, unless it would have to make a measurement up."""
    yield f"{said}\n\n"
    own = None
    if not _MEASURING.search(p.asked.stem):
        for piece in assistant._open(p, stop, max_new_tokens=64, temperature=0.0, top_p=1.0, generator=None):
            if isinstance(piece, Answer):
                own = piece
    if own is None or re.search(r"\d", own.text):
        yield NOTHING_MEASURED
        answer = _answer(assistant, p, box, f"{said}\n\n{NOTHING_MEASURED}", Trust(0.0, ""))
        yield replace(answer, abstained=True)
        return
    yield own.text
    yield replace(own, text=f"{said}\n\n{own.text}")


def _answer(assistant: Any, p: Any, box: Toolbox, text: str, sure: Trust) -> Answer:
    """An open answer; where nothing was measured its confidence is 0 and the reason is among the warnings."""
    return Answer(
        text=text,
        confidence=0.0 if sure.value is None else sure.value,
        abstained=False,
        best_guess=text,
        boxes=compose.boxes_of(box.calls),
        cases=compose.cases_of(box.calls),
        warnings=(*p.warnings, sure.basis) if sure.basis else p.warnings,
        model=assistant.name,
        usage=Usage(len(p.ids), 0),
        seconds=time.perf_counter() - p.began,
    )


def _report(calls: Sequence[ToolCall], question: str = "") -> str:
    """The tools' sentences, and what in the question they contradict; cases found are listed with their numbers."""
    cases = compose.cases_of(calls)
    others = [c for c in calls if not (cases and c.status == "ok" and c.name == "find_similar_cases")]
    blocks = [compose.report(others)] if others else []
    return "\n\n".join([*blocks, *contradictions(question, calls), *citations(cases, None, ())])
