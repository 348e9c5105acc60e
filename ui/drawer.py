"""The drawer at the side: which model answers, what it may use, and when it declines.

It is opened from the bar at the top and closed by its button or Escape (``static/page.js``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from assistant.errors import PathAssistError
from assistant.tools.registry import find_tools
from ui.evidence import error_html, escape, info_html
from ui.models import Models, Offer
from ui.tools import label_of

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
_HEAD = (
    '<div class="pa-drawer-head"><h2>Settings</h2>'
    '<button type="button" class="pa-plain" data-drawer="close">Close</button></div>'
)


class Change(NamedTuple):
    """New values of what a change of the model changes, in the order of the outputs."""

    model: Any = KEEP
    said: Any = KEEP
    threshold: Any = KEEP
    facts: Any = KEEP
    cases: Any = KEEP
    header: Any = KEEP
    hint: Any = KEEP


def drawer(
    models: Models, *, header: gr.HTML, bar: Callable[[str], str], hint: gr.HTML, hint_of: Callable[[Any], str],
    takes_tools: bool,
) -> list[Any]:  # fmt: skip
    """Put the drawer onto the page under construction.

    Args:
        header: The bar at the top; ``bar`` makes its content for what is said of the model.
        hint: The line below the question box; ``hint_of`` makes its content for an assistant.
        takes_tools: The assistant can call tools.

    Returns:
        Components whose values follow the records among the inputs of ``Chat.respond``. What a program that asks over
        the API need not send is a state.
    """
    first = models.first
    offers = models.offers()
    with gr.Column(elem_id="pa-settings", min_width=0):
        gr.HTML(_HEAD, padding=False, js_on_load=None)
        model = gr.Radio(
            [offer.name for offer in offers if not offer.why_not],
            value=first.name,
            label="Model",
            info="For this conversation; what was said so far is kept. Others are not affected.",
            elem_id="pa-model",
        )
        said = gr.HTML("", elem_id="pa-model-said", padding=False, js_on_load=None)
        gr.HTML(missing_html(offers), elem_id="pa-model-missing", padding=False, js_on_load=None)
        threshold = gr.Slider(
            0,
            1,
            value=threshold_of(first),
            step=0.01,
            label="Answer only from this confidence on",
            info="Below it, the assistant says that there is not enough evidence.",
        )
        switches = _tool_switches(takes_tools)
        cases, use_cases = _case_switch(first)
        length = gr.Slider(16, 512, value=128, step=16, label="Longest answer, in tokens")
        variation = gr.Slider(
            0,
            1.5,
            value=0,
            step=0.1,
            label="Variation",
            info="0 always gives the likeliest words; above it, asking again may give others.",
        )
        facts = gr.HTML(_facts(first), elem_id="pa-state", padding=False, js_on_load=None)

    def change(name: str, limit: float, request: gr.Request) -> Iterator[Change]:
        """Load the other model behind a line that says so; where that fails, the old one stays."""
        session = str(getattr(request, "session_hash", None) or "")
        old = models.of(session)
        if name == old.name:
            yield Change()
            return
        yield Change(gr.update(interactive=False), loading_html(name, old.name), header=bar(f"loading {name} …"))
        try:
            made = models.choose(session, name)
        except PathAssistError as error:
            problem = f"the model {name} was not loaded: {error}. {old.name} stays in use"
        except Exception:
            log.exception("a model could not be loaded")
            problem = f"internal error: {name} was not loaded; the terminal has the details. {old.name} stays in use"
        else:
            before = threshold_of(old)
            yield Change(
                gr.update(value=made.name, interactive=True),
                info_html(f"{made.name} answers from the next question on."),
                threshold_of(made) if limit == before else KEEP,
                _facts(made),
                gr.update(interactive=_library_of(made) is not None),
                bar(made.name),
                hint_of(made),
            )
            return
        yield Change(gr.update(value=old.name, interactive=True), error_html(problem), header=bar(old.name))

    model.input(
        change, [model, threshold], list(Change(model, said, threshold, facts, cases, header, hint)),
        show_progress="hidden", api_visibility="private", concurrency_id="load", concurrency_limit=1,
    )  # fmt: skip
    return [threshold, length, variation, *switches, use_cases]


def missing_html(offers: Sequence[Offer]) -> str:
    """The presets that cannot be loaded here, each with the reason."""
    rows = "".join(
        f"<dt>{escape(offer.name)}</dt><dd>{escape(_sentence(offer.why_not))}</dd>" for offer in offers if offer.why_not
    )
    if not rows:
        return ""
    count = sum(1 for offer in offers if offer.why_not)
    what = "1 other cannot be loaded here" if count == 1 else f"{count} others cannot be loaded here"
    return f'<details class="pa-missing"><summary>{what}</summary><dl>{rows}</dl></details>'


def loading_html(name: str, old: str) -> str:
    """While a model is loaded."""
    return (
        f'<div class="notice busy" role="status" aria-busy="true"><p>Loading {escape(name)} … The conversation is '
        f'kept, and {escape(old)} answers until it is ready.</p><div class="bone" aria-hidden="true"></div></div>'
    )


def threshold_of(assistant: Any) -> float:
    """The calibrated confidence below which an assistant declines."""
    return round(float(getattr(getattr(assistant, "calibration", None), "threshold", 0.5)), 2)


def _tool_switches(takes_tools: bool) -> list[gr.State]:
    """Which tools the assistant may call; all off where nothing could plan the calls.

    Returns:
        Their names and whether research-only ones may run, as states.
    """
    ready = takes_tools and _can_plan()
    names = find_tools().tools
    tools = gr.CheckboxGroup(
        [(label_of(name), name) for name in names],
        value=list(names) if ready else [],
        label="Tools the assistant may use",
        info="None ticked: it answers from the image alone."
        if ready
        else "Not available: the model that plans tool calls is missing. The Tools tab runs each by hand.",
        interactive=ready,
        elem_id="pa-tool-switches",
    )
    research = gr.Checkbox(True, label="Allow tools trained on research-only data", elem_id="pa-research")
    return [_mirror(tools), _mirror(research)]


def _case_switch(assistant: Any) -> tuple[gr.Checkbox, gr.State]:
    ready = _library_of(assistant) is not None
    box = gr.Checkbox(
        ready,
        label="Show similar cases",
        info="From the case library in use." if ready else "There is no case library; start with --library.",
        interactive=ready,
        elem_id="pa-similar",
    )
    return box, _mirror(box)


def _mirror(box: gr.Checkbox | gr.CheckboxGroup) -> gr.State:
    """A state with the value of a box."""
    value = box.value
    state = gr.State(list(value) if isinstance(value, list) else value)
    box.change(lambda value: value, box, state, queue=False, show_progress="hidden", api_visibility="private")
    return state


def _can_plan() -> bool:
    from assistant.chat import planner
    from assistant.model.vlm import WEIGHTS

    return (WEIGHTS / planner.NAME / "adapter_model.safetensors").is_file()


def _library_of(assistant: Any) -> Any:
    return getattr(assistant, "library", None)


def _facts(assistant: Any) -> str:
    """Model, library and notes in use, without their places."""
    rows = {
        "Preset": assistant.name,
        "Case library": "in use" if _library_of(assistant) is not None else "none (start with --library)",
        "Notes": "in use" if getattr(assistant, "notes", None) is not None else "none (start with --notes)",
    }
    return '<dl class="pa-facts">' + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in rows.items()) + "</dl>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
