"""The documentation does what it says: commands exist and run, Python runs, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.test_project import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose commands and Python are run, in this order, in one folder.
RUN = [
    "docs/tutorial.md",
    "docs/reference/python.md",
    "docs/how-to/own-archive.md",
    "docs/how-to/grounding.md",
    "README.md",
]
DONE: set[str] = set()
#: They serve until they are stopped, train, or take many minutes; their options are checked all the same.
NOT_RUN = {"ui", "serve", "train", "eval", "report"}
Fence = tuple[str, str]


def fences(path: Path) -> list[Fence]:
    """(language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The ``pathassist`` commands of a block; settings in front and remarks behind are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if "pathassist" not in line:
            continue
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:1] == ["pathassist"]:
            found.append(words[1:])
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL = [
    (name_of(p), words)
    for p in PAGES
    for language, text in fences(p)
    if language in ("", "console")
    for words in commands(text)
]


@cache
def root_command() -> Any:
    from assistant.cli import app

    return typer.main.get_command(app)


def walk(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(" ".join(path), command)]
    return [found for name, child in command.commands.items() for found in walk(child, (*path, name))]


def parse(words: list[str]) -> None:
    """Let the command line read its arguments without doing anything."""
    command, path = root_command(), []
    while hasattr(command, "commands"):
        assert words, "a command is missing"
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    command.make_context(path[-1], [word.replace("…", "x") for word in words], parent=None)


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page}: {' '.join(words)[:50]}" for page, words in ALL])
def test_every_command_parses(page: str, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["ask", "x.png"], ["ask", "x.png", "-q", "a", "--no-such"], ["nothing"]])
def test_the_parser_finds_wrong_commands(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|no such|no command"):
        parse(words)


@pytest.mark.parametrize("name", [name for name, _ in walk(root_command())])
def test_every_command_has_help_with_an_example_that_parses(name: str) -> None:
    command = dict(walk(root_command()))[name]
    assert command.help
    found = commands((command.epilog or "").replace("\b", ""))
    assert found, f"`pathassist {name} --help` shows no example"
    for words in found:
        parse(words)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|mailto:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_blocks_are_what_they_say(path: Path) -> None:
    for language, text in fences(path):
        if language == "python":
            compile(text, name_of(path), "exec")
        elif language == "json":
            json.loads(text)
        elif language == "toml":
            __import__("tomllib").loads(text)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_fits_the_style(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "/work/" not in text
    assert "/tmp/" not in text
    assert text.endswith("\n")
    assert not re.search(r"(?i)\b(state[- ]of[- ]the[- ]art|seamless|cutting[- ]edge|powerful|blazing)", text)


def test_every_picture_is_shown_and_small() -> None:
    shown = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"images/{picture.name}" in shown
        assert picture.stat().st_size < 400_000


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        if path.name != "README.md":
            assert path.relative_to(ROOT / "docs").as_posix() in index


def test_every_card_is_in_the_index() -> None:
    index = (ROOT / "docs" / "model-cards.md").read_text(encoding="utf-8")
    for card in (ROOT / "assistant" / "weights").rglob("README.md"):
        assert card.relative_to(ROOT).as_posix() in index


def test_the_command_line_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.page(), "run: python docs/reference.py"


def test_an_example_tool_of_the_docs_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The how-to's tool, from its own words: schema, run in a process, refusal."""
    from PIL import Image

    from assistant.tools import Tool, json_schema

    source = next(t for language, t in fences(ROOT / "docs/how-to/own-tool.md") if language == "python")
    (tmp_path / "docs_tool.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("docs_tool").brightness
    assert isinstance(made, Tool)
    assert json_schema(made)["properties"]["floor"]["type"] == "integer"
    assert made(Image.new("RGB", (4, 4), "white")).numbers == {"mean": 255.0, "pixels": 16}
    with pytest.raises(Exception, match="floor is 300"):
        made(Image.new("RGB", (4, 4)), floor=300)


def test_an_example_benchmark_of_the_docs_runs(tmp_path: Path) -> None:
    """The how-to's task through the real runner, on two images."""
    from PIL import Image

    from eval.runner import run_task
    from tests.eval.fake_models import FakeModel

    source = next(t for language, t in fences(ROOT / "docs/how-to/own-benchmark.md") if language == "python")
    spec = importlib.util.spec_from_loader("docs_benchmark", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_benchmark"] = module
    exec(compile(source, "own-benchmark.md", "exec"), module.__dict__)  # noqa: S102
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "pink").save(tmp_path / name)
    (tmp_path / "stains.csv").write_text("image,slide,stain\na.png,1,H&E\nb.png,2,PAS\n")
    made = run_task(
        module.Stains(), FakeModel(lambda image, prompt: "It is H&E."), root=tmp_path, out=tmp_path / "out",
        shown=("image",), progress=lambda *_: None,
    )  # fmt: skip
    rows = made.summary
    assert rows.loc[rows["metric"] == "accuracy", "value"].tolist() == [0.5]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages' commands run in, with the files that they name."""
    import numpy as np
    from PIL import Image
    from skimage.color import hed2rgb, rgb2hed
    from skimage.data import immunohistochemistry

    folder = tmp_path_factory.mktemp("docs")
    field = Image.fromarray(immunohistochemistry())
    (folder / "images").mkdir()
    (folder / "archive").mkdir()
    for name in ("field.png", "a.png", "b.png", "images/one.png", "archive/one.png"):
        field.save(folder / name)
    # A reference has to be H&E: the same field with its brown made pink.
    stains = rgb2hed(np.asarray(field))
    pink = hed2rgb(np.stack([stains[..., 0], 2 * stains[..., 2], np.zeros_like(stains[..., 0])], axis=-1))
    Image.fromarray((pink * 255).round().astype(np.uint8)).save(folder / "reference.png")
    field.resize((4000, 3000)).save(folder / "slide.tif")
    (folder / "guideline.txt").write_text("Ki-67 is counted in hot spots.")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", RUN)
def test_commands_and_python_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real, with the shipped weights; the model is loaded once and shared."""
    from assistant import Assistant
    from assistant.cli import app
    from assistant.model.cache import cache_root
    from assistant.model.parts import part_named
    from assistant.model.store import cached_language

    if cached_language(part_named("smollm2-135m-instruct"), cache_root()) is None:
        pytest.skip("the weights are not here; run `pathassist doctor --fix`")
    monkeypatch.chdir(place)
    if page == "README.md":  # its tools read H&E
        Path("field.png").write_bytes(Path("reference.png").read_bytes())
    plain = Assistant.load

    def load(preset: str = "embedded", **keywords: Any) -> Assistant:
        assistant = loaded(preset)
        library, notes = keywords.get("library"), keywords.get("notes")
        from assistant.cases.library import Library
        from assistant.cases.notes import Notes

        assistant.library = Library.open(library) if library else None
        assistant.notes = Notes(notes) if notes else None
        return assistant

    @cache
    def loaded(preset: str) -> Assistant:
        return plain(preset, progress=False)

    monkeypatch.setattr(Assistant, "load", load)
    runner, names = CliRunner(), {"__name__": "docs"}
    for language, text in fences(ROOT / page):
        if language == "python" and "openai" not in text:
            exec(compile(text, page, "exec"), names)  # noqa: S102
        elif language == "":
            for line in text.splitlines():
                if line.startswith("echo "):
                    words, target = line.removeprefix("echo ").split(" > ")
                    Path(target).write_text(shlex.split(words)[0] + "\n")
            for words in commands(text):
                told = shlex.join(words)
                if words[0] in NOT_RUN or told in DONE or any("://" in word for word in words):
                    continue
                DONE.add(told)
                done = runner.invoke(app, words)
                assert done.exit_code == 0, f"pathassist {' '.join(words)}: {done.output[-500:]}"
    for written in re.findall(r"--out (\S+)", (ROOT / page).read_text(encoding="utf-8")) if page in RUN[:1] else ():
        assert Path(written).exists(), written
