"""From the maps of the network to things with outlines: instances by a seeded watershed, cells by peaks.

The distance head gives every pixel its distance to the outline as a share of the largest in its instance, so the cores
above a level are apart even where instances touch; they are the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assistant.regions.network import KINDS, OFFSETS

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How maps become instances; chosen on ``val`` (``python -m eval.regions --tune``).

    Attributes:
        foreground: Probability from which a pixel belongs to an instance.
        core: Distance from which it belongs to a seed.
        smooth: Sigma of the Gaussian on the distance, pixels of the field at the scale of the head.
        least: Smallest instance, such pixels.
        seed: Smallest seed, such pixels.
        sure: Least mean probability of an instance.
        border: Slope of the offsets, against their direction, from which a pixel lies between two instances.
        steep: Sigma of the Gaussian under that slope, pixels.
    """

    foreground: float = 0.5
    core: float = 0.4
    smooth: float = 1.5
    least: int = 30
    seed: int = 12
    sure: float = 0.0
    border: float = 0.1
    steep: float = 1.5


NUCLEI = Settings(core=0.35, sure=0.7)
GLANDS = Settings(foreground=0.5, core=0.1, smooth=2.0, least=480, seed=80)


def resized(maps: Map, shape: tuple[int, int]) -> Map:
    """Maps [C, h, w] at another size [C, H, W], bilinear."""
    import torch
    import torch.nn.functional as F

    if maps.shape[1:] == shape:
        return maps
    tensor = torch.from_numpy(np.ascontiguousarray(maps))[None]
    found: Map = F.interpolate(tensor, size=shape, mode="bilinear", align_corners=False)[0].numpy()
    return found


def shares(logits: Map) -> Map:
    """Softmax over the first axis: [K, h, w] to chances that sum to 1."""
    raised = np.exp(logits - logits.max(axis=0))
    found: Map = (raised / raised.sum(axis=0)).astype(np.float32)
    return found


def chances(maps: Map, stride: int) -> Map:
    """Logits of foreground, distance and kinds [C, h, w] as chances at the size of the input, [C, h·s, w·s]; offsets
    stay what they are, within -1…1."""
    import torch

    logits = torch.from_numpy(np.ascontiguousarray(maps))
    parts = [logits[:2].sigmoid()]
    if len(maps) > 2:
        parts += [logits[KINDS].softmax(dim=0), logits[OFFSETS].clamp(-1, 1)]
    found: Map = torch.cat(parts).numpy()
    return resized(found, (maps.shape[1] * stride, maps.shape[2] * stride))


def instances(foreground: Map, distance: Map, settings: Settings, offsets: Map | None = None) -> NDArray[np.int32]:
    """Instance ids [H, W] from probabilities of foreground and distances, both [H, W], and offsets [2, H, W]."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter
    from skimage.measure import label
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    mask = binary_fill_holes(foreground >= settings.foreground)
    mask = remove_small_objects(mask, max_size=settings.least - 1)
    smooth = gaussian_filter(distance, settings.smooth)
    between = borders(offsets, settings.steep) if offsets is not None else np.zeros_like(smooth)
    apart = mask & (between < settings.border)
    cores = remove_small_objects((smooth >= settings.core) & apart, max_size=settings.seed - 1)
    seeds = label(cores, connectivity=1)  # type: ignore[no-untyped-call]
    alone = label(mask, connectivity=1)  # type: ignore[no-untyped-call]
    # A piece without a seed is an instance of its own: small nuclei may stay under the level.
    without = np.setdiff1d(np.unique(alone), np.unique(alone[seeds > 0]))
    extra = np.isin(alone, without[without > 0])
    seeds = np.where(extra, alone + seeds.max(), seeds)
    found: NDArray[np.int32] = watershed(between - smooth, seeds, mask=mask).astype(np.int32)  # type: ignore[no-untyped-call]
    sizes = np.bincount(found.ravel())
    mean = np.bincount(found.ravel(), weights=foreground.ravel()) / np.maximum(sizes, 1)
    kept = (sizes >= settings.least) & (mean >= settings.sure)
    kept[0] = False
    numbers = (kept.cumsum() * kept).astype(np.int32)
    dense: NDArray[np.int32] = numbers[found]
    return dense


def outlined(seen: Map, settings: Settings) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """Instance ids [H, W] from what :func:`chances` gives of nuclei or glands, and of nuclei the kinds [N, K]."""
    if len(seen) == 2:
        return instances(seen[0], seen[1], settings), None
    ids = instances(seen[0], seen[1], settings, seen[OFFSETS])
    return ids, kinds_of(ids, seen[KINDS])


def borders(offsets: Map, sigma: float) -> Map:
    """How steeply offsets [2, H, W] fall from one instance to the next, [H, W]: they grow within each."""
    from scipy.ndimage import gaussian_filter

    across, down = (gaussian_filter(o, sigma, order=order) for o, order in zip(offsets, ((0, 1), (1, 0)), strict=True))
    found: Map = np.maximum(0, -np.minimum(across, down))
    return found


def kinds_of(ids: NDArray[np.int32], chances: Map) -> NDArray[np.float32]:
    """Mean probability of each kind in each instance: ids [H, W] and chances [K, H, W] to [N, K]."""
    count = int(ids.max())
    flat = ids.ravel()
    sizes = np.maximum(np.bincount(flat, minlength=count + 1)[1:], 1)
    sums = [np.bincount(flat, weights=c.ravel(), minlength=count + 1)[1:] for c in chances]
    return (np.stack(sums, axis=1) / sizes[:, None]).astype(np.float32)


def cells(maps: Map, least: float = 0.05, limit: int = 300) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes [N, 4] xyxy in cells of the map and scores [N, K] from the blood head's maps [K + 4, H, W] (logits)."""
    from scipy.ndimage import maximum_filter

    kinds = len(maps) - 4
    heat = 1 / (1 + np.exp(-maps[:kinds]))
    best = heat.max(axis=0)
    peaks = (best == maximum_filter(best, 3)) & (best >= least)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-best[rows, columns])[:limit]
    rows, columns = rows[order], columns[order]
    width, height = np.exp(np.clip(maps[kinds : kinds + 2, rows, columns], -3, 5))
    x, y = columns + maps[kinds + 2, rows, columns], rows + maps[kinds + 3, rows, columns]
    boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return boxes.astype(np.float32), heat[:, rows, columns].T.astype(np.float32)


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float = 0.5) -> NDArray[np.int64]:
    """Rows to keep, best first: of two boxes of one kind that overlap more than ``iou`` the better one stays."""
    import torch
    from torchvision.ops import batched_nms

    if not len(boxes):
        return np.zeros(0, np.int64)
    best = torch.from_numpy(scores.max(axis=1))
    kept = batched_nms(torch.from_numpy(boxes), best, torch.from_numpy(scores.argmax(axis=1)), iou)
    found: NDArray[np.int64] = kept.numpy()
    return found
