"""Every hostile text through every door: it stays text, or is refused in one line.

What a text does to the model's answer is another matter: here nothing may break, run, leave or be mistaken for markup.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

import assistant
from assistant.answer import Answer, Box, Case, Note, ToolCall
from assistant.api_schema import ServerSettings
from assistant.cases.ingest import build, identity_of
from assistant.cases.library import Library
from assistant.cases.notes import Notes
from assistant.cases.sources import Item, read_source
from assistant.chat.evidence import citations
from assistant.chat.prompt import Turn
from assistant.errors import PathAssistError
from assistant.geojson import Shape, read_geojson, write_geojson
from assistant.grounding.ground import check_phrase
from assistant.grounding.text import tokens
from assistant.images.intake import load_image
from assistant.plain import whole_characters
from assistant.report import draft
from assistant.report.model import Report
from retrieval import records
from retrieval.store import open_store
from tests.assistant.cases.conftest import ColourEncoder, paint
from tests.fakes import EchoAssistant
from tests.hostile_texts import TEXTS, assert_only_text
from tests.serving import image_part, png, serving, user
from ui.evidence import chat_text, error_html, evidence_html, info_html, record
from ui.tools import numbers_html

mcp = pytest.importorskip("mcp")
CHAT = "/v1/chat/completions"
SQUARE = (0.0, 0.0, 9.0, 9.0)
TEXT = pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in TEXTS.items()])


def one_line(error: PathAssistError) -> None:
    """The message is for one line of a terminal."""
    assert re.fullmatch(r"[^\n\r\x00-\x08\x1b]{1,1000}", str(error)), repr(str(error)[:200])


# -- the prompt --------------------------------------------------------------------------------------------------------


@TEXT
def test_no_text_makes_a_token_of_ours(tiny_assistant: Any, text: str) -> None:
    """Nor a turn or an image, whether it is the question, an option, the system's words or an earlier turn."""
    tokenizer = tiny_assistant.processor.tokenizer
    ours = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>")]
    picture = Image.new("RGB", (64, 64), "pink")

    def counts(word: str) -> list[list[int]]:
        found = []
        for turns in (
            [Turn("user", word, (picture,))],
            [Turn("system", word), Turn("user", "q", (picture,))],
            [Turn("user", word), Turn("assistant", word), Turn("user", "q", (picture,))],
            [Turn("user", f"Which? A) {word} B) two", (picture,))],
        ):
            ids = tiny_assistant.prompt_ids(turns)
            found.append([ids.count(token) for token in ours])
        return found

    try:
        assert counts(text) == counts("plain")
    except PathAssistError as error:
        one_line(error)


class Echo(EchoAssistant):
    """Knows the names of tools, as the real one does, and calls none."""

    def stream(self, *arguments: Any, tools: Any = "none", **keywords: Any) -> Iterator[str | Answer]:
        from assistant.chat.tool_loop import offered_tools

        offered_tools(tools)
        yield from super().stream(*arguments, **keywords)


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a server that echoes, and its audit log."""
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with serving(Echo(), mcp=True, settings=ServerSettings(audit_log=audit)) as address:
        yield address, audit


def post(address: str, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Escaped, so that halves of a pair can be sent too; the reply has to be ours."""
    content = json.dumps(body).encode("ascii")
    reply = httpx.post(
        address + path, content=content, headers={"content-type": "application/json"} | headers, timeout=60
    )
    assert reply.status_code in (200, 400, 404, 413, 422), reply.text[:300]
    if reply.status_code != 200:
        problem = reply.json()["error"]
        assert problem["code"] not in (None, "internal_error")
        assert "\n" not in problem["message"]
    return reply


@TEXT
def test_messages_of_every_role(server: tuple[str, Path], text: str) -> None:
    last = user(image_part(png()), "Which organ?")
    bodies: list[dict[str, Any]] = [
        {"messages": [user(image_part(png()), text)]},
        {"messages": [{"role": "system", "content": text}, last]},
        {"messages": [user(text), {"role": "assistant", "content": text}, last]},
        {"messages": [last, {"role": "tool", "tool_call_id": text, "content": text}]},
        {"messages": [last], "pathology": {"options": [text, "two"]}},
        {"messages": [last], "pathology": {"tools": [text]}},
        {"messages": [last], "stop": [text]},
        {"messages": [last], "user": text, "metadata": {text: text}},
        {"messages": [{"role": text, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": text}}]}]},
    ]
    for body in bodies:
        post(server[0], CHAT, {"model": "echo", "max_tokens": 8} | body)
    assert post(server[0], CHAT, {"model": text, "messages": [last]}).status_code in (400, 404)


@TEXT
def test_functions_of_a_client(server: tuple[str, Path], text: str) -> None:
    function = {
        "name": text[:60],
        "description": text,
        "parameters": {"type": "object", "properties": {text: {"type": text}}},
    }
    message = user("Which organ?")
    made = post(
        server[0], CHAT, {"model": "echo", "messages": [message], "tools": [{"type": "function", "function": function}]}
    )
    if made.status_code == 200:
        assert not made.json()["choices"][0]["message"].get("tool_calls")


@TEXT
def test_a_streamed_answer_keeps_one_event_a_line(server: tuple[str, Path], text: str) -> None:
    body = {"model": "echo", "messages": [user(text)], "stream": True, "max_tokens": 40}
    reply = post(server[0], CHAT, body)
    if reply.status_code == 200:
        blocks = reply.text.removesuffix("\n\n").split("\n\n")
        assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
        assert blocks[-1] == "data: [DONE]"


@TEXT
def test_headers_and_the_audit_log(server: tuple[str, Path], text: str) -> None:
    address, audit = server
    before = len(audit.read_bytes().splitlines()) if audit.is_file() else 0
    sent = re.sub(r"[^\x20-\x7e]", "", text)[:200].strip() or "x"  # what an HTTP client lets through
    reply = post(address, CHAT, {"model": "echo", "messages": [user(text or "x")]}, **{"x-request-id": sent})
    assert re.fullmatch(r"[\w.:-]{1,128}", reply.headers["x-request-id"])
    lines = audit.read_bytes().split(b"\n")[:-1]
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert len(lines) - before == (reply.status_code == 200)
    assert b"touch canary" not in b"".join(lines)


@TEXT
def test_embeddings_of_any_text(server: tuple[str, Path], text: str) -> None:
    reply = post(server[0], "/v1/embeddings", {"model": "pathclip-small", "input": [text, "plain"]})
    if reply.status_code == 200:
        vectors = np.array([row["embedding"] for row in reply.json()["data"]])
        assert np.isfinite(vectors).all()
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


@TEXT
def test_mcp_takes_any_text(server: tuple[str, Path], text: str) -> None:
    sendable = whole_characters(text)

    async def go() -> None:
        async with mcp.Client(f"{server[0]}/mcp") as client:
            for name, arguments in (
                ("ask", {"question": sendable}),
                ("ask", {"question": "Which?", "images": [sendable]}),
                ("check_quality", {"image": sendable}),
                ("segment_nuclei", {"image": sendable, "mpp": sendable}),
            ):
                said = await client.call_tool(name, arguments)
                assert said.is_error or name == "ask"
                assert "Traceback" not in said.content[0].text

    asyncio.run(asyncio.wait_for(go(), 60))


# -- phrases, cases, notes ---------------------------------------------------------------------------------------------


@TEXT
def test_a_phrase_to_point_at(text: str) -> None:
    try:
        phrase = check_phrase(text)
    except PathAssistError as error:
        one_line(error)
        return
    (vectors, *_) = tokens([phrase], [""])[0]
    assert np.isfinite(np.asarray(vectors)).all()


@pytest.mark.parametrize("door", ["title", "text", "organ", "diagnosis", "group", "source"])
def test_labels_of_cases_stay_text(tmp_path: Path, door: str) -> None:
    """Through the index, a search, the answer's evidence and the page."""
    store = open_store(f"faiss:{tmp_path / 'store'}", identity_of(ColourEncoder()), write=True)
    items = []
    for number, text in enumerate(TEXTS.values()):
        picture = paint(tmp_path / f"{number}.png", ("red", "green", "blue")[number % 3], number)
        items.append(Item(records.Case("", str(picture), **{door: text}), picture))
    done = build(items, store, ColourEncoder(), workers=0)
    assert done.added == len(items)
    store.close()
    library = Library.open(f"faiss:{tmp_path / 'store'}", lambda _: ColourEncoder())
    hits = library.search(images=[load_image(tmp_path / "0.png")], text="red", k=30)
    assert hits
    cases = tuple(Case(hit.case.id, hit.score, hit.case.title or hit.case.diagnosis or hit.case.organ) for hit in hits)
    answered = Answer("text", 0.9, False, "text", cases=cases)
    assert_only_text(evidence_html(record("q", answered, 0.5)))
    json.dumps([case.as_dict() for case in cases])
    library.close()


def test_names_of_files_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    made = 0
    for number, text in enumerate(TEXTS.values()):
        name = re.sub(r"[/\x00]", "_", text).encode("utf-8", "ignore").decode()[:40].strip(". ")
        paint(folder / f"{name}-{number}.png", "red", number)
        made += 1
    items = list(read_source(str(folder)))
    assert len(items) == made
    store = open_store(f"faiss:{tmp_path / 'store'}", identity_of(ColourEncoder()), write=True)
    done = build(items, store, ColourEncoder(), workers=0)
    store.close()
    assert done.added == made
    assert not (tmp_path / "canary").exists()
    assert not Path("canary").exists()


def test_notes_stay_text_and_are_found(tmp_path: Path) -> None:
    class Words(ColourEncoder):
        def embed_texts(self, texts: Any, batch_size: int = 64) -> Any:
            return np.ones((len(texts), 4), np.float32) / 2

    notes = Notes(tmp_path / "notes", Words(), create=True)
    held = []
    for number, text in enumerate(TEXTS.values()):
        file = tmp_path / f"{number}.txt"
        file.write_text(f"Gland {number}. {text}", encoding="utf-8", errors="replace")
        held.append(notes.add(file).id)
    for text in TEXTS.values():
        for found in notes.search(text, 5):
            assert found.document in held
    passages = notes.search("Gland", 30)
    assert len(passages) > 20
    kept = tuple(Note(p.document, p.score, p.title, p.text) for p in passages)
    assert all(isinstance(block, str) for block in citations((), None, kept))
    answered = Answer("text", 0.9, False, "text", notes=kept)
    assert_only_text(evidence_html(record("q", answered, 0.5)))
    assert len(notes) >= len(held)
    notes.close()


# -- files -------------------------------------------------------------------------------------------------------------


@TEXT
def test_metadata_of_images_is_not_read(tmp_path: Path, text: str) -> None:
    plain = text.encode("latin-1", "replace").decode("latin-1")
    picture = Image.new("RGB", (40, 30), "#123456")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", whole_characters(text))
    info.add_text("Comment", plain.replace("\x00", ""))
    picture.save(tmp_path / "a.png", pnginfo=info)
    exif = Image.Exif()
    exif[270], exif[315], exif[37510] = plain, plain, text.encode("utf-8", "replace")
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "a.tif", description=plain.encode("ascii", "replace").decode())
    for name in ("a.png", "a.jpg", "a.tif"):
        read = load_image(tmp_path / name)
        assert read.size == (40, 30)
        assert not [value for value in read.info.values() if isinstance(value, str) and value]
        assert not read.getexif()


@TEXT
def test_geojson_names_and_classes(text: str) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 0]]]}
    shape = Shape(square, name=text, label=text, measurements={text: 1.0}, extra={text: text})
    written = json.dumps(write_geojson([shape]))
    try:
        (read,) = read_geojson(written)
    except PathAssistError as error:
        one_line(error)
        return
    assert json.loads(json.dumps(write_geojson([read]))) == json.loads(json.dumps(write_geojson(read_geojson(written))))
    for broken in (
        {"type": text},
        {"type": "Feature", "geometry": {"type": text}},
        [{"type": "Feature", "properties": text}],
    ):
        with pytest.raises(PathAssistError) as caught:
            read_geojson(json.dumps(broken))
        one_line(caught.value)


@TEXT
def test_a_report_is_whole_in_every_format(tmp_path: Path, text: str) -> None:
    field = Image.new("RGB", (32, 32), "pink")
    call = ToolCall(text, {text: text}, {"text": text, "numbers": {text: text}, "warnings": [text]}, 1.0)
    said = Answer(
        text, 0.9, False, text, options={text: 1.0}, boxes=(Box(text, SQUARE, 0.5),), tools=(call,), model=text,
        cases=(Case("c", 0.5, text, text),), notes=(Note("n", 0.4, text, text),), warnings=(text,),
    )  # fmt: skip
    made = draft(said, field, questions=text, title=text)
    made.comment = text
    assert_only_text(made.to_html())
    pdf = made.to_pdf(tmp_path / "r.pdf").read_bytes()
    assert pdf.rstrip().endswith(b"%%EOF")
    assert not [word for word in (b"/JavaScript", b"/JS ", b"/Launch", b"/URI") if word in pdf]
    from docx import Document

    assert Document(str(made.to_docx(tmp_path / "r.docx"))).paragraphs
    assert Report.from_json(made.to_json()).to_json() == made.to_json()


# -- page and terminal -------------------------------------------------------------------------------------------------


@TEXT
def test_the_page_shows_text(text: str) -> None:
    call = ToolCall(
        text, {text: text}, {"ok": True, "text": text, "numbers": {text: text}, "warnings": [text]}, 1.0, text
    )
    said = Answer(
        text, 0.9, False, text, options={text: 0.6, "two": 0.4}, boxes=(Box(text, SQUARE, 0.5),), tools=(call,),
        model=text, cases=(Case(text, 0.5, text, None),), notes=(Note(text, 0.4, text, text),), warnings=(text,),
    )  # fmt: skip
    kept = record(text, said, 0.5, [Image.new("RGB", (32, 32), "pink")], (f"data:image/png;base64,{'A' * 8}", text))
    for page in (evidence_html(kept), error_html(text), info_html(text), numbers_html({text: text})):
        assert_only_text(page)
        assert not re.search(r"\$\{|\{\{", page)
    assert isinstance(chat_text(said), str)


@TEXT
def test_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    from assistant.cli import app

    monkeypatch.setitem(vars(assistant), "Assistant", EchoAssistant)
    (tmp_path / "red.png").write_bytes(png())
    for words in (
        ["ask", str(tmp_path / "red.png"), "-q", text],
        ["ask", text, "-q", "Which?"],
        ["index", "info", "--store", text],
        ["tools", "run", text, str(tmp_path / "red.png")],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code in (0, 1, 2), (words[0], done.exception)
        assert "Traceback" not in done.output
        if done.exit_code:
            assert len(done.stderr.strip().splitlines()) <= 5
        assert not re.search("[\x00\x07\x1b\x9b]", done.output), words
