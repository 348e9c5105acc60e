"""The image–text encoder on ``val``: probes, zero-shot, retrieval and collapse, beside the ImageNet tower and chance.

Features of every image are computed once and kept under ``runs/encoder``; everything else takes seconds. Intervals
resample whole slides or groups.

    python -m eval.encoder --out eval/results
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from assistant.files import whole, write_text
from assistant.images.intake import load_image
from assistant.model.encoders.base import Encoder
from assistant.model.encoders.views import embed_views
from eval.encoder_metrics import (
    TASKS,
    Vectors,
    caption_retrieval,
    class_calibration,
    collapse,
    probe,
    slide_retrieval,
    zero_shot,
)
from eval.encoder_report import encoder_markdown
from eval.provenance import write_json
from eval.run import arguments
from training.data.images import load_square
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

NAME = "encoder"


@dataclass(frozen=True)
class Bank:
    """Vectors of all records.

    Attributes:
        pooled: What a probe sees, [N, F]. embedded: Unit vectors of the shared space, [N, D]; None without one.
    """

    pooled: Vectors
    embedded: Vectors | None = None


@torch.no_grad()
def encode(model: Any, records: Sequence[Record], size: int, normalise: Callable[[Any], Any] | None = None) -> Bank:
    """Features of each record's image. ``model`` is a ``PathClipModel`` or a timm network (then no shared space)."""
    pooled, embedded = [], []
    for start in tqdm(range(0, len(records), 64), desc="encoder features", unit="batch"):
        pixels = load_square([r.image for r in records[start : start + 64]], size)
        if normalise is not None:
            pixels = torch.stack([normalise(p) for p in pixels])
        x = (pixels.float() / 255 - 0.5) / 0.5
        if hasattr(model, "visual"):
            features = model.visual.features(x)
            pooled.append(features)
            embedded.append(torch.nn.functional.normalize(model.visual.proj(features), dim=-1))
        else:
            pooled.append(model(x))
    whole = torch.cat(embedded).numpy() if embedded else None
    return Bank(torch.cat(pooled).numpy(), whole)


def encode_val(encoder: Encoder, records: Sequence[Record], *, views: bool = False) -> Bank:
    """Vectors of each image of ``val``, or as classes are told by, over its views; zeros elsewhere."""
    out = np.zeros((len(records), encoder.info.dimension), np.float32)
    val = [i for i, r in enumerate(records) if r.split == "val"]
    for start in tqdm(range(0, len(val), 16), desc=encoder.info.name, unit="batch"):
        rows = val[start : start + 16]
        images = [load_image(records[i].image) for i in rows]
        out[rows] = embed_views(encoder, images) if views else encoder.embed_images(images)
    return Bank(out, out)


def by_text(vectors: Vectors, records: Sequence[Record], encoder: Encoder) -> dict[str, Any]:
    """What the encoder's own texts tell of the vectors."""
    found = {"zero_shot": {t: zero_shot(vectors, records, t, encoder) for t in TASKS}}
    return found | {"captions": caption_retrieval(vectors, records, encoder)}


def _embedded(bank: Bank) -> Vectors:
    """Of an encoder with texts."""
    assert bank.embedded is not None  # noqa: S101 - a PathCLIP always has a shared space
    return bank.embedded


def cached(path: Path, make: Callable[[], Bank]) -> Bank:
    """A bank from ``path``, or made and kept there."""
    if path.is_file():
        kept = np.load(path)
        return Bank(kept["pooled"], kept.get("embedded"))
    bank = make()
    extra = {} if bank.embedded is None else {"embedded": bank.embedded}
    with whole(path) as partial:
        np.savez(partial, pooled=bank.pooled, **extra)
    return bank


def stain_normaliser(reference: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 [3, H, W] → the same in the reference's colours (Reinhard); a field that cannot be normalised stays."""
    from skimage.color import lab2rgb, rgb2lab

    from training.data.images import load_square as load

    target = rgb2lab(load([reference], 224)[0].permute(1, 2, 0).numpy())
    mean, std = target.mean((0, 1)), target.std((0, 1))

    def normalise(pixels: torch.Tensor) -> torch.Tensor:
        lab = rgb2lab(pixels.permute(1, 2, 0).numpy())
        spread = lab.std((0, 1))
        if spread[0] < 1:
            return pixels
        moved = (lab - lab.mean((0, 1))) / np.maximum(spread, 1) * std + mean
        rgb = (lab2rgb(moved) * 255).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(rgb).permute(2, 0, 1)

    return normalise


def plot(vectors: Vectors, records: Sequence[Record], out: Path) -> None:
    """t-SNE of the atlas fields, coloured by organ, stain and slide."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.manifold import TSNE

    rows = [i for i, r in enumerate(records) if r.dataset == "atlas" and "organ" in r.facts]
    flat = TSNE(metric="cosine", init="random", random_state=0, perplexity=30).fit_transform(vectors[rows])
    figure, axes = plt.subplots(1, 3, figsize=(18, 6))
    held = np.array([records[i].split == "val" for i in rows])
    for axis, name in zip(axes, ("organ", "stain_class", "slide"), strict=True):
        values = [records[i].group if name == "slide" else records[i].facts[name] for i in rows]
        kinds = sorted(set(values))
        colour = plt.get_cmap("gist_ncar")(np.linspace(0.02, 0.95, len(kinds)))[[kinds.index(v) for v in values]]
        axis.scatter(*flat[~held].T, c=colour[~held], s=8, linewidths=0)
        axis.scatter(*flat[held].T, c=colour[held], s=26, marker="^", linewidths=0.3, edgecolors="black")
        axis.set(title=f"{name.replace('_class', '')} ({len(kinds)}); triangles: val", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


def keep_others(numbers: dict[str, Any], path: Path) -> None:
    """Add what an earlier run measured of further encoders, and of ours if that was another; nothing is replaced."""
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    probe, others, collapsed = before["probe"], before["others"], before["collapse"]
    if before["encoder"]["sha256"] != numbers["encoder"]["sha256"]:
        others["ours before"] = {k: before[k] for k in ("zero_shot", "captions")}
        probe["ours before"], collapsed["ours before"] = probe["ours"], collapsed["ours"]
    for name in others:
        for table, found in (("probe", probe), ("others", others), ("collapse", collapsed)):
            if name in found:
                numbers[table].setdefault(name, found[name])


def run(
    encoder: str = "assistant/weights/pathclip-small", data: str | None = None, out: str | Path = "eval/results",
    cache: str | Path = "runs/encoder", compare: Sequence[str] = (), fit: bool = False,
) -> Path:  # fmt: skip
    """Measure and write ``encoder.{json,md}`` and ``encoder-tsne.png``; returns the table's path.

    Args:
        fit: Also fit the classifier's calibration on ``val`` and write it beside the encoder's weights.
        compare: Folders of further PathCLIP artefacts (ablations), probed beside the main one.
    """
    from assistant.model.cache import sha256
    from assistant.model.encoders.load import load_encoder, read_pathclip_small
    from assistant.model.encoders.pathclip import PathClipModel
    from assistant.model.encoders.preset import encoder_preset
    from assistant.model.familiar import imagenet_tower
    from assistant.model.vlm import write_sums

    records = [r for split in ("train", "val") for r in load_records(OPEN_SETS + RESTRICTED_SETS, split, data)]
    folder, kept = Path(out), Path(cache)
    model = PathClipModel.load(Path(encoder))
    texts = read_pathclip_small(Path(encoder), encoder_preset("pathclip-small"))
    size = model.config.image_size
    key = sha256(Path(encoder) / "model.safetensors")[:12]
    banks = {
        "ours": cached(kept / f"{key}.npz", lambda: encode(model, records, size)),
        "imagenet": cached(kept / "imagenet.npz", lambda: encode(imagenet_tower(), records, size)),
    }
    reference = next(r.image for r in records if r.dataset == "atlas" and r.facts.get("stain") == "H&E")
    atlas = [r for r in records if r.dataset == "atlas"]
    recolour = stain_normaliser(reference)
    normalised = cached(kept / f"{key}-normalised.npz", lambda: encode(model, atlas, size, recolour))
    others: dict[str, Any] = {}
    for other in compare:
        name = f"{Path(other).parent.name}"
        mark = sha256(Path(other) / "model.safetensors")[:12]
        banks[name] = cached(kept / f"{mark}.npz", lambda p=other: encode(PathClipModel.load(Path(p)), records, size))
        its = read_pathclip_small(Path(other), encoder_preset("pathclip-small"))
        others[name] = by_text(_embedded(banks[name]), records, its)
    duo = load_encoder("pathclip-duo")
    pairs = cached(kept / f"{duo.id}.npz", lambda: encode_val(duo, records))
    others["pathclip-duo"] = by_text(_embedded(pairs), records, duo)
    viewed = cached(kept / f"{key}-views.npz", lambda: encode_val(texts, records, views=True)).pooled
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(len(records), 64)).astype(np.float32)
    embedded = _embedded(banks["ours"])
    numbers: dict[str, Any] = {
        "encoder": {"folder": str(encoder), "sha256": key, "dimension": model.config.dimension},
        "probe": {name: {t: probe(b.pooled, records, t) for t in TASKS} for name, b in banks.items()},
        "probe_embedded": {t: probe(embedded, records, t) for t in TASKS},
        "probe_noise": {t: probe(noise, records, t) for t in TASKS},
        **by_text(embedded, records, texts), "others": others,
        "zero_shot_views": {t: zero_shot(viewed, records, t, texts) for t in TASKS},
        "captions_views": caption_retrieval(viewed, records, texts),
        "slides": {
            "ours": slide_retrieval(embedded, records), "imagenet": slide_retrieval(banks["imagenet"].pooled, records),
            "noise": slide_retrieval(noise, records),
        },
        "collapse": {n: collapse(b.embedded if b.embedded is not None else b.pooled, records) for n, b in banks.items()}
        | {"ours, stain-normalised input": collapse(normalised.embedded, atlas)},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    keep_others(numbers, folder / f"{NAME}.json")
    plot(embedded, records, folder / "encoder-tsne.png")
    write_json(folder / f"{NAME}.json", numbers)
    report = folder / f"{NAME}.md"
    write_text(report, encoder_markdown(numbers))
    print(report.read_text(encoding="utf-8"))
    if fit:
        fitted = class_calibration(viewed, records, texts)
        write_text(Path(encoder) / "calibration.json", json.dumps(fitted.as_dict()) + "\n")
        write_sums(Path(encoder))
    return report


def main() -> None:
    """Command line: ``python -m eval.encoder [--encoder DIR] [--data] [--out] [--fit] [--compare DIR…]``."""
    parser = arguments(__doc__)
    parser.add_argument("--encoder", default="assistant/weights/pathclip-small", help="folder of a PathCLIP artefact")
    parser.add_argument("--compare", nargs="*", default=(), help="folders of further artefacts")
    args = parser.parse_args()
    run(args.encoder, args.data, args.out, compare=args.compare, fit=args.fit)


if __name__ == "__main__":
    main()
