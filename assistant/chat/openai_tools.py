"""OpenAI's ``tools`` and ``tool_calls``: a client's own functions, proposed by the planner and run by the client.

The planner sees the client's function list and the newest user turn, nothing else. Arguments are valid under the
function's schema by construction (:mod:`assistant.chat.grammar`); a function whose required arguments the grammar
cannot write (objects, arrays, patterns) is refused when the request is read.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistant.chat.grammar import FunctionTool, from_schema
from assistant.chat.planner import MAX_STEPS, SUMMARIES, Facts, Planner, Step, load_planner, neutral
from assistant.chat.prompt import Turn
from assistant.errors import BadInput

if TYPE_CHECKING:
    from assistant.assistant import Assistant

MAX_TOOLS = 32
_CHOICES = ("auto", "none", "required")
_RESULT_CHARS = 4_000


@dataclass(frozen=True)
class ProposedCall:
    """A call for the client to run; ``arguments`` is JSON text, as in OpenAI's format."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


def parse_tools(body: Mapping[str, Any]) -> list[FunctionTool]:
    """The functions of a request's ``tools`` (or the older ``functions``); empty where there are none.

    Raises:
        BadInput: Not a list of functions, too many, a repeated or bad name, an argument that cannot be written.
    """
    entries = body.get("tools")
    if entries is None:
        entries = [{"type": "function", "function": one} for one in body.get("functions") or ()]
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise BadInput(f"tools is a {type(entries).__name__}; it must be a list of functions")
    if len(entries) > MAX_TOOLS:
        raise BadInput(f"{len(entries)} tools were sent; at most {MAX_TOOLS} are allowed")
    found: dict[str, FunctionTool] = {}
    for entry in entries:
        function = entry.get("function") if isinstance(entry, Mapping) else None
        if not isinstance(function, Mapping) or entry.get("type", "function") != "function":
            raise BadInput('each of tools must be {"type": "function", "function": {"name": …, "parameters": …}}')
        name, schema = str(function.get("name", "")), function.get("parameters") or {}
        if name in found:
            raise BadInput(f"the tool {name[:60]!r} was sent twice; give each function its own name")
        if not isinstance(schema, Mapping):
            raise BadInput(f"the parameters of {name[:60]!r} must be a JSON schema of an object")
        described = SUMMARIES.get(name) or str(function.get("description") or name.replace("_", " "))
        # Our own tools number images; of a client's functions nothing is known but the schema.
        images = frozenset({"image", "reference"}) if name in SUMMARIES else frozenset()
        found[name] = from_schema(name, described, schema, images & frozenset(schema.get("properties") or ()))
    return list(found.values())


def parse_choice(body: Mapping[str, Any], tools: Sequence[FunctionTool]) -> str:
    """``tool_choice`` as ``"auto"``, ``"none"``, ``"required"`` or a function's name.

    Raises:
        BadInput: Anything else.
    """
    choice = body.get("tool_choice")
    if choice is None:
        return "auto" if tools else "none"
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(choice, str) or choice not in {tool.name for tool in tools}:
            raise BadInput(f"tool_choice names {str(choice)[:60]!r}, which is not among tools")
        return choice
    if choice not in _CHOICES:
        raise BadInput(f"tool_choice is {str(choice)[:60]!r}; allowed: {', '.join(_CHOICES)}, or a function")
    return str(choice)


def propose_call(
    assistant: Assistant | None,
    turns: Sequence[Turn],
    tools: Sequence[FunctionTool],
    choice: str = "auto",
    *,
    parallel: bool = True,
    planner: Planner | None = None,
) -> list[ProposedCall] | None:
    """The calls that the newest user turn asks for; None when it asks for none, or the newest turn is not the user's.

    Args:
        assistant: Not used by the shipped planner, which is a model of its own.
        choice: From :func:`parse_choice`.
        parallel: More than one call may be proposed at a time (``parallel_tool_calls``), at most four.

    Raises:
        NotAvailable: There is no trained planner.
    """
    if not tools or choice == "none" or not turns or turns[-1].role != "user":
        return None
    planner = load_planner() if planner is None else planner
    newest = turns[-1]
    images = next((len(turn.images) for turn in reversed(turns) if turn.images), 0)
    named = {tool.name: tool for tool in tools}
    calls: list[ProposedCall] = []
    done: list[Step] = []
    while len(calls) < (MAX_STEPS if parallel else 1):
        planned = planner.plan(newest.text, tools, Facts(images), done, choice=choice if not calls else "auto")
        if planned is None or any(s.tool.name == planned.name and s.arguments == planned.arguments for s in done):
            break
        calls.append(ProposedCall(planned.name, json.dumps(planned.arguments, ensure_ascii=False)))
        done.append(Step(named[planned.name], planned.arguments, ok=True))
        if choice not in ("auto", "required"):
            break
    return calls or None


def tool_calls_json(calls: Sequence[ProposedCall]) -> list[dict[str, Any]]:
    """``message.tool_calls`` of a reply whose ``finish_reason`` is ``"tool_calls"``."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def answer_from_results(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The reply to messages that end with ``role: "tool"``: each result as the client sent it, under its tool's name.

    None when they do not. The text is quoted and never planned on, so it cannot make a call.

    Raises:
        BadInput: A result that belongs to no call of the conversation.
    """
    results: list[Mapping[str, Any]] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        results.insert(0, message)
    if not results:
        return None
    names = {
        call.get("id"): (call.get("function") or {}).get("name", "")
        for message in messages
        for call in message.get("tool_calls") or ()
        if isinstance(call, Mapping)
    }
    blocks = []
    for message in results:
        call = message.get("tool_call_id")
        if call not in names:
            raise BadInput(f"the tool result {str(call)[:60]!r} belongs to no call; send the tool_calls as well")
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        text = neutral(str(content or "")).strip() or "no content"
        blocks.append(f"`{names[call]}`: {text[:_RESULT_CHARS]}")
    return "\n\n".join(blocks)
