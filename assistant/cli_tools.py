"""``pathassist tools list`` and ``pathassist tools run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, finish, print_json, say
from assistant.errors import BadInput
from assistant.files import whole, write_text

if TYPE_CHECKING:
    from assistant.tools import Tool, ToolCall

tools_app = typer.Typer(
    help="Sub-models that measure, count and classify.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``pathassist``."""
    app.add_typer(tools_app, name="tools")


@tools_app.command("list", epilog="\b\nExample:\n  pathassist tools list --json\n")
def list_tools(as_json: Json = False) -> None:
    """Show every tool with its card: task, stains, licence, and what was measured of it."""
    from assistant.tools import find_tools

    registry = find_tools()
    rows = [_row(found) for found in registry.tools.values()]
    lines = []
    for row in rows:
        lines.append(f"{row['name']}{'  (research only)' if row['research_only'] else ''}\n    {row['task']}")
        lines.append(f"    stains: {', '.join(row['stains']) or 'any'}; licence: {row['licence']}")
        lines += [f"    {text}" for text in row["measured_text"]] or ["    not measured"]
    lines += [f"{name}: {why}" for name, why in registry.waiting.items()]
    lines += [f"{name}: cannot be used: {why}" for name, why in registry.broken.items()]
    summary = {"tools": rows, "waiting": registry.waiting, "broken": registry.broken, "disclaimer": DISCLAIMER}
    finish(as_json, summary, "\n".join([*lines, DISCLAIMER]))


@tools_app.command(
    epilog="""\b
Examples:
  pathassist tools run check_quality field.png
  pathassist tools run segment_nuclei field.png --arg mpp=0.25 --overlay nuclei.png --geojson nuclei.geojson
  pathassist tools run score_ihc her2.png --arg compartment=membrane --json
"""
)
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Tool, see `pathassist tools list`.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="The field, and further ones it needs.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the tool; may be repeated.")
    ] = None,
    overlay: Annotated[Path | None, typer.Option(help="File for the picture with the result drawn on it.")] = None,
    geojson: Annotated[Path | None, typer.Option(help="File for outlines; QuPath opens it.")] = None,
    store: Annotated[str, typer.Option(envvar="PATHASSIST_STORE", help="Case library for find_similar_cases.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest it may take, in seconds.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Run one tool on an image."""
    from assistant.images.intake import load_images
    from assistant.tools import ToolState, find_tools, run_call
    from assistant.tools.schema import image_parameters

    tool = find_tools()[name]
    arguments = _arguments(arg or [])
    for number, parameter in enumerate(image_parameters(tool), start=1):
        arguments.setdefault(parameter, number)
    if overlay is not None and overlay.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise BadInput(f"--overlay is {overlay.name!r}; its name must end in .png, .jpg or .webp")
    if images is None and image_parameters(tool):
        raise BadInput(f"{name} needs an image; name one: pathassist tools run {name} field.png")
    with ToolState(load_images(images or []), store=store, timeout=timeout) as state:
        call = run_call(name, arguments, state)
    written = write_files(call, overlay, geojson) if call.status == "ok" else {}
    if as_json:
        print_json(call.to_json() | {"written": written, "disclaimer": DISCLAIMER})
    else:
        say(call.result.text, err=call.status != "ok")
        for warning in call.result.warnings:
            say(f"warning: {warning}", err=True)
        if call.status == "ok":
            print_json(call.result.numbers)
            say(DISCLAIMER)
    raise typer.Exit({"ok": 0, "refused": 2}.get(call.status, 1))


def _row(tool: Tool) -> dict[str, Any]:
    from dataclasses import asdict

    from assistant.tools import json_schema
    from assistant.tools.schema import summary

    card = tool.card
    return {
        "name": tool.name,
        "description": summary(tool),
        **asdict(card),
        "measured": [asdict(one) for one in tool.measured],
        "measured_text": [str(one) for one in tool.measured],
        "arguments": json_schema(tool),
    }


def _arguments(words: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; the schema turns the values into numbers."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"--arg is {word!r}; write it as key=value, for example --arg mpp=0.25")
        found[key] = value
    return found


def write_files(call: ToolCall, overlay: Path | None, geojson: Path | None) -> dict[str, str]:
    """Write what was asked for, whole or not at all."""
    written: dict[str, str] = {}
    if overlay is not None:
        if not call.result.overlays:
            raise BadInput(f"{call.name} has nothing to draw on this image; leave --overlay out")
        with whole(overlay) as partial:
            next(iter(call.result.overlays.values())).save(partial)
        written["overlay"] = str(overlay)
    if geojson is not None:
        if call.result.geojson is None:
            raise BadInput(f"{call.name} gives no outlines; leave --geojson out")
        write_text(geojson, json.dumps(call.result.geojson))
        written["geojson"] = str(geojson)
    return written
