"""Labels of the classification heads, and pooled features of the labelled sets, cached so that refits take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.images.intake import load_image
from assistant.model.cache import sha256
from assistant.tools.features import PATHCLIP, pooled_features
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

_CHUNK = 64
#: Set and fact of each site's labels.
SITES = {
    "colorectal": ("crc_polyp5", "colorectal"),
    "lung": ("lc25000_lung", "lung"),
    "oral": ("oral_oscc", "oral"),
    "lymph node": ("pcam_1k", "node"),
}
OTHER_SETS = ("atlas", "bccd_boxes", "herlev_pap")
OTHER = "other"


def labelled_features(cache: Path, folder: Path = PATHCLIP) -> tuple[list[Record], NDArray[np.float32]]:
    """All labelled records, ``train`` then ``val``, and their features [N, F].

    Args:
        cache: Folder with ``HASH.npz`` (array ``pooled``), HASH that of the encoder; ``python -m eval.encoder`` keeps
            the same records in the same order there. What is missing is computed, at about 25 images a second.
        folder: The encoder.
    """
    records = [r for split in ("train", "val") for r in load_records(OPEN_SETS + RESTRICTED_SETS, split)]
    key = sha256(folder / "model.safetensors")[:12]
    for path in (cache / f"{key}.npz", cache / f"{key}-tools.npz"):
        if path.is_file():
            pooled: NDArray[np.float32] = np.load(path)["pooled"]
            if len(pooled) == len(records):
                return records, pooled
    chunks = (records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK))
    pooled = np.concatenate([pooled_features([load_image(r.image) for r in chunk], folder) for chunk in chunks])
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{key}-tools.tmp.npz"
    np.savez(partial, pooled=pooled)
    partial.replace(cache / f"{key}-tools.npz")
    return records, pooled


def head_labels(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """Label of every record for every head; None where a head does not look at it.

    Atlas fields of organs that a site covers (lung, colon, lymph node) are neither that site's nor "other".
    """
    covered = {"lung", "colon", "rectum", "appendix", "oral mucosa", "lymph node"}
    by_set = {name: site for site, (name, _) in SITES.items()}
    sites: list[str | None] = []
    for record in records:
        if record.dataset in by_set:
            sites.append(by_set[record.dataset])
        else:
            outside = record.dataset in OTHER_SETS and record.facts.get("organ", "") not in covered
            sites.append(OTHER if outside else None)
    labels: dict[str, list[str | None]] = {
        "site": sites,
        "site-open": [None if name == "colorectal" else name for name in sites],
        "cervical": [r.facts.get("cervical") if r.dataset == "herlev_pap" else None for r in records],
    }
    for site, (dataset, fact) in SITES.items():
        labels[site.replace(" ", "-")] = [r.facts.get(fact) if r.dataset == dataset else None for r in records]
    return labels
