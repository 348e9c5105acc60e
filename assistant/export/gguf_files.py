"""A preset as GGUF files: ``model-TYPE.gguf`` and, for ViT towers, ``mmproj-f16.gguf``, with card and checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from assistant.errors import NotAvailable
from assistant.export.card import check_target, write_card, write_sums
from assistant.export.gguf_language import write_language
from assistant.export.gguf_vision import why_not, write_mmproj
from assistant.model.cache import atomic_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from assistant.model.preset import Preset

Kind = Literal["f32", "f16", "q8_0"]
#: How transformers stores the parts of a LLaVA → how it names them in memory.
_STORED = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
_USE = """```
llama-server -m model-{kind}.gguf{mmproj} --jinja
```
"""
PADS = (
    "llama.cpp pads an image that is not square with grey, where pathassist squashes it: crop to a square first for "
    "the same pixels."
)
#: https://github.com/ggml-org/llama.cpp/issues/25814: this file is in the layout that the graph's inputs expect.
FAULT_25814 = (
    "llama.cpp has a known fault with CLIP towers of LLaVA (its issue 25814, open when this was written): it puts the "
    "class token behind the patches, so patches get their neighbour’s position and the first is lost. Answers about "
    "images there differ from those of Hugging Face until it is mended; text answers do not."
)


@dataclass(frozen=True)
class Exported:
    """What was written; ``blind`` says why the model has no eyes there, "" where it has."""

    folder: Path
    language: Path
    mmproj: Path | None
    blind: str


def export_gguf(folder: Path, preset: Preset, out: Path, kind: Kind = "f16") -> Exported:
    """Write the files; ``out`` appears whole or not at all.

    Args:
        folder: From :func:`assistant.model.load.assembled_folder` (LoRA merged).
        preset: What it was made from.
        out: A new or empty folder.
        kind: Format of the language model's matrices.

    Raises:
        BadInput: ``out`` holds something, or a part that the format cannot hold.
        NotAvailable: Weights that are missing or in another format.
    """
    check_target(out)
    blind = why_not(folder)
    state = Tensors(folder)
    if out.is_dir():
        out.rmdir()
    with atomic_folder(out.absolute()) as partial:
        write_language(folder, state, partial / f"model-{kind}.gguf", kind, f"pathassist {preset.name}")
        if not blind:
            write_mmproj(folder, state, partial / "mmproj-f16.gguf")
        use = _USE.format(kind=kind, mmproj="" if blind else " --mmproj mmproj-f16.gguf")
        notes = [f"There is no mmproj file: {blind}. The file answers text only."] if blind else [FAULT_25814, PADS]
        notes.append("Confidence, abstention and evidence are pathassist’s own and not part of these files.")
        write_card(partial, preset, f"pathassist {preset.name}, GGUF {kind}", use, notes)
        write_sums(partial)
    return Exported(out, out / f"model-{kind}.gguf", None if blind else out / "mmproj-f16.gguf", blind)


class Tensors(Mapping[str, "NDArray[np.float32]"]):
    """The tensors of a Hugging Face folder by name, read one at a time as float32."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise NotAvailable(f"{folder} holds no .safetensors; run `pathassist doctor --fix`")
        opened: list[Any] = [safe_open(path, framework="pt") for path in files]
        self._where = {_today(name): (one, name) for one in opened for name in one.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        opened, stored = self._where[name]
        found: NDArray[np.float32] = opened.get_tensor(stored).float().numpy()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _today(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in _STORED.items() if name.startswith(old)), name)
