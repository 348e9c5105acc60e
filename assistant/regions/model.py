"""The shipped networks on a field of any size: tiles with a margin, maps put together, instances and boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import NotAvailable
from assistant.model.engine import fast_bfloat16
from assistant.regions.instances import (
    GLANDS,
    NUCLEI,
    Settings,
    cells,
    chances,
    outlined,
    resized,
    shares,
    suppress,
)
from assistant.regions.network import HEADS, OFFSETS, STRIDES, Trunk

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "regions"
#: Pixels at which the heads were trained, in micrometres where the sources state it.
MPP = {"nuclei": 0.25, "glands": 1.24, "tissue": 1.0}
#: Sizes over its own and mirrorings in which a field is looked at; chances are averaged. Chosen on val.
VIEWS = {
    "nuclei": ((1.5, False),),
    "glands": ((1.0, False), (1.0, True)),
}
#: What was scanned coarser is enlarged to a head's scale; past this, views would show no more and cost time.
_LARGEST = 1.5
#: Size at which the blood head sees a field of 640 × 480 pixels over its own.
BLOOD_SCALE = 0.5
_TILE, _MARGIN = 512, 64
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Instances:
    """What was outlined: ids [H, W] in pixels of the input, and where there are kinds their chances [N, K]."""

    ids: NDArray[np.int32]
    kinds: NDArray[np.float32] | None = None


class Regions:
    """The network, or one for all heads and others for some, with weights; one call at a time per object.

    Args:
        trunk: In evaluation mode.
        research: Weights from sources without an open licence.
        version: Short hash of the weights.
        own: Networks that read a head instead of ``trunk``; they may share its encoder.

    Attributes:
        trunks: Which network has a head.
        half: The network runs in bfloat16; so it does where the processor has it.
    """

    def __init__(self, trunk: Trunk, *, research: bool, version: str, own: Mapping[str, Trunk] | None = None) -> None:
        self.trunks: dict[str, Trunk] = {head: trunk.eval() for head in trunk.heads}
        self.trunks |= {head: one.eval() for head, one in (own or {}).items()}
        self.research, self.version = research, version
        self.half = fast_bfloat16()

    def maps(self, pixels: Pixels, heads: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Maps [C, H/stride, W/stride] (logits) of a field [H, W, 3] at the scale it has."""
        height, width = pixels.shape[:2]
        out = {h: np.zeros((HEADS[h], -(-height // STRIDES[h]), -(-width // STRIDES[h])), np.float32) for h in heads}
        for y in range(0, height, _TILE):
            for x in range(0, width, _TILE):
                self._tile(pixels, x, y, heads, out)
        return out

    def _tile(self, pixels: Pixels, x: int, y: int, heads: Sequence[str], out: dict[str, NDArray[np.float32]]) -> None:
        height, width = pixels.shape[:2]
        x1, y1 = min(x + _TILE, width), min(y + _TILE, height)
        left, top = max(0, x - _MARGIN), max(0, y - _MARGIN)
        found, _ = self.look(pixels[top : min(y1 + _MARGIN, height), left : min(x1 + _MARGIN, width)], heads)
        for head in heads:
            s = STRIDES[head]
            rows, columns = slice(y // s, -(-y1 // s)), slice(x // s, -(-x1 // s))
            r, c = (y - top) // s, (x - left) // s
            out[head][:, rows, columns] = found[head][
                :, r : r + rows.stop - rows.start, c : c + columns.stop - columns.start
            ]

    def look(self, pixels: Pixels, heads: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """One pass over a field [H, W, 3]: maps [C, H/stride, W/stride] (logits) of those ``heads`` that there are,
        and the decoder's map [F, H/4, W/4] of the network of the first; sides are rounded up.

        Raises:
            NotAvailable: None of the heads is there.
        """
        there = [h for h in heads if h in self.trunks]
        if not there:
            raise NotAvailable(f"these weights read none of: {', '.join(heads)}; they read {', '.join(self.trunks)}")
        height, width = pixels.shape[:2]
        room = ((0, -height % 32), (0, -width % 32), (0, 0))
        padded = np.pad(pixels, room, mode="symmetric" if min(height, width) >= 32 else "edge")
        tensor = torch.from_numpy(np.ascontiguousarray(padded)).permute(2, 0, 1)[None].float() / 127.5 - 1
        tensor = tensor.to(memory_format=torch.channels_last)
        # Half the time where the processor has it; PQ on val moves by at most 0.003.
        fast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half)
        with torch.inference_mode(), fast:
            found: dict[str, torch.Tensor] = {}
            seen: list[torch.Tensor] = []
            stages: dict[Any, list[torch.Tensor]] = {}  # of each encoder: some are shared
            for trunk in dict.fromkeys(self.trunks[h] for h in there):
                mine = [h for h in there if self.trunks[h] is trunk]
                if trunk.encoder not in stages:
                    stages[trunk.encoder] = trunk.encoder(tensor)
                fine = min(STRIDES[h] for h in mine) <= 2
                half, quarter = trunk.features(tensor, fine, stages[trunk.encoder])
                found |= {h: trunk.head(h, tensor, half, quarter) for h in mine}
                seen.append(quarter)

        def cut(maps: torch.Tensor, stride: int) -> NDArray[np.float32]:
            kept: NDArray[np.float32] = maps[0, :, : -(-height // stride), : -(-width // stride)].float().numpy()
            return kept

        return {h: cut(maps, STRIDES[h]) for h, maps in found.items()}, cut(seen[0], 4)

    def nuclei(self, pixels: Pixels, mpp: float = MPP["nuclei"], settings: Settings = NUCLEI) -> Instances:
        """Nuclei of a field [H, W, 3] with the chances of ``NUCLEUS_KINDS``."""
        return self._instances("nuclei", pixels, mpp / MPP["nuclei"], settings)

    def glands(self, pixels: Pixels, mpp: float = MPP["glands"] / 2, settings: Settings = GLANDS) -> Instances:
        """Glands of a field [H, W, 3]; 0.62 µm a pixel is 20x of the scanner the set was made with."""
        return self._instances("glands", pixels, mpp / MPP["glands"], settings)

    def _instances(self, head: str, pixels: Pixels, scale: float, settings: Settings) -> Instances:
        height, width = pixels.shape[:2]
        seen = self._chances(head, rescaled(pixels, scale), max(1.0, _LARGEST / scale))
        ids, kinds = outlined(seen, settings)
        return Instances(smooth_enlarged(ids, (height, width)), kinds)

    def _chances(self, head: str, pixels: Pixels, largest: float = 2.0) -> NDArray[np.float32]:
        """Chances of foreground, distance and kinds, and offsets, [C, H, W] at the field's size: means over ``VIEWS``.

        Args:
            largest: No view is enlarged more.
        """
        total = np.zeros((HEADS[head], *pixels.shape[:2]), np.float32)
        for size, mirrored in VIEWS[head]:
            view = rescaled(pixels[:, ::-1] if mirrored else pixels, min(size, largest))
            # The last row and column of a map may reach over the edge of the field.
            whole = chances(self.maps(view, (head,))[head], STRIDES[head])
            whole = resized(whole[:, : view.shape[0], : view.shape[1]], pixels.shape[:2])
            if mirrored:
                whole = whole[:, :, ::-1]
                whole[OFFSETS][:1] *= -1
            total += whole
        total /= len(VIEWS[head])
        return total

    def tissue(self, pixels: Pixels, mpp: float = MPP["tissue"]) -> NDArray[np.float32]:
        """Chances of ``TISSUES`` [4, h, w] on a map of a quarter of the size at 1 µm a pixel."""
        return shares(self.maps(rescaled(pixels, mpp / MPP["tissue"]), ("tissue",))["tissue"])

    def blood(self, pixels: Pixels, scale: float = BLOOD_SCALE) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes [N, 4] xyxy in pixels of the field and scores [N, 3] of ``BLOOD_CELLS``, best first."""
        height, width = pixels.shape[:2]
        boxes, scores = cells(self.maps(rescaled(pixels, scale), ("blood",))["blood"])
        boxes = boxes * STRIDES["blood"] / scale
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        kept = suppress(boxes, scores)
        return boxes[kept], scores[kept]


def rescaled(pixels: Pixels, scale: float) -> Pixels:
    """A field at ``scale`` of its size, at least 32 pixels a side."""
    height, width = pixels.shape[:2]
    size = max(32, round(width * scale)), max(32, round(height * scale))
    if size == (width, height):
        return pixels
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def smooth_enlarged(ids: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Instance ids at another size, nearest neighbour."""
    rows = ((np.arange(shape[0]) + 0.5) * ids.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * ids.shape[1] / shape[1]).astype(int)
    found: NDArray[np.int32] = ids[rows][:, columns]
    return found


@lru_cache(maxsize=2)
def load_regions(*, research: bool = True) -> Regions:
    """The shipped networks: of all sources, or with ``research=False`` of the openly licensed ones.

    Raises:
        NotAvailable: The weights are missing or damaged.
    """
    if research:
        own = {head: WEIGHTS / f"{head}.safetensors" for head in ("nuclei", "glands")}
        return read_regions(WEIGHTS / "regions.safetensors", own=own)
    return read_regions(WEIGHTS / "regions-open.safetensors", research=False)


def read_regions(path: Path, research: bool = True, own: Mapping[str, Path] | None = None) -> Regions:
    """A network from a file, and from others those that some heads have of their own.

    Raises:
        NotAvailable: No such file, or it is not one of ours.
    """
    from assistant.model.cache import sha256

    trunk = read_trunk(path)
    others = {head: read_trunk(file, trunk) for head, file in (own or {}).items()}
    version = "-".join(sha256(file)[:12] for file in (path, *(own or {}).values()))
    return Regions(trunk, research=research, version=version, own=others)


def read_trunk(path: Path, shared: Trunk | None = None) -> Trunk:
    """One network from a file.

    Args:
        shared: Its encoder is taken where the file holds none.

    Raises:
        NotAvailable: No such file, or it is not one of ours.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise NotAvailable(
            f"no weights {path.name} for nuclei, glands, tissue and blood cells; restore them with "
            "`git checkout -- assistant/weights`, or train them: pathassist train regions"
        )
    try:
        state: dict[str, Any] = {k: v.float() for k, v in load_file(path).items()}
        heads, outlined = (
            tuple(h for h in HEADS if any(k.startswith(f"{part}.{h}.") for k in state))
            for part in ("heads", "outlines")
        )
        trunk = Trunk(heads, outlined)
        if shared is not None and not any(k.startswith("encoder.") for k in state):
            trunk.encoder = shared.encoder
            state |= {f"encoder.{k}": v for k, v in shared.encoder.state_dict().items()}
        trunk.load_state_dict(state, strict=False)
        missing = [k for k in trunk.state_dict() if k not in state and "num_batches" not in k]
        if missing:
            raise KeyError(missing[0])
    except (SafetensorError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NotAvailable(f"{path.name} is not this network's: {reason}; restore it with git checkout") from error
    return trunk.to(memory_format=torch.channels_last).eval()
