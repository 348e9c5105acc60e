"""The loop with tools that misbehave, and answers composed from results: real tools and processes, a scripted plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assistant.answer import Answer, Note, ToolCall
from assistant.chat.compose import option_chances, quantity, report, unsupported_numbers
from assistant.chat.evidence import citations
from assistant.chat.grammar import FunctionTool, from_tool
from assistant.chat.planner import MAX_STEPS, Facts, PlannedCall, Step
from assistant.chat.prompt import Turn, parse_question
from assistant.chat.tool_loop import offered_tools, run_loop
from assistant.errors import BadInput
from assistant.tools import Registry, ToolState
from tests.assistant.tools import sample_tools


class Script:
    """A planner that plays calls in order and keeps what it was shown."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls, self.seen = calls, []

    def plan(
        self, question: str, tools: Sequence[FunctionTool], facts: Facts, done: Sequence[Step] = ()
    ) -> PlannedCall | None:
        self.seen.append((question, facts, tuple(done)))
        return PlannedCall(*self.calls[len(done)], 0.9) if len(done) < len(self.calls) else None


TOOLS = {
    t.name: t
    for t in (
        sample_tools.brightness,
        sample_tools.hang,
        sample_tools.crash,
        sample_tools.fail,
        sample_tools.refuse,
    )
}
REGISTRY = Registry(TOOLS)


def loop(script: Script, images: list[Image.Image]) -> list[ToolCall]:
    tools = [from_tool(tool) for tool in TOOLS.values()]
    with ToolState(images) as state:
        return [c.call for c in run_loop("q", tools, state, planner=script, registry=REGISTRY)]


@pytest.mark.slow
def test_hanging_crashing_raising_and_refusing_tools_are_calls_like_others(field: Image.Image) -> None:
    calls = loop(Script(("hang", {}), ("crash", {}), ("fail", {}), ("brightness", {"image": 1})), [field])
    assert [c.status for c in calls] == ["timeout", "failed", "failed", "ok"]
    text = report(calls)
    assert "hang gave no result" in text
    assert "the tool broke" in text
    assert not unsupported_numbers(text, calls)


def test_the_loop_ends(field: Image.Image) -> None:
    calls = loop(Script(*[("refuse", {}) if i % 2 else ("refuse", {"n": i}) for i in range(9)]), [field])
    assert len(calls) <= MAX_STEPS
    same = loop(Script(*[("brightness", {"image": 1})] * 9), [field])
    assert len(same) == 1


def test_an_unknown_tool_is_refused_before_anything_runs() -> None:
    with pytest.raises(BadInput, match="no tool"):
        offered_tools(["count_unicorns"])
    with pytest.raises(BadInput, match="auto, none"):
        offered_tools("all")


@pytest.fixture
def dots() -> Image.Image:
    """Twelve dark round nuclei on pink."""
    pixels = np.full((300, 400, 3), (235, 180, 210), dtype=np.uint8)
    y, x = np.mgrid[:300, :400]
    for i in range(12):
        pixels[(y - 50 - 100 * (i // 4)) ** 2 + (x - 50 - 100 * (i % 4)) ** 2 < 120] = (70, 40, 130)
    return Image.fromarray(pixels)


def test_an_answer_quotes_the_tool(tiny_assistant: Any, dots: Image.Image) -> None:
    script = Script(("check_quality", {"image": 1}), ("segment_nuclei", {"image": 1}))
    with ToolState() as state:
        pieces = list(
            tiny_assistant.stream(dots, "How many nuclei are there?", tools="auto", tool_state=state, planner=script)
        )
    calls = [p for p in pieces if isinstance(p, ToolCall)]
    answer = pieces[-1]
    assert isinstance(answer, Answer)
    assert [c.name for c in calls] == ["check_quality", "segment_nuclei"] == [c.name for c in answer.tools]
    assert all(c.status == "ok" for c in calls)
    count = calls[1].result["numbers"]["count"]
    assert f"{count} nuclei" in answer.text
    assert "".join(p for p in pieces if isinstance(p, str)) == answer.text
    assert not unsupported_numbers(answer.text, answer.tools)
    assert calls[1].overlay is not None
    assert answer.pathology()["tools"][1]["result"]["numbers"]["count"] == count


def test_a_made_up_number_is_found() -> None:
    call = ToolCall("segment_nuclei", {"image": 1}, {"text": "35 nuclei", "numbers": {"count": 35}}, 0.1)
    assert unsupported_numbers("There are 36 nuclei of 35.", [call]) == ["36"]


def test_a_closed_count_goes_to_the_nearest_option(tiny_assistant: Any, dots: Image.Image) -> None:
    script = Script(("segment_nuclei", {"image": 1}))
    options = ["3", "12", "60", "300"]
    answer = tiny_assistant.ask(dots, "How many nuclei?", options=options, tools="auto", planner=script)
    assert answer.best_guess == "B) 12"
    assert sum(answer.options.values()) == pytest.approx(1)


def test_a_tool_that_refuses_is_said_and_the_chat_goes_on(tiny_assistant: Any, dots: Image.Image) -> None:
    script = Script(("score_ihc", {"image": 1}))
    answer = tiny_assistant.ask(dots, "What is the Ki-67 index?", tools="auto", planner=script)
    assert answer.tools[0].status == "refused"
    assert "score_ihc gave no result" in answer.text
    assert answer.abstained
    assert any("score_ihc" in w for w in answer.warnings)
    closed = tiny_assistant.ask(dots, "Is this stained?", tools="auto", planner=script)
    assert closed.best_guess in ("Yes", "No")
    assert "score_ihc gave no result" in closed.text


def test_the_planner_is_shown_the_users_turn_only(tiny_assistant: Any, dots: Image.Image) -> None:
    class Notes:
        def search(self, *_: Any) -> list[Any]:
            return []

    script = Script()
    history = [Turn("user", "SECRET run score_ihc", (dots,)), Turn("assistant", "<tool_call>SECRET</tool_call>")]
    tiny_assistant.notes = Notes()
    try:
        answer = tiny_assistant.ask(None, "And the organ?", history=history, tools="auto", planner=script)
    finally:
        tiny_assistant.notes = None
    assert answer.tools == ()
    assert [q for q, _, _ in script.seen] == ["And the organ?"]
    assert script.seen[0][1].images == 1


def test_without_tools_nothing_is_planned(tiny_assistant: Any, dots: Image.Image) -> None:
    script = Script(("segment_nuclei", {"image": 1}))
    assert tiny_assistant.ask(dots, "How many nuclei?", planner=script).tools == ()
    assert script.seen == []


def made(name: str = "t", **numbers: Any) -> ToolCall:
    return ToolCall(name, {"image": 1}, {"text": "", "numbers": numbers}, 0.1)


def test_classes_are_mapped_to_the_options() -> None:
    asked = parse_question("Which?", ["serrated lesion", "adenocarcinoma", "liver", "villous adenoma"])
    shares = {"adenocarcinoma": 0.6, "serrated lesion": 0.2, "villous adenoma": 0.1, "normal mucosa": 0.1}
    mapped = option_chances(asked, [made(site_probabilities={"liver": 1.0, "oral": 0.0}, probabilities=shares)])
    assert mapped is not None
    assert mapped.chances == pytest.approx([2 / 9, 6 / 9, 0, 1 / 9])
    assert option_chances(parse_question("Which?", ["heart", "brain"]), [made(probabilities=shares)]) is None


@pytest.mark.parametrize(
    ("question", "numbers", "yes"),
    [
        ("Are there more than 50 nuclei?", {"count": 80}, True),
        ("Are there more than 50 nuclei?", {"count": 20}, False),
        ("Are there fewer than 50 nuclei?", {"count": 20}, True),
        ("Are there at least 50 nuclei?", {"count": 50}, True),
        ("Is the image blurred?", {"blurred": True}, True),
        ("Is the image sharp?", {"blurred": True}, False),
        ("Is this cell abnormal?", {"abnormal_probability": 0.9}, True),
        ("Is this cell normal?", {"abnormal_probability": 0.9}, False),
    ],
)
def test_yes_no_from_numbers(question: str, numbers: dict[str, Any], yes: bool) -> None:
    mapped = option_chances(parse_question(question), [made(**numbers)])
    assert mapped is not None
    assert (mapped.chances[0] > 0.5) is yes


def test_the_quantity_asked_for() -> None:
    numbers = {"counts": {"red blood cell": 90, "platelet": 4}, "cells": 94}
    assert quantity("How many platelets?", numbers) == 4
    assert quantity("How many red cells?", numbers) == 90


def test_passages_are_numbered_after_the_cases_of_a_tool() -> None:
    note = Note("a/0", 0.5, "Atlas", "Glands.")
    assert citations((), None, [note], first=4) == ["From the notes: [4] Atlas: “Glands.”"]
