"""``pathassist export hf`` and ``pathassist export gguf``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, Model, Source, finish
from assistant.errors import BadInput

if TYPE_CHECKING:
    from assistant.model.preset import Preset

export_app = typer.Typer(help="Write a model for other programs.", no_args_is_help=True, rich_markup_mode=None)


class Quantized(StrEnum):
    """Formats of the matrices in a GGUF file."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


Out = Annotated[Path, typer.Option(help="New or empty folder for the files.")]
From = Annotated[Source, typer.Option(help="Where missing weights may come from.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``pathassist``."""
    app.add_typer(export_app, name="export")


@export_app.command(
    epilog="""\b
Examples:
  pathassist export hf --out exported
  pathassist export hf --model qwen-7b --source hub --out exported-qwen
"""
)
def hf(out: Out, model: Model = "embedded", source: From = Source.WHEELS, as_json: Json = False) -> None:
    """Write a Hugging Face folder: weights, tokenizer, processor, card, checksums."""
    from assistant.export.hf import NEEDS_US, export_hf, loads_plainly

    preset, folder = _assembled(model, source, quiet=as_json)
    written = export_hf(folder, preset, out)
    plain = loads_plainly(written)
    text = f"{written}: " + ("loads with plain transformers" if plain else NEEDS_US)
    value = {"written": str(written), "plain_transformers": plain, "disclaimer": DISCLAIMER}
    finish(as_json, value, f"{text}\n{DISCLAIMER}")


@export_app.command(
    epilog="""\b
Examples:
  pathassist export gguf --out exported-gguf
  pathassist export gguf --type q8_0 --out exported-q8
"""
)
def gguf(
    out: Out,
    model: Model = "embedded",
    kind: Annotated[Quantized, typer.Option("--type", help="Format of the language model’s matrices.")] = Quantized.F16,
    source: From = Source.WHEELS,
    as_json: Json = False,
) -> None:
    """Write GGUF files for llama.cpp: the language model, and an mmproj file where the tower is a ViT."""
    from assistant.export.gguf_files import export_gguf

    preset, folder = _assembled(model, source, quiet=as_json)
    made = export_gguf(folder, preset, out, kind.value)
    value = {
        "language": str(made.language),
        "mmproj": str(made.mmproj) if made.mmproj else None,
        "why_no_mmproj": made.blind or None,
        "disclaimer": DISCLAIMER,
    }
    eyes = f"and {made.mmproj}" if made.mmproj else f"no mmproj file, so text only: {made.blind}"
    finish(as_json, value, f"{made.language}, {eyes}\n{DISCLAIMER}")


def _assembled(name: str, source: Source, *, quiet: bool) -> tuple[Preset, Path]:
    from assistant.model.load import assembled_folder
    from assistant.model.preset import load_preset

    preset = load_preset(name)
    if preset.language is None:
        raise BadInput(f"the preset {name} has no weights of its own to export; choose one with a language model")
    return preset, assembled_folder(preset, source=source.value, progress=not quiet)
