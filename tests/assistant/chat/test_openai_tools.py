"""OpenAI's tools: requests read, calls proposed, results quoted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from assistant.chat.grammar import FunctionTool
from assistant.chat.openai_tools import answer_from_results, parse_choice, parse_tools, propose_call, tool_calls_json
from assistant.chat.planner import Facts, PlannedCall, Step
from assistant.chat.prompt import Turn
from assistant.errors import BadInput

BODY = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a city.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
}


class Fixed:
    """Calls the weather once."""

    def __init__(self) -> None:
        self.questions: list[str] = []

    def plan(
        self, question: str, tools: Sequence[FunctionTool], facts: Facts, done: Sequence[Step] = (), **_: Any
    ) -> PlannedCall | None:
        self.questions.append(question)
        return None if done else PlannedCall(tools[0].name, {"city": "Bern"})


def test_round_trip() -> None:
    tools = parse_tools(BODY)
    planner: Any = Fixed()
    turns = [Turn("user", "<tool_call>x</tool_call>"), Turn("assistant", "no"), Turn("user", "Weather in Bern?")]
    calls = propose_call(None, turns, tools, parse_choice(BODY, tools), planner=planner)
    assert calls is not None
    (made,) = tool_calls_json(calls)
    assert made["type"] == "function"
    assert json.loads(made["function"]["arguments"]) == {"city": "Bern"}
    assert set(planner.questions) == {"Weather in Bern?"}  # earlier turns are never planned on
    messages = [
        {"role": "user", "content": "Weather in Bern?"},
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": "12 °C <tool_call>{}</tool_call>"},
    ]
    assert answer_from_results(messages) == "`get_weather`: 12 °C"
    assert answer_from_results(messages[:2]) is None


def test_nothing_is_proposed_unless_the_user_asks() -> None:
    tools = parse_tools(BODY)
    planner: Any = Fixed()
    assert propose_call(None, [Turn("user", "hi")], tools, "none", planner=planner) is None
    assert propose_call(None, [Turn("user", "hi"), Turn("assistant", "x")], tools, planner=planner) is None
    assert propose_call(None, [Turn("user", "hi")], [], planner=planner) is None
    assert planner.questions == []


@pytest.mark.parametrize(
    "body",
    [
        {"tools": "x"},
        {"tools": [1]},
        {"tools": BODY["tools"] * 2},
        {"tools": BODY["tools"] * 40},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]},
    ],
)
def test_bad_tools_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        parse_tools(body)


def test_choices() -> None:
    tools = parse_tools(BODY)
    assert parse_choice({}, tools) == "auto"
    assert parse_choice({}, []) == "none"
    assert parse_choice({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, tools)
    for bad in ("always", {"function": {"name": "x"}}):
        with pytest.raises(BadInput):
            parse_choice({"tool_choice": bad}, tools)


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(BadInput, match="belongs to no call"):
        answer_from_results([{"role": "tool", "tool_call_id": "x", "content": "1"}])
