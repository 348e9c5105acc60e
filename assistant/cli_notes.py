"""``pathassist notes``: the user's own texts, searched by words and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, finish, print_json, say
from assistant.errors import BadInput

Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder that keeps the notes.")]

notes_app = typer.Typer(
    help="Keep texts (guidelines, papers, notes) to quote from.", no_args_is_help=True, rich_markup_mode=None
)


@notes_app.command(epilog="\b\nExample:\n  pathassist notes add guideline.md report.txt --store notes\n")
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help=".txt or .md files in UTF-8.")],
    store: Store,
    as_json: Json = False,
) -> None:
    """Add texts; the same file again replaces what it held before."""
    from assistant.cases.notes import Notes

    notes = Notes(store, create=True)
    done, failed = [], []
    try:
        for file in files:
            try:
                done.append(notes.add(file))
            except BadInput as error:
                failed.append(str(error))
        total = len(notes)
    finally:
        notes.close()
    if not as_json:
        for line in failed:
            say(f"skipped: {line}", err=True)
    value = {"added": [vars(item) for item in done], "failed": failed, "passages": total}
    finish(as_json, value, f"{store}: {len(done)} texts added, {len(failed)} unreadable, {total} passages in all")
    if failed:
        raise typer.Exit(1)


@notes_app.command("list", epilog="\b\nExample:\n  pathassist notes list --store notes\n")
def list_notes(store: Store, as_json: Json = False) -> None:
    """Show the texts."""
    from assistant.cases.notes import Notes

    notes = Notes(store)
    try:
        found = notes.documents()
    finally:
        notes.close()
    text = "\n".join(f"{document.id}  {document.title}" for document in found) or "no texts"
    finish(as_json, {"notes": [{"id": d.id, "title": d.title} for d in found]}, text)


@notes_app.command(epilog="\b\nExample:\n  pathassist notes delete n-0123456789ab --store notes\n")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Texts to remove, as 'list' names them.")],
    store: Store,
    as_json: Json = False,
) -> None:
    """Remove texts; their files stay where they are."""
    from assistant.cases.notes import Notes

    notes = Notes(store)
    try:
        known = {document.id for document in notes.documents()}
        if unknown := [name for name in ids if name not in known]:
            raise BadInput(f"no text has the id {unknown[0]!r}; see: pathassist notes list --store {store}")
        removed = sum(notes.delete(name) for name in dict.fromkeys(ids))
        left = len(notes.documents())
    finally:
        notes.close()
    finish(as_json, {"deleted": removed, "left": left}, f"{store}: {removed} texts removed, {left} left")


@notes_app.command(epilog='\b\nExample:\n  pathassist notes search "grading of prostate cancer" --store notes\n')
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A question or keywords.")],
    store: Store,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    as_json: Json = False,
) -> None:
    """Find the passages that fit a question best."""
    from assistant.cases.notes import Notes

    notes = Notes(store)
    try:
        found = notes.search(text, k)
    finally:
        notes.close()
    if as_json:
        names = ("document", "place", "title", "text")
        rows = [{**{name: getattr(p, name) for name in names}, "score": round(p.score, 4)} for p in found]
        print_json({"passages": rows, "disclaimer": DISCLAIMER})
        return
    for rank, passage in enumerate(found, 1):
        say(f"{rank:>3}  {passage.score:6.3f}  {passage.title}  [{passage.document}]\n     {passage.text}")
    say(DISCLAIMER if found else f"no texts yet; add some: pathassist notes add FILE --store {store}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(notes_app, name="notes")
