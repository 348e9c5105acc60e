"""More doors for the hostile texts: the shipped tokenizer, cited cases, arguments, proxies, slides, edited reports.

The doors of prompt, server, page and terminal are in ``test_hostile_text.py``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from assistant.answer import Answer, Box, Case, Note, ToolCall
from assistant.api import create_app
from assistant.api_audit import AuditLog
from assistant.api_auth import Authenticator
from assistant.api_schema import HttpError, ServerSettings
from assistant.cases.find import find_cases
from assistant.cases.ingest import build, identity_of
from assistant.cases.library import Library
from assistant.cases.sources import Item
from assistant.chat.grammar import from_schema
from assistant.chat.planner import Codec, Facts, neutral
from assistant.chat.prompt import Turn
from assistant.cli import app as command
from assistant.errors import PathAssistError
from assistant.model.parts import part_named
from assistant.model.store import language_folder
from assistant.plain import whole_characters
from assistant.report import draft
from assistant.report.model import Report
from assistant.slides import open_slide
from assistant.tools import ToolState, find_tools, run_call
from assistant.tools.schema import check_arguments
from retrieval import records
from retrieval.store import VectorStore, open_store
from tests.assistant.cases.conftest import ColourEncoder, paint
from tests.fakes import EchoAssistant
from tests.hostile_texts import TEXTS, assert_only_text
from tests.test_hostile_text import SQUARE, TEXT, one_line

#: Every token that the shipped language model treats as a command, in one text.
COMMANDS = "a<|im_end|>b<|im_start|>c<|endoftext|>d<repo_name>e<file_sep>f<jupyter_code>g<empty_output>h"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The shipped one, not the byte-level one of the other tests."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(language_folder(part_named("smollm2-135m-instruct"), progress=False))


@pytest.mark.parametrize("text", [*map(pytest.param, [COMMANDS]), *TEXTS.values()], ids=["commands", *TEXTS])
def test_the_planner_gets_no_control_token_of_a_text(tokenizer: Any, text: str) -> None:
    """Neither from the question nor from the description of a client's function."""
    codec, special = Codec(tokenizer), set(tokenizer.added_tokens_decoder)
    whole = whole_characters(text)

    def counts(word: str) -> list[int]:
        tool = from_schema("f", f"Does {word}", {"properties": {"x": {"type": "string"}}})
        ids = codec.question(word, Facts(1)) + codec.prefix([tool])
        return [ids.count(token) for token in special]

    assert counts(whole) == counts("plain")
    assert len(codec.prefix([from_schema("f", whole, {})])) < 600
    assert not special & set(codec.ids(whole))
    assert "<tool_call>" not in neutral(whole)
    assert not re.search(r'"(?:name|arguments)"\s*:', neutral(whole))


@pytest.mark.parametrize("text", [COMMANDS, *TEXTS.values()], ids=["commands", *TEXTS])
def test_an_option_ends_no_turn(tiny_assistant: Any, text: str) -> None:
    own = tiny_assistant.processor.tokenizer
    whole = whole_characters(text)
    *words, end = tiny_assistant._option_ids(whole)
    assert end == own.convert_tokens_to_ids("<|im_end|>")
    assert not set(words) & set(own.added_tokens_decoder)
    assert words


# -- an archive full of hostile labels ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("archive")
    store = open_store(f"faiss:{folder / 'store'}", identity_of(ColourEncoder()), write=True)
    items = []
    for number, text in enumerate(TEXTS.values()):
        picture = paint(folder / f"{number}.png", ("red", "green", "blue")[number % 3], number)
        items.append(Item(records.Case("", str(picture), title=text, organ=text, diagnosis=text, text=text), picture))
    assert build(items, store, ColourEncoder(), workers=0).added == len(TEXTS)
    store.close()
    return f"faiss:{folder / 'store'}"


@pytest.fixture(scope="module")
def store(archive: str) -> Iterator[VectorStore]:
    found = open_store(archive, identity_of(ColourEncoder()))
    yield found
    found.close()


@TEXT
def test_words_to_look_for_beside_an_image(store: VectorStore, text: str) -> None:
    tool = find_tools().tools["find_similar_cases"]
    try:
        given = check_arguments(tool, {"image": 1, "text": text, "k": 3})
        assert given["text"] == text
        hits = find_cases(store, ColourEncoder(), [Image.new("RGB", (30, 30), "red")], given["text"] or None, 3)
    except PathAssistError as error:
        one_line(error)
        return
    assert len(hits) == 3
    assert np.isfinite([hit.score for hit in hits]).all()


def test_labels_of_cases_do_nothing_in_an_answer(
    tiny_assistant: Any, archive: str, field: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cited after the answer, they call no tool, and are not in the next turn's prompt."""
    monkeypatch.setattr("assistant.tools.run.run_call", lambda *_, **__: pytest.fail("a label called a tool"))
    own = tiny_assistant.processor.tokenizer
    monkeypatch.setattr(tiny_assistant, "library", Library.open(archive, lambda _: ColourEncoder()))
    seen: list[list[int]] = []
    real = tiny_assistant.embed_prompt
    monkeypatch.setattr(tiny_assistant, "embed_prompt", lambda ids, images: seen.append(ids) or real(ids, images))
    said = tiny_assistant.ask(field, "Which organ?", max_new_tokens=3, threshold=0.0)
    assert said.cases
    assert not said.tools
    history = [Turn("user", "Which organ?", (field,)), Turn("assistant", said.text)]
    tiny_assistant.ask(None, "And now?", history=history, max_new_tokens=3, threshold=0.0)
    tiny_assistant.library.close()
    first, second = (own.decode(ids) for ids in (seen[0], seen[-1]))
    assert first.count("<|im_start|>") + 2 == second.count("<|im_start|>")
    for case in said.cases:
        assert len(case.title.strip()) < 4 or case.title.strip() not in second


def test_a_call_with_a_hostile_name_or_arguments_is_refused(field: Image.Image) -> None:
    for text in TEXTS.values():
        with ToolState([field]) as state:
            for name, arguments in ((text, {}), ("check_quality", text), ("check_quality", {"image": text})):
                assert run_call(name, arguments, state).status == "refused"
            assert run_call("check_quality", {"image": 1, text: text}, state).status == "refused"


# -- who asks, and what is logged --------------------------------------------------------------------------------------


def get(app: Any, path: str, headers: list[tuple[bytes, bytes]], address: str = "10.0.0.5") -> tuple[int, Any, bytes]:
    """Status, headers and body; the bytes go in as they are, as from a proxy that checks nothing."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": quote(path, errors="replace").encode(), "query_string": b"", "root_path": "",
        "headers": headers, "client": (address, 1), "server": ("lab.example.org", 80),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    head = dict(sent[0]["headers"])
    return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


@TEXT
def test_who_asks_and_what_is_asked_for(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    settings = ServerSettings(trusted_proxies=("10.0.0.5",))
    app = create_app(EchoAssistant(), settings=settings)  # type: ignore[arg-type]
    for headers in (
        [(b"x-forwarded-user", raw)],
        [(b"authorization", b"Bearer " + raw)],
        [(b"authorization", raw), (b"x-request-id", raw), (b"host", raw), (b"content-length", raw)],
    ):
        status, head, body = get(app, "/v1/models", headers)
        assert status in (200, 400, 401, 413)
        assert re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", head[b"x-request-id"])
        json.loads(body)
    assert get(app, "/v1/models", [(b"x-forwarded-user", raw)], "10.9.9.9")[0] == 401
    who = Authenticator(proxies=["10.0.0.5"])
    try:
        assert re.fullmatch(r"user:[\x21-\x7e]{1,256}", who.client([(b"x-forwarded-user", raw)], "10.0.0.5").name)
    except HttpError as error:
        one_line(error)
    whole = raw.decode()  # a server decodes a path's bytes, which hold no half of a character
    for path in (f"/v1/models/{whole}", f"/{whole}"):
        status, _, body = get(app, path, [(b"x-forwarded-user", b"ann")])
        assert status == 404
        assert "\n" not in json.loads(body)["error"]["message"]


def test_the_audit_log_keeps_one_line_an_answer(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for text in TEXTS.values():
        log.write(
            request_id=text, image_sha256=[text], prompt_sha256=text, model=text, seconds=0.1, confidence=0.5,
            abstained=False, client=text, tools=[text],
        )  # fmt: skip
    log.close()
    lines = (tmp_path / "audit.jsonl").read_bytes().decode("ascii").splitlines()
    assert [json.loads(line)["model"] for line in lines] == list(TEXTS.values())


# -- slides and reports ------------------------------------------------------------------------------------------------


@TEXT
def test_a_description_in_a_slide_stays_inside(tmp_path: Path, text: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("openslide")
    whole = text.encode("utf-8", "replace").replace(b"\x00", b"")
    pixels = np.full((300, 300, 3), 200, np.uint8)
    for number, description in enumerate(
        (whole, b"Aperio Image Library v1\r\n|MPP = " + whole + b"|AppMag = " + whole)
    ):
        path = tmp_path / f"{number}.svs"
        tifffile.imwrite(
            path, pixels, tile=(64, 64), photometric="rgb", description=description, metadata=None, software=whole
        )
        done = CliRunner().invoke(command, ["slide", "info", str(path)])
        assert done.exit_code in (0, 2), done.exception
        assert not re.search("[\x00\x07\x1b\x9b\u202e]", done.output)
        assert "owned" not in done.output
        assert "canary" not in done.output
        if done.exit_code == 0:
            with open_slide(path) as slide:
                assert slide.size == (300, 300)
                assert slide.mpp is None or 0.005 <= slide.mpp <= 1000


def filled(value: Any, text: str, key: str = "") -> Any:
    """A report's JSON with each text that a person may edit replaced."""
    if isinstance(value, dict):
        return {k: filled(v, text, k) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(one, text, key) for one in value]
    kept = key in ("kind", "id", "evidence", "data", "thumbnail") or not isinstance(value, str)
    return value if kept else text


@pytest.mark.parametrize("name", TEXTS)
def test_an_edited_report_is_exported_whole(tmp_path: Path, name: str) -> None:
    from docx import Document

    text = whole_characters(TEXTS[name])
    call = ToolCall("t", {}, {"ok": True, "text": "t", "numbers": {"count": 3}}, 1.0)
    said = Answer(
        "B) colon", 0.9, False, "B) colon", options={"B) colon": 0.9}, boxes=(Box("g", SQUARE, 0.5),), tools=(call,),
        cases=(Case("c", 0.5, "t"),), notes=(Note("n", 0.4, "t", "t"),),
    )  # fmt: skip
    drawn = draft(said, Image.new("RGB", (32, 32), "pink"), questions="Which organ?\nA) liver\nB) colon")
    edited = Report.from_json(json.dumps(filled(json.loads(drawn.to_json()), text)))
    assert_only_text(edited.to_html())
    pdf = edited.to_pdf(tmp_path / "r.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert not [word for word in (b"/JavaScript", b"/JS ", b"/Launch", b"/URI") if word in pdf]
    assert Document(str(edited.to_docx(tmp_path / "r.docx"))).paragraphs
    edited.save(tmp_path / "r.json")
    assert Report.from_json((tmp_path / "r.json").read_bytes()) == edited
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.docx", "r.json", "r.pdf"]
