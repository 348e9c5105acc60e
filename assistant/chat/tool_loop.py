"""The tool loop: plan, call, look at how it went, plan again, at most four calls a question.

Planning is :mod:`assistant.chat.planner`; tools run in the worker process of :mod:`assistant.tools.run`, so one that
hangs, raises or refuses becomes a call with that status, which the answer shows, and the chat goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from assistant.answer import ToolCall
from assistant.chat.grammar import FunctionTool, from_tool
from assistant.chat.planner import MAX_STEPS, SUMMARIES, Facts, PlannedCall, Step, load_planner
from assistant.errors import BadInput, PathAssistError
from assistant.tools.registry import Registry, find_tools
from assistant.tools.run import ToolCall as Ran
from assistant.tools.run import ToolState, run_call

if TYPE_CHECKING:
    from PIL.Image import Image

Tools = Literal["auto", "none"] | Sequence[str]
_STAINS = {"H&E-like": "H&E", "DAB immunostain": "DAB immunostain", "other or uncertain": "other stain"}


class Plans(Protocol):
    """What the loop needs of a planner."""

    def plan(
        self, question: str, tools: Sequence[FunctionTool], facts: Facts, done: Sequence[Step] = ()
    ) -> PlannedCall | None:
        """The next call or None; see :meth:`assistant.chat.planner.Planner.plan`."""


@dataclass(frozen=True)
class Called:
    """A call that ended, and how sure the planner was of it."""

    call: ToolCall
    probability: float


def offered_tools(tools: Tools, registry: Registry | None = None, *, library: bool = True) -> list[FunctionTool]:
    """The tools a question may use.

    Args:
        tools: ``"auto"`` for all, ``"none"``, or names.
        library: Whether there is a case library; without one ``find_similar_cases`` is offered by name only.

    Raises:
        BadInput: A name that is not registered.
    """
    known = find_tools() if registry is None else registry
    if isinstance(tools, str):
        if tools not in ("auto", "none"):
            raise BadInput(
                f"tools is {tools[:40]!r}; allowed: auto, none, or a list of names ({', '.join(known.tools)})"
            )
        names = list(known.tools) if tools == "auto" else []
    else:
        names = [known[name].name for name in tools]
    order = {name: i for i, name in enumerate(SUMMARIES)}
    names = sorted(dict.fromkeys(names), key=lambda name: order.get(name, len(order)))
    return [from_tool(known.tools[name], SUMMARIES.get(name, "")) for name in names]


def facts_of(images: Sequence[Image]) -> Facts:
    """What the program can say about the images without a model."""
    from assistant.tools.fields import guess_stain

    return Facts(len(images), _STAINS[guess_stain(images[0])[0]] if images else "")


def run_loop(
    question: str,
    tools: Sequence[FunctionTool],
    state: ToolState,
    *,
    planner: Plans | None = None,
    registry: Registry | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Called]:
    """The calls a question needs, each as it ends.

    Args:
        question: The user's own turn; nothing else may be put in here.
        state: Holds the images that calls number; pictures that tools make are added to it.

    Raises:
        NotAvailable: There is no trained planner.
    """
    if not tools:
        return
    planner = load_planner() if planner is None else planner
    named = {tool.name: tool for tool in tools}
    sent = len(state.images)
    facts = facts_of(state.images)
    done: list[Step] = []
    while len(done) < MAX_STEPS and not (stop is not None and stop.is_set()):
        facts = Facts(sent, facts.stain, len(state.images) - sent)
        planned = planner.plan(question, tools, facts, done)
        if planned is None or any(s.tool.name == planned.name and s.arguments == planned.arguments for s in done):
            return
        ran = run_call(planned.name, planned.arguments, state, stop=stop, registry=registry)
        _keep_picture(ran, state)
        yield Called(as_answer(ran), planned.probability)
        done.append(Step(named[planned.name], planned.arguments, ran.status == "ok"))


def as_answer(ran: Ran) -> ToolCall:
    """A call as answers hold it."""
    overlay = next(iter(ran.result.overlays.values()), None)
    return ToolCall(ran.name, ran.arguments, ran.result.to_json(), round(ran.seconds, 3), ran.status, overlay)


def _keep_picture(ran: Ran, state: ToolState) -> None:
    """A normalised field becomes the next image, for calls after it."""
    made = ran.result.overlays.get("normalised") if ran.status == "ok" else None
    if made is not None:
        state.images.append(made)


def stain_note(call: ToolCall, facts: Facts, registry: Registry | None = None) -> str | None:
    """A sentence where the field does not look like any stain the tool is meant for."""
    if not facts.stain or facts.stain == "other stain":
        return None
    try:
        stains: Any = (find_tools() if registry is None else registry)[call.name].card.stains
    except PathAssistError:
        return None
    if not stains or any(facts.stain in s or s in facts.stain or ("DAB" in s and "DAB" in facts.stain) for s in stains):
        return None
    return f"{call.name} is meant for {' and '.join(stains)}, and the field looks like {facts.stain}"
