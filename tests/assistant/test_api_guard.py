"""What the HTTP API refuses, and how: one JSON error object, whatever is sent."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.api import bind, create_app
from assistant.api_guard import is_loopback
from assistant.api_schema import ServerSettings, StopFilter
from assistant.errors import BadInput
from tests.fakes import EchoAssistant
from tests.serving import image_part, png, serving, user

MIB = 2**20
CHAT = "/v1/chat/completions"


def send(app: Any, method: str, path: str, *, host: str = "127.0.0.1", **keywords: Any) -> httpx.Response:
    """One request straight into the application, without a socket."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **keywords)

    return asyncio.run(go())


def check_error(response: httpx.Response, status: int, code: str) -> str:
    """Assert OpenAI's error object and our headers; returns the message."""
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    return str(error["message"])


@pytest.fixture
def echo() -> EchoAssistant:
    return EchoAssistant()


@pytest.fixture
def app(echo: EchoAssistant) -> Any:
    return create_app(echo)  # type: ignore[arg-type]


def message(role: str, content: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


def picture(url: Any) -> dict[str, Any]:
    return {"messages": [user({"type": "image_url", "image_url": {"url": url}}, "what?")]}


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"messages": []}, 400, "invalid_input", "messages"),
        ({"messages": None}, 400, "invalid_input", "messages"),
        ({"messages": "hello"}, 400, "invalid_input", "messages"),
        ({"messages": [user("x")] * 201}, 400, "invalid_input", "messages"),
        ({"model": "gpt-4"}, 404, "model_not_found", "'echo'"),
        ({"model": None}, 400, "invalid_input", "model"),
        ({"n": 2}, 400, "invalid_input", "n: "),
        ({"temperature": 9}, 400, "invalid_input", "temperature"),
        ({"top_p": 0}, 400, "invalid_input", "top_p"),
        ({"max_tokens": 0}, 400, "invalid_input", "max_tokens"),
        ({"seed": 2**70}, 400, "invalid_input", "seed"),
        ({"stop": ""}, 400, "invalid_input", "stop"),
        ({"stop": ["a"] * 5}, 400, "invalid_input", "stop"),
        (message("pirate", "x"), 400, "invalid_input", "messages[0].role"),
        (message("tool", "x"), 400, "invalid_input", "belongs to no call"),
        (message("assistant", "x"), 400, "invalid_input", "'assistant'"),
        (message("system", "x"), 400, "invalid_input", "'system'"),
        (message("user", ""), 400, "invalid_input", "no text"),
        (message("user", " \n"), 400, "invalid_input", "no text"),
        (message("user", None), 400, "invalid_input", "no text"),
        (message("user", 5), 400, "invalid_input", "messages[0].content"),
        (message("user", [image_part(png())]), 400, "invalid_input", "no text"),
        (message("user", [{"type": "video_url"}]), 400, "invalid_input", "messages[0].content[0]"),
        (message("user", [{"type": "text"}]), 400, "invalid_input", "messages[0].content[0]"),
        (message("user", "x" * 100_001), 413, "too_large", "100,000"),
        ({"messages": [{"role": "system", "content": [image_part(png())]}, user("x")]}, 400, "invalid_input", "'user'"),
        ({"messages": [user(*[image_part(png())] * 4, "x")]}, 400, "invalid_input", "at most 3"),
        (picture("/etc/passwd"), 400, "invalid_input", "data URI"),
        (picture("file:///etc/passwd"), 400, "invalid_input", "data URI"),
        (picture("../../secret.png"), 400, "invalid_input", "data URI"),
        (picture("http://127.0.0.1:1/x.png"), 400, "invalid_input", "data URI"),
        (picture("https://example.org/x.png"), 400, "invalid_input", "data URI"),
        (picture(""), 400, "invalid_input", "data URI"),
        (picture("data:image/png;base64,****"), 400, "invalid_input", "base64"),
        (picture("data:text/html;base64,PGI+"), 400, "invalid_input", "data URI"),
        (picture("data:image/png;base64,aGVsbG8="), 400, "invalid_input", "messages[0]"),
        (picture(7), 400, "invalid_input", "image_url.url"),
        ({"messages": [user({"type": "image_url", "image_url": "x"}, "y")]}, 400, "invalid_input", "image_url"),
    ],
)
def test_bad_requests(app: Any, echo: EchoAssistant, change: dict[str, Any], status: int, code: str, says: str) -> None:
    body = {"model": "echo", "messages": [user("hello")], **change}
    text = check_error(send(app, "POST", CHAT, json=body), status, code)
    assert says in text
    assert len(text) < 400
    assert echo.calls == []


def test_an_image_address_is_never_opened(app: Any, tmp_path: Path) -> None:
    real = tmp_path / "real.png"
    real.write_bytes(png())
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        for url in (str(real), real.as_uri(), f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"):
            check_error(send(app, "POST", CHAT, json={"model": "echo", **picture(url)}), 400, "invalid_input")
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "echo", "messages": ' + b'{"a":' * 100_000,
        b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "echo", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
    ],
)
def test_bodies_that_are_no_chat_request(app: Any, body: bytes) -> None:
    response = send(app, "POST", CHAT, content=body, headers={"content-type": "application/json"})
    assert len(check_error(response, 400, "invalid_input")) < 400


def test_only_json_is_read(app: Any) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = send(app, "POST", CHAT, content=b"{}", headers={"content-type": kind})
        check_error(response, 415, "unsupported_media_type")


def test_unknown_paths_and_methods(app: Any) -> None:
    check_error(send(app, "GET", "/nowhere"), 404, "not_found")
    check_error(send(app, "POST", CHAT + "/", json={}), 404, "not_found")
    check_error(send(app, "GET", "/docs"), 404, "not_found")
    response = send(app, "GET", CHAT)
    check_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_other_web_pages_get_no_permission(app: Any) -> None:
    headers = {"origin": "https://example.org", "access-control-request-method": "POST"}
    for response in (send(app, "OPTIONS", CHAT, headers=headers), send(app, "GET", "/v1/models", headers=headers)):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_request_ids_are_kept_when_safe(app: Any) -> None:
    assert send(app, "GET", "/health", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for given_id in ("a b", "x" * 65, 'a"b', ""):
        made = send(app, "GET", "/health", headers={"x-request-id": given_id}).headers["x-request-id"]
        assert made.startswith("req_")
    assert len({send(app, "GET", "/health").headers["x-request-id"] for _ in range(3)}) == 3


def test_without_a_key_only_loopback_names_are_served(app: Any) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.8.8.8"):
        assert send(app, "GET", "/v1/models", host=host).status_code == 200
    for host in ("example.org", "localhost.example.org:8000", "10.0.0.1", "[2001:db8::1]"):
        check_error(send(app, "GET", "/v1/models", host=host), 403, "host_not_allowed")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic right-key", "right-key", "Bearer right-key2", b"\xff"],
)
def test_a_missing_or_wrong_key_is_refused(echo: EchoAssistant, header: Any) -> None:
    app = create_app(echo, api_key="right-key")  # type: ignore[arg-type]
    headers = {} if header is None else {"authorization": header}
    body = {"model": "echo", "messages": [user("x")]}
    for response in (
        send(app, "POST", CHAT, json=body, headers=headers),
        send(app, "GET", "/v1/models", headers=headers),
        send(app, "GET", "/nowhere", headers=headers),
    ):
        assert "right-key" not in check_error(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert echo.calls == []


def test_the_right_key_opens_every_host_name_and_health_needs_none(echo: EchoAssistant) -> None:
    app = create_app(echo, api_key="schlüssel")  # type: ignore[arg-type]
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} schlüssel".encode()}
        assert send(app, "GET", "/v1/models", host="example.org", headers=headers).status_code == 200
    for path in ("/health", "/ready"):
        assert send(app, "GET", path, host="example.org").status_code == 200


@pytest.fixture(scope="module")
def small_server() -> Iterator[str]:
    """A server that takes bodies up to 8 MiB."""
    with serving(EchoAssistant(), settings=ServerSettings(max_body_bytes=8 * MIB)) as address:
        yield address


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_of_200_mb_is_refused_without_keeping_it(small_server: str, chunked: bool) -> None:
    size, block = 200 * MIB, b" " * MIB
    headers = {"content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(size)
    tracemalloc.start()
    try:
        upload = (block for _ in range(size // MIB))
        response = httpx.post(small_server + CHAT, content=upload, headers=headers, timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "8,388,608" in check_error(response, 413, "too_large")
    assert peak < 40 * MIB
    assert httpx.get(small_server + "/ready").json()["under_way"] == 0


def test_a_body_at_the_limit_is_read(small_server: str) -> None:
    text = json.dumps({"model": "echo", "messages": [user("x")]}).encode()
    headers = {"content-type": "application/json"}
    full = text.ljust(8 * MIB)
    assert httpx.post(small_server + CHAT, content=full, headers=headers).status_code == 200
    check_error(httpx.post(small_server + CHAT, content=full + b" ", headers=headers), 413, "too_large")


def test_a_client_that_only_reads_after_sending_all_sees_the_refusal(small_server: str) -> None:
    host, port = small_server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {40 * MIB}\r\n\r\n".encode()
        )
        for _ in range(40):
            connection.sendall(b" " * MIB)  # a reset connection would raise here
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_need_not_send(small_server: str) -> None:
    host, port = small_server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {200 * MIB}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_arrives_gives_its_place_back() -> None:
    settings = ServerSettings(body_timeout_s=0.2, max_waiting=0)
    with serving(EchoAssistant(), settings=settings) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Content-Length: 100\r\n\r\n{".encode()
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
            assert httpx.get(address + "/ready").status_code == 200


def test_hostile_files_are_one_clear_line(app: Any, tmp_path: Path) -> None:
    hostile = pytest.importorskip("tests.hostile")
    for name, path in hostile.hostile_files(tmp_path).items():
        if path.stat().st_size < 40 * MIB:
            body = {"model": "echo", "messages": [user(image_part(path.read_bytes()), "what?")]}
            response = send(app, "POST", CHAT, json=body)
            assert response.status_code in {400, 413}, name
            check_error(response, response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104
def test_listening_beyond_this_machine_needs_a_key(host: str) -> None:
    assert not is_loopback(host)
    for key in (None, ""):
        with pytest.raises(BadInput, match="PATHASSIST_API_KEY"):
            bind(host, 0, key)


def test_a_key_opens_other_addresses() -> None:
    with bind("0.0.0.0", 0, "key") as listener:  # noqa: S104
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104


def test_a_taken_port_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port, None)


def test_an_audit_log_that_cannot_be_written_is_told(echo: EchoAssistant, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--audit-log"):
        create_app(echo, settings=ServerSettings(audit_log=tmp_path))  # type: ignore[arg-type]


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_the_cut_does_not_depend_on_how_the_text_arrives(pieces: list[str], stops: tuple[str, ...]) -> None:
    streamed = StopFilter(stops)
    text = "".join(streamed.feed(piece) for piece in pieces) + streamed.flush()
    whole = "".join(pieces)
    assert text == StopFilter.cut(whole, stops)
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    assert streamed.hit == any(stop in whole for stop in stops)
