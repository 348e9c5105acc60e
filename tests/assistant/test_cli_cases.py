"""``pathassist index`` and ``pathassist search``: output, exit codes, errors in one line."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from assistant import DISCLAIMER, cli_cases
from assistant.cases.ingest import identity_of
from assistant.cli_common import ErrorGroup
from assistant.images.intake import load_image
from retrieval.store import open_store
from tests.assistant.cases.conftest import ColourEncoder, paint

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    cli_cases.register(app)
    monkeypatch.setattr(cli_cases, "_load_encoder", lambda name: ColourEncoder())
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"faiss:{tmp_path / 'store'}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Six labelled pictures of three slides."""
    folder = tmp_path / "archive"
    rows = []
    for number, colour in enumerate(["red", "red", "green", "blue", "red", "blue"]):
        paint(folder / f"{number}.png", colour, number)
        organ = {"red": "liver", "green": "lung", "blue": "spleen"}[colour]
        rows.append({"image": f"{number}.png", "organ": organ, "slide": f"secret {number // 2}", "diagnosis": colour})
    (folder / "index.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_build_info_search_delete(run: Run, url: str, archive: Path) -> None:
    built = run("index", "build", archive, "--store", url)
    assert (built.exit_code, built.stderr) == (0, "")
    assert "6 cases; 6 added, 0 updated, 0 unchanged, 0 duplicates, 0 unreadable" in built.stdout
    again = as_json(run("index", "build", archive, "--store", url, "--json"))
    assert (again["added"], again["unchanged"], again["failed"], again["total"]) == (0, 6, 0, 6)

    info = as_json(run("index", "info", "--store", url, "--json"))
    assert (info["cases"], info["groups"], info["index"], info["recall"]) == (6, 3, "flat", None)
    assert info["organs"] == {"liver": 3, "spleen": 2, "lung": 1}
    assert info["identity"]["encoder"] == "colours-1"
    text = run("index", "info", "--store", url).stdout
    assert "6 cases of 3 slides or patients" in text
    assert "liver 3" in text

    found = run("search", "--store", url, "--text", "green", "-k", 2)
    assert found.exit_code == 0
    assert "green, lung" in found.stdout.splitlines()[0]
    assert found.stdout.rstrip().endswith(DISCLAIMER)
    only = run(
        "search", "--store", url, "--text", "green", "--where", "organ=liver", "--where", "organ=spleen", "--json"
    )
    assert {hit["organ"] for hit in as_json(only)["hits"]} == {"liver", "spleen"}

    identifier = as_json(found_json := run("search", "--store", url, "--text", "green", "--json"))["hits"][0]["id"]
    assert "secret" not in found_json.stdout
    assert str(archive) not in found_json.stdout
    removed = as_json(run("index", "delete", identifier, "--store", url, "--where", "organ=spleen", "--json"))
    assert removed == {"deleted": 3, "total": 3}


def test_search_by_image_and_its_options(run: Run, url: str, archive: Path) -> None:
    run("index", "build", archive, "--store", url)
    image = archive / "0.png"
    hits = as_json(run("search", "--store", url, "--image", image, "--json", "-k", 9))["hits"]
    assert len(hits) == 4  # without the two of its slide
    assert hits[0]["organ"] == "liver"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    picture = base64.b64decode(hits[0]["thumbnail"].removeprefix("data:image/jpeg;base64,"))
    assert load_image(picture).size == (40, 30)
    assert len(as_json(run("search", "--store", url, "--image", image, "--same-group", "--json"))["hits"]) == 5
    words = ("search", "--store", url, "--image", image, "--image", archive / "2.png", "--text", "blue")
    assert as_json(run(*words, "--weight", 0, "--mmr", 0.9, "--json"))["hits"][0]["organ"] == "spleen"
    nothing = run("search", "--store", url, "--image", image, "--where", "group=secret 0")
    assert nothing.exit_code == 0
    assert "--same-group shows those too" in nothing.stdout


def test_unreadable_files_give_exit_code_1(run: Run, url: str, archive: Path) -> None:
    (archive / "3.png").write_text("not a picture")
    result = run("index", "build", archive, "--store", url)
    assert result.exit_code == 1
    assert "5 added" in result.stdout
    assert "1 unreadable" in result.stdout
    assert result.stderr.startswith("skipped: '3.png'")
    value = as_json(run("index", "build", archive, "--store", url, "--json"))
    assert (value["failed"], len(value["errors"])) == (1, 1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("index", "build", "nowhere", "--store", "STORE"), 2, "'nowhere' does not exist"),
        (("index", "build", "ARCHIVE", "--store", "milvus:x"), 2, "not a store URL"),
        (("index", "info", "--store", "STORE"), 2, "there is no case store"),
        (("index", "delete", "--store", "STORE"), 2, "nothing to delete was named"),
        (("search", "--store", "STORE"), 2, "nothing to search for"),
        (("search", "--store", "STORE", "--text", "red"), 2, "there is no case store"),
        (("search", "--store", "STORE", "--text", "red", "--where", "organ"), 2, "not KEY=VALUE"),
    ],
)
def test_errors(run: Run, url: str, archive: Path, words: tuple[str, ...], code: int, message: str) -> None:
    named = [{"STORE": url, "ARCHIVE": str(archive)}.get(word, word) for word in words]
    plain = run(*named)
    assert (plain.exit_code, len(plain.stderr.splitlines())) == (code, 1)
    assert message in plain.stderr
    assert message in as_json(run(*named, "--json"))["error"]["message"]


def test_without_ray_the_other_engine_is_named(
    run: Run, url: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = run("index", "build", archive, "--store", url, "--engine", "ray")
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (1, 1)
    assert "pip install 'pathassist[ray]', or use --engine local" in missing.stderr


def test_errors_of_an_existing_store(run: Run, url: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", "build", archive, "--store", url)
    wrong = run("search", "--store", url, "--text", "red", "--where", "organ=skin")
    assert (wrong.exit_code, "known values: liver, spleen, lung" in wrong.stderr) == (2, True)
    gone = run("search", "--store", url, "--image", archive / "gone.png")
    assert (gone.exit_code, "does not exist" in gone.stderr) == (2, True)
    writer = open_store(url, identity_of(ColourEncoder()), write=True)
    busy = run("index", "build", archive, "--store", url)
    writer.close()
    assert (busy.exit_code, "another process is writing" in busy.stderr) == (1, True)
    monkeypatch.setattr(cli_cases, "_load_encoder", lambda name: ColourEncoder(weights="2"))
    for words in (("index", "build", archive), ("search", "--text", "red")):
        other = run(*words, "--store", url)
        assert (other.exit_code, "encoder colours-1, not with encoder colours-2" in other.stderr) == (2, True)
