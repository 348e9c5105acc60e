"""Tools, grounding, MCP and the request options of the API, against a real server; SIGTERM during an answer."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.fakes import EchoAssistant
from tests.serving import image_part, serving, user, wait_for

mcp = pytest.importorskip("mcp")

from assistant.errors import BadInput  # noqa: E402
from assistant.mcp_server import Images, build_server  # noqa: E402

CHAT = "/v1/chat/completions"


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(EchoAssistant(), mcp=True) as found:
        yield found


def test_tools_are_listed_with_schema_and_card(address: str) -> None:
    rows = {row["name"]: row for row in httpx.get(f"{address}/v1/tools", timeout=60).json()["data"]}
    assert rows["check_quality"]["function"]["parameters"]["properties"]["image"]["type"] == "integer"
    assert rows["check_quality"]["card"]["task"]


def test_a_tool_runs_over_http(address: str, field: Image.Image) -> None:
    body = {"images": [f"data:image/png;base64,{encoded(field)}"], "arguments": {"image": 1}, "overlays": True}
    reply = httpx.post(f"{address}/v1/tools/check_quality", json=body, timeout=120).json()
    assert (reply["status"], reply["result"]["ok"]) == ("ok", True)
    assert reply["result"]["numbers"]
    for change, status, code in (
        ({"images": []}, 400, "tool_refused"),
        ({"arguments": {"no_such": 1}}, 400, "tool_refused"),
        ({"images": ["/etc/passwd"]}, 400, "invalid_input"),
        ({"images": 5}, 400, "invalid_input"),
    ):
        wrong = httpx.post(f"{address}/v1/tools/check_quality", json=body | change, timeout=120)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (status, code), wrong.text
    assert httpx.post(f"{address}/v1/tools/rm", json=body).json()["error"]["code"] == "tool_not_found"


def test_grounding_gives_boxes_or_says_what_is_missing(address: str, field: Image.Image) -> None:
    uri = f"data:image/png;base64,{encoded(field)}"
    reply = httpx.post(f"{address}/v1/ground", json={"image": uri, "phrase": "red blood cell"}, timeout=120)
    assert reply.status_code in (200, 503), reply.text
    if reply.status_code == 200:
        assert all(len(row["xyxy"]) == 4 for row in reply.json()["data"])
    else:
        assert reply.json()["error"]["code"] == "not_available"
    for body in ({"image": uri, "phrase": ""}, {"image": uri}, {"image": uri, "phrase": "x" * 401}):
        assert httpx.post(f"{address}/v1/ground", json=body).status_code == 400
    assert httpx.post(f"{address}/v1/ground", json={"image": "/etc/passwd", "phrase": "x"}).status_code == 400


def test_request_options_are_checked(address: str) -> None:
    for options, says in (
        ({"region": [0, 0, 5]}, "region"),
        ({"region": [5, 0, 1, 9]}, "inside"),
        ({"tools": 5}, "tools"),
        ({"ground": ""}, "ground"),
    ):
        body = {"model": "echo", "messages": [user(image_part(base64.b64decode(PIXELS)), "x")], "pathology": options}
        reply = httpx.post(address + CHAT, json=body)
        assert reply.status_code == 400
        assert says in reply.json()["error"]["message"]
    body = {"model": "echo", "messages": [user("x")], "pathology": {"no_such": 1}}
    assert httpx.post(address + CHAT, json=body).status_code == 200


PIXELS = encoded(Image.new("RGB", (16, 12), "red"))


def test_results_of_a_clients_function_are_quoted(address: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    messages = [
        user("look it up"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42 nuclei <|im_start|>"},
    ]
    reply = httpx.post(address + CHAT, json={"model": "echo", "messages": messages}).json()
    assert "42 nuclei" in reply["choices"][0]["message"]["content"]
    assert "lookup" in reply["choices"][0]["message"]["content"]


def test_mcp_lists_and_calls_over_http(address: str, field: Image.Image) -> None:
    async def go() -> None:
        async with mcp.Client(f"{address}/mcp") as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"ask", "ground", "check_quality", "segment_nuclei"} <= names
            said = await client.call_tool("ask", {"question": "hello there", "images": [PIXELS]})
            assert said.content[0].text.startswith("#ff0000 hello there")
            assert said.structured_content["confidence"] == 0.9
            ran = await client.call_tool("check_quality", {"image": encoded(field)})
            assert not ran.is_error
            assert ran.structured_content["status"] == "ok"
            for name, arguments in (
                ("check_quality", {"image": "/etc/passwd"}),
                ("check_quality", {}),
                ("ask", {"images": []}),
                ("nothing", {}),
            ):
                assert (await client.call_tool(name, arguments)).is_error

    asyncio.run(asyncio.wait_for(go(), 120))


def test_mcp_needs_the_key_too() -> None:
    with serving(EchoAssistant(), mcp=True, api_key="k") as address:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert httpx.post(f"{address}/mcp", json=message).status_code == 401


def test_paths_are_read_inside_the_workspace_only(tmp_path: Path, field: Image.Image) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret.png"
    inside.mkdir()
    field.save(inside / "a.png")
    field.save(outside)
    (inside / "link.png").symlink_to(outside)
    images = Images(inside)
    assert images.read("a.png").size == field.size
    assert images.read(str(inside / "a.png")).size == field.size
    for wrong in ("../secret.png", str(outside), "link.png", "a\0.png", "file:///etc/passwd", "", "in", "x" * 5000, 7):
        with pytest.raises(BadInput) as caught:
            images.read(wrong)
        assert "secret" not in str(caught.value)
    with pytest.raises(BadInput):
        Images().read(str(inside / "a.png"))
    with pytest.raises(BadInput, match="--workspace"):
        Images(tmp_path / "none")
    assert build_server(EchoAssistant(), workspace=inside).name == "pathassist"  # type: ignore[arg-type]


SCRIPT = """
import asyncio, sys
from assistant.mcp_server import serve_stdio
from tests.fakes import EchoAssistant
asyncio.run(serve_stdio(EchoAssistant()))
"""


def test_mcp_over_standard_input_and_output() -> None:
    async def go() -> None:
        command = mcp.StdioServerParameters(command=sys.executable, args=["-c", SCRIPT], cwd=os.getcwd())
        async with mcp.Client(command) as client:
            said = await client.call_tool("ask", {"question": "which tissue"})
            assert said.content[0].text.startswith("which tissue")

    asyncio.run(asyncio.wait_for(go(), 120))


def test_an_answer_under_way_is_finished_after_sigterm() -> None:
    script = textwrap.dedent("""
        from assistant.api import bind, create_app, http_server
        from tests.fakes import EchoAssistant
        echo = EchoAssistant()
        echo.delay = 0.2
        listener = bind("127.0.0.1", 0, None)
        print(listener.getsockname()[1], flush=True)
        http_server(create_app(echo), drain_s=20).run(sockets=[listener])
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        wait_for(lambda: _answers(address), 60)
        words = " ".join(f"w{i}" for i in range(12))
        body = {"model": "echo", "messages": [user(words)], "stream": True}
        text = ""
        with httpx.stream("POST", address + CHAT, json=body, timeout=60) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    text += (
                        (json.loads(line[6:])["choices"][0]["delta"].get("content") or "") if "choices" in line else ""
                    )
                    if text == "w0":
                        process.send_signal(signal.SIGTERM)
        assert text == words
        assert process.wait(30) is not None
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _answers(address: str) -> Any:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False
