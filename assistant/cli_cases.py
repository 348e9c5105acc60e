"""``pathassist index`` and ``pathassist search``: a library of cases and the ones most like a query."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, finish, print_json, say
from assistant.errors import BadInput

if TYPE_CHECKING:
    from assistant.cases.ingest import BuildResult
    from retrieval.records import Hit
    from retrieval.store import VectorStore

Store = Annotated[str, typer.Option("--store", help="faiss:DIR, or postgresql://user@host/database with pgvector.")]
Filters = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="KEY=VALUE", help="Only cases with this label; one key twice means either value."),
]


class Engine(StrEnum):
    """What spreads the work of a build."""

    LOCAL = "local"
    RAY = "ray"


index_app = typer.Typer(help="Make and keep a library of cases.", no_args_is_help=True, rich_markup_mode=None)


@index_app.command(
    epilog="""\b
Examples:
  pathassist index build archive/ --store faiss:cases
  pathassist index build archive/index.jsonl --store postgresql://me@server/pathology
  RAY_ADDRESS=head:6379 pathassist index build /mnt/archive --store postgresql://… --engine ray
"""
)
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder of images or slides, index.jsonl, .csv, a slide, or a saved dataset."
        ),
    ],
    store: Store,
    encoder: Annotated[str, typer.Option(help="Encoder preset.")] = "pathclip-small",
    engine: Annotated[
        Engine, typer.Option(help="What spreads the work; ray also over several machines.")
    ] = Engine.LOCAL,
    tile_pixels: Annotated[int, typer.Option(help="Slides are cut into tiles of this side.")] = 256,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of a tile; default the full resolution of the slide.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add the cases of a source, or bring them up to date; run it again after an interruption."""
    from assistant.cases import our_errors
    from assistant.cases.ingest import build as build_cases
    from assistant.cases.ingest import identity_of
    from assistant.cases.ray_engine import embed_all
    from assistant.cases.slides import Tiling
    from assistant.cases.sources import read_source
    from retrieval.store import open_store

    items = read_source(source, Tiling(tile_pixels, mpp))
    loaded = _load_encoder(encoder)
    with our_errors():
        opened = open_store(store, identity_of(loaded), write=True)
    try:
        progress = (lambda _: None) if as_json else _progress()
        spread = partial(embed_all, encoder=encoder, identity=loaded.id) if engine is Engine.RAY else None
        result = build_cases(items, opened, loaded, engine=spread, on_progress=progress)
    finally:
        opened.close()
    summary = (
        f"{opened.url}: {result.total} cases; {result.added} added, {result.updated} updated,"
        f" {result.unchanged} unchanged, {result.duplicates} duplicates, {len(result.failed)} unreadable,"
        f" in {result.seconds:.1f} s"
    )
    if not as_json:
        for line in result.failed:
            say(f"skipped: {line}", err=True)
    finish(as_json, result.to_dict(), summary)
    if result.failed:
        raise typer.Exit(1)


@index_app.command(epilog="\b\nExample:\n  pathassist index info --store faiss:cases\n")
def info(store: Store, as_json: Json = False) -> None:
    """Show what a library holds and how it is indexed."""
    from assistant.cases import our_errors
    from retrieval.search import Similarity

    with our_errors():
        opened = _open(store)
        try:
            found = opened.info()
            organs, diagnoses = opened.values("organ"), opened.values("diagnosis")
            similarity = Similarity.read(opened)
        finally:
            opened.close()
    recall = "exact" if found.recall is None else f"recall@10 {found.recall:.3f}"
    pairs = f"{similarity.pairs} pairs" if similarity else "too few pairs of one diagnosis"
    text = "\n".join(
        (
            f"{found.url}: {found.cases} cases of {found.groups} slides or patients, {found.bytes / 1e6:,.1f} MB",
            f"encoder {found.identity.encoder}, {found.identity.dimension} numbers a vector; {found.index}, {recall}",
            f"organs: {_counts(organs)}",
            f"diagnoses: {_counts(diagnoses)}",
            f"calibrated similarity: {pairs}",
        )
    )
    value = {
        "url": found.url, "cases": found.cases, "groups": found.groups, "bytes": found.bytes, "index": found.index,
        "recall": found.recall, "indexed": found.indexed, "identity": found.identity.to_dict(), "organs": organs,
        "diagnoses": diagnoses, "calibration_pairs": similarity.pairs if similarity else 0,
    }  # fmt: skip
    finish(as_json, value, text)


@index_app.command(epilog="\b\nExample:\n  pathassist index delete --store faiss:cases --where source=old-archive\n")
def delete(
    store: Store,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Cases to remove.")] = None,
    where: Filters = None,
    as_json: Json = False,
) -> None:
    """Remove cases by id, or all that match the filters; their images stay where they are."""
    from assistant.cases import our_errors

    if not ids and not where:
        raise BadInput("nothing to delete was named; give ids, or --where key=value")
    filters = _filters(where)
    with our_errors():
        opened = _open(store, write=True)
        try:
            named = {*(ids or []), *(opened.ids(filters) if filters else [])}
            removed = opened.delete(named)
            opened.optimize()
            left = len(opened)
        finally:
            opened.close()
    finish(as_json, {"deleted": removed, "total": left}, f"{opened.url}: {removed} cases removed, {left} left")


def search(
    store: Store,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Look like this; several are averaged.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Look like this description.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many cases.")] = 5,
    where: Filters = None,
    weight: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images where a text is given too; 0 is text alone.")
    ] = 0.5,
    mmr: Annotated[
        float | None, typer.Option(min=0, max=1, help="Variety: 1 ranks by similarity alone, 0 by difference alone.")
    ] = None,
    same_group: Annotated[
        bool, typer.Option("--same-group", help="Also show cases of the query's own slide or patient.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the cases most like an image, a description, or both."""
    from assistant.cases import our_errors
    from assistant.cases.find import find_cases

    if not image and not (text and text.strip()):
        raise BadInput("there is nothing to search for; give an image (--image), a text (--text) or both")
    filters = _filters(where)
    with our_errors():
        opened = _open(store)
        try:
            encoder = _load_encoder(opened.identity.encoder_name)
            options: dict[str, Any] = {"where": filters, "weight": weight, "mmr": mmr, "same_group": same_group}
            hits = find_cases(opened, encoder, image or [], text, k, **options)
            value = [_hit_object(hit, opened) for hit in hits] if as_json else []
        finally:
            opened.close()
    if as_json:
        print_json({"hits": value, "disclaimer": DISCLAIMER})
        return
    for rank, hit in enumerate(hits, 1):
        say(f"{rank:>3}  {_hit_line(hit)}")
    if not hits:
        say("no case is left outside the query's own slide or patient; --same-group shows those too")
    say(DISCLAIMER)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(index_app, name="index")
    app.command(
        epilog="""\b
Examples:
  pathassist search --store faiss:cases --image field.png
  pathassist search --store faiss:cases --image field.png --text "in the liver" --where stain=H&E -k 10
"""
    )(search)


def _load_encoder(name: str) -> Any:
    from assistant.model.encoders import load_encoder

    return load_encoder(name)


def _open(url: str, *, write: bool = False) -> VectorStore:
    """An existing store, whatever its encoder."""
    from retrieval.store import open_store

    return open_store(url, write=write)


def _filters(where: list[str] | None) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for text in where or []:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise BadInput(f"--where {text!r} is not KEY=VALUE, for example --where organ=liver")
        filters.setdefault(key.strip(), []).append(value.strip())
    return filters


def _progress(seconds: float = 5.0) -> Callable[[BuildResult], None]:
    """Prints a line every few seconds."""
    shown = time.monotonic()

    def show(result: BuildResult) -> None:
        nonlocal shown
        if time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            done = result.added + result.updated + result.unchanged + result.duplicates + len(result.failed)
            say(f"{done} images, {result.added} cases added", err=True)

    return show


def _counts(values: dict[str, int]) -> str:
    listed = [f"{name} {count}" for name, count in list(values.items())[:8]]
    return ", ".join(listed) + (f" and {len(values) - 8} more" if len(values) > 8 else "") if listed else "none"


def _hit_line(hit: Hit) -> str:
    labels = " · ".join(part for part in (hit.case.title, hit.case.organ, hit.case.stain) if part)
    rank = "" if hit.as_close is None else f"  closer than {hit.as_close:4.0%} of pairs of one diagnosis"
    return f"{hit.score:6.3f}{rank}  {labels}  [{hit.case.id}]"


def _hit_object(hit: Hit, store: VectorStore) -> dict[str, Any]:
    """A case for JSON, without its path and group, which may name a patient."""
    names = ("id", "title", "text", "organ", "stain", "diagnosis", "licence", "source")
    picture = store.thumbnail(hit.case)
    return {
        **{name: getattr(hit.case, name) for name in names},
        "score": round(hit.score, 6),
        "as_close": None if hit.as_close is None else round(hit.as_close, 4),
        "region": hit.case.region,
        "thumbnail": None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}",
    }
