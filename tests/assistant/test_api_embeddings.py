"""``POST /v1/embeddings`` as the ``openai`` client and raw requests see it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from assistant.api import _read_body
from assistant.api_embeddings import embeddings_router
from assistant.api_guard import Guard, error_response
from assistant.api_line import Line
from assistant.api_schema import ServerSettings
from assistant.errors import PathAssistError
from tests.assistant.model.encoders.fake import ColourEncoder
from tests.serving import image_part, png

SETTINGS = ServerSettings(max_text_chars=2000)


def application(line: Line | None = None, encoder: ColourEncoder | None = None) -> FastAPI:
    app = FastAPI()
    app.add_middleware(Guard, settings=SETTINGS)
    served = encoder or ColourEncoder()
    app.include_router(embeddings_router("colours", line or Line(2), SETTINGS, _read_body, lambda name: served))

    @app.exception_handler(PathAssistError)
    async def on_error(request: Request, error: PathAssistError) -> JSONResponse:
        return error_response(error)

    return app


async def post(content: Any, app: FastAPI | None = None, **keywords: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app or application())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        if isinstance(content, dict):
            return await client.post("/v1/embeddings", json=content, **keywords)
        return await client.post("/v1/embeddings", content=content, **keywords)


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def test_texts_and_images_in_the_order_given() -> None:
    inputs = ["a blue field", image_part(png("#ff0000")), {"type": "text", "text": "green"}]
    response = run(post({"model": "colours", "input": inputs, "user": "ignored"}))
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "list"
    assert body["model"] == "colours"
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert {item["object"] for item in body["data"]} == {"embedding"}
    vectors = np.array([item["embedding"] for item in body["data"]])
    assert list(vectors.argmax(1)) == [2, 0, 1]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert body["pathology"]["encoder"] == ColourEncoder.id


def test_base64_holds_the_same_numbers() -> None:
    plain = run(post({"model": "colours", "input": "red"})).json()["data"][0]["embedding"]
    coded = run(post({"model": "colours", "input": "red", "encoding_format": "base64"})).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain


def test_the_openai_client() -> None:
    async def ask() -> Any:
        transport = httpx.ASGITransport(application())
        async with (
            httpx.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(
                base_url="http://127.0.0.1/v1", api_key="unused", max_retries=0, http_client=http
            ) as client,
        ):
            return await client.embeddings.create(model="colours", input=["red", "blue"])

    reply = run(ask())
    assert [np.argmax(item.embedding) for item in reply.data] == [0, 2]
    assert len(reply.data[0].embedding) == 3


def test_a_long_text_is_cut_with_a_warning() -> None:
    body = run(post({"model": "colours", "input": ["red", "word " * 300]})).json()
    assert body["pathology"]["warnings"] == ["input[1] is longer than colours reads; the rest is cut off"]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"model": "colours"}, 400, "input: Field required"),
        ({"model": "colours", "input": []}, 400, "input: List should have at least 1 item"),
        ({"model": "colours", "input": ["red", " "]}, 400, "input[1] is an empty text"),
        ({"model": "colours", "input": [1, 2]}, 400, "token ids and nested lists are not taken"),
        ({"model": "colours", "input": [["red"]]}, 400, "token ids and nested lists are not taken"),
        ({"model": "colours", "input": "red", "dimensions": 2}, 400, "dimensions is 2; colours has 3"),
        ({"model": "colours", "input": "red", "encoding_format": "hex"}, 400, "encoding_format: Input should be"),
        ({"model": "gpt", "input": "red"}, 404, "no encoder 'gpt' is served here; available: 'colours'"),
        ({"model": "colours", "input": "x" * 3000}, 413, "3,000 characters; at most 2,000"),
        ({"model": "colours", "input": [image_part(b"nothing")]}, 400, "input[0]: "),
        ({"model": "colours", "input": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}, 400, "data URIs"),
        ({"model": "colours", "input": [image_part(png())] * 65}, 400, "65 images; a request may hold 64"),
        (b"{", 400, "the body is not a JSON object of an embeddings request"),
    ],
)
def test_refusals_look_like_the_other_errors(content: Any, status: int, message: str) -> None:
    headers = {"content-type": "application/json"} if isinstance(content, bytes) else {}
    response = run(post(content, headers=headers))
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert set(error) == {"message", "type", "code"}
    assert "/etc/passwd" not in response.text


def test_places_in_line_are_given_back() -> None:
    line = Line(0)
    app = application(line)
    for content in (
        {"model": "colours", "input": "red"},
        {"model": "colours", "input": " "},
        {"model": "x", "input": "red"},
    ):
        run(post(content, app))
    assert line.taken == 0
    line.enter()
    assert run(post({"model": "colours", "input": "red"}, app)).status_code == 429


def test_images_only_encoders_say_so() -> None:
    response = run(post({"model": "colours", "input": "red"}, application(encoder=ColourEncoder(has_text=False))))
    assert response.status_code == 400
    assert "embeds images only" in response.json()["error"]["message"]
