"""The runner: what a tool, a model or a user does wrong becomes a result, and the next call works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from assistant.tools import Registry, ToolState, run_call
from tests.assistant.tools import sample_tools as samples

REGISTRY = Registry(
    {
        t.name: t
        for t in (samples.brightness, samples.hang, samples.crash, samples.fail, samples.refuse, samples.closed)
    },
    {"absent": "no module named absent"},
)


@pytest.fixture(scope="module")
def state() -> Iterator[ToolState]:
    with ToolState([Image.new("RGB", (40, 40), (10, 20, 30)), Image.new("RGB", (40, 40), "white")], "faiss:x") as one:
        yield one


def test_a_call_is_checked_run_and_recorded(state: ToolState) -> None:
    call = run_call("brightness", '{"image": 2, "factor": "2"}', state, registry=REGISTRY)
    assert (call.status, call.result.numbers["value"]) == ("ok", 510.0)
    assert call.arguments == {"image": 2, "factor": 2.0, "mode": "mean"}
    assert call.result.numbers["store"] == "faiss:x"
    assert state.calls[-1] is call
    assert set(call.to_json()) == {"name", "arguments", "result", "seconds", "status"}


def test_the_worker_is_kept_and_state_is_per_conversation(state: ToolState) -> None:
    first, second = (run_call("brightness", {}, state, registry=REGISTRY) for _ in range(2))
    assert first.result.numbers["process"] == second.result.numbers["process"]
    with ToolState([Image.new("RGB", (40, 40))]) as other:
        third = run_call("brightness", {}, other, registry=REGISTRY)
        assert third.result.numbers["process"] != first.result.numbers["process"]
        assert len(other.calls) == 1


def test_a_hanging_tool_ends_visibly_and_the_next_call_works(state: ToolState) -> None:
    began = time.monotonic()
    call = run_call("hang", {}, state, registry=REGISTRY)
    assert call.status == "timeout"
    assert "ended after 1 s" in call.result.text
    assert time.monotonic() - began < 20
    assert run_call("brightness", {}, state, registry=REGISTRY).status == "ok"


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("fail", "failed", "RuntimeError: the tool broke"),
        ("crash", "failed", "ended with code 3"),
        ("refuse", "refused", "not for this stain"),
        ("nothing", "refused", "there is no tool 'nothing'"),
        ("absent", "refused", "no module named absent"),
    ],
)
def test_failures_are_results(state: ToolState, name: str, status: str, words: str) -> None:
    call = run_call(name, {}, state, registry=REGISTRY)
    assert (call.status, call.result.ok) == (status, False)
    assert words in call.result.text
    assert "\n" not in call.result.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"image": 3}', "there are 2 images"),
        ('{"image": 0}', "greater than or equal to 1"),
        ('{"image": 1, "mode": "median"}', "mode"),
        ('{"image": 1, "stain": "HE"}', "stain"),
        ("__import__('os').system('true')", "is not JSON"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_wrong_arguments_are_named_and_never_run(state: ToolState, arguments: str, words: str) -> None:
    call = run_call("brightness", arguments, state, registry=REGISTRY)
    assert call.status == "refused"
    assert words in call.result.text


def test_cancelling_ends_the_call(state: ToolState) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert run_call("hang", {}, state, stop=stop, registry=REGISTRY).status == "cancelled"


def test_research_tools_can_be_switched_off() -> None:
    with ToolState(research=False) as off:
        call = run_call("closed", {}, off, registry=REGISTRY)
        assert (call.status, "research only" in call.result.text) == ("refused", True)
