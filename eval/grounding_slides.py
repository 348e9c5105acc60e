"""Grounding on a slide: real fields planted at known places in a made slide, against a random search.

    OMP_NUM_THREADS=1 python -m eval.grounding_slides --out eval/results

A slide is a pyramidal TIFF of normal oral mucosa and normal lung (``val``) with glass around it; fields of ``val`` that
hold what the phrase names are pasted at random places, not along the grid that is searched. A planted field counts as
found when a box has an IoU above 0.5 with one of its labelled objects. The control looks at as many fields, drawn at
random, with the same grounder; the mean over many draws is taken. Intervals are 95 %, by bootstrap over planted fields.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.answer import DISCLAIMER, Box
from assistant.grounding import load_grounder
from assistant.grounding.slides import Window, apart, fields_of, ground_field, ground_slide, ranked
from assistant.model.encoders import load_encoder
from assistant.slides import Slide, open_slide
from eval.metrics.boxes import box_iou
from eval.provenance import write_json
from eval.stats import cluster_interval
from training.data.objects import Field, load_regions
from training.data.records import data_root, read_jsonl

COMMAND = (
    "OMP_NUM_THREADS=1 python -m eval.grounding_slides --out eval/results"
    " --slides {} --planted {} --budget {} --seed {}"
)
#: Phrase → set and class of what is planted.
TARGETS = {
    "gland": ("glas", "gland"),
    "white blood cell": ("bccd_boxes", "white blood cell"),
    "tumour": ("luad_tissue_seg", "tumour"),
}
BACKGROUND = {"oral_oscc": "normal oral mucosa", "lc25000_lung": "normal lung"}
SIDE, GLASS, MPP = 4096, 512, 0.5
DRAWS = 200


@dataclass(frozen=True)
class Planted:
    """A field on the slide: its window and the labelled objects in it, both in full-resolution pixels."""

    window: tuple[int, int, int, int]
    boxes: tuple[tuple[float, float, float, float], ...]


def background(root: Path, side: int, rng: random.Random) -> NDArray[np.uint8]:
    """Tissue [side, side, 3] of normal fields side by side, glass at the edges."""
    files = [
        root / name / str(row["image"])
        for name, label in BACKGROUND.items()
        for row in read_jsonl(root / name / "index.jsonl")
        if row["split"] == "val" and row["label"] == label
    ]
    canvas = np.full((side, side, 3), 244, np.uint8)
    y = GLASS
    while y < side - GLASS:
        x, tall = GLASS, 0
        while x < side - GLASS:
            with Image.open(rng.choice(files)) as opened:
                part = np.asarray(opened.convert("RGB"))[:1024, :1024]
            h, w = min(part.shape[0], side - GLASS - y), min(part.shape[1], side - GLASS - x)
            canvas[y : y + h, x : x + w] = part[:h, :w]
            x, tall = x + w, max(tall, h) if tall == 0 else min(tall, h)
        y += tall
    return canvas


def plant(
    canvas: NDArray[np.uint8], fields: Sequence[Field], label: str, count: int, rng: random.Random
) -> list[Planted]:
    """Paste fields at places that do not touch; what was pasted, in its order."""
    side = canvas.shape[0]
    out: list[Planted] = []
    for field in fields:
        pixels = np.asarray(field.image())
        h, w = pixels.shape[:2]
        for _ in range(200):
            x, y = rng.randrange(GLASS, side - GLASS - w), rng.randrange(GLASS, side - GLASS - h)
            if all(x + w < a or a + c < x or y + h < b or b + d < y for a, b, c, d in (p.window for p in out)):
                canvas[y : y + h, x : x + w] = pixels
                boxes = tuple(
                    (o.box[0] + x, o.box[1] + y, o.box[2] + x, o.box[3] + y) for o in field.objects if o.label == label
                )
                out.append(Planted((x, y, w, h), boxes))
                break
        if len(out) == count:
            break
    return out


def write_pyramid(canvas: NDArray[np.uint8], path: Path) -> Path:
    """A tiled TIFF of four levels, 0.5 µm a pixel."""
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4, 8):
            level = np.asarray(Image.fromarray(canvas).reduce(step)) if step > 1 else canvas
            per_cm = 10_000 / MPP / step
            file.write(
                level, subfiletype=int(step > 1), resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
                metadata=None, tile=(256, 256), photometric="rgb", compression=None,
            )  # fmt: skip
    return path


def found(boxes: Sequence[Box], planted: Planted) -> bool:
    """A box fits one of its objects."""
    return bool(boxes) and float(box_iou([b.xyxy for b in boxes], planted.boxes).max()) > 0.5


def inside(boxes: Sequence[Box], planted: Sequence[Planted]) -> list[bool]:
    """Whether the centre of each box lies in a planted field."""
    out = []
    for box in boxes:
        x, y = (box.xyxy[0] + box.xyxy[2]) / 2, (box.xyxy[1] + box.xyxy[3]) / 2
        out.append(any(a <= x < a + w and b <= y < b + h for a, b, w, h in (p.window for p in planted)))
    return out


def one_slide(slide: Slide, phrase: str, planted: Sequence[Planted], budget: int, seed: int) -> dict[str, Any]:
    """What the search finds, what a random one does, and what looking everywhere would; seconds of processor time."""
    grounder = load_grounder()
    encoder = load_encoder("pathclip-small")
    grounder.ground(Image.effect_noise((256, 256), 60).convert("RGB"), phrase)  # what is loaded at first use
    encoder.embed_texts([phrase])
    began = time.process_time()
    boxes, looked = ground_slide(grounder, slide, phrase, budget=budget, encoder=encoder)
    seconds = time.process_time() - began
    began = time.process_time()
    grid = fields_of(slide)
    order = ranked(slide, grid, phrase, encoder)
    ranking = time.process_time() - began
    every = {window: ground_field(grounder, slide, window, phrase) for window in grid}

    def hits(windows: Sequence[Window]) -> list[bool]:
        some = apart([box for window in windows for box in every[window]])
        return [found(some, one) for one in planted]

    ours = [found(boxes, one) for one in planted]
    assert ours == hits(order[:budget]), "the search and its parts disagree"  # noqa: S101
    rng = random.Random(seed)  # noqa: S311 - reproducible
    chance = np.mean([hits(rng.sample(grid, looked)) for _ in range(DRAWS)], axis=0)
    return {
        "fields": len(grid), "looked": looked, "seconds": seconds, "ranking": ranking,
        "ours": ours, "random": chance.tolist(), "everywhere": hits(grid),
        "boxes": len(boxes), "inside": sum(inside(boxes, planted)),
    }  # fmt: skip


def measure(root: Path, per_phrase: int, planted: int, budget: int, seed: int, side: int = SIDE) -> dict[str, Any]:
    """All slides of all phrases."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for phrase, (name, label) in TARGETS.items():
        rng = random.Random(f"{seed}:{phrase}")  # noqa: S311 - reproducible
        fields = [f for f in load_regions("val", root, (name,)) if any(o.label == label for o in f.objects)]
        rng.shuffle(fields)
        for number in range(per_phrase):
            canvas = background(root, side, rng)
            part = fields[number * planted : (number + 1) * planted]
            placed = plant(canvas, part, label, planted, rng)
            with tempfile.TemporaryDirectory() as folder:
                path = write_pyramid(canvas, Path(folder) / "slide.tif")
                with open_slide(path) as slide:
                    rows.setdefault(phrase, []).append(one_slide(slide, phrase, placed, budget, seed))
            last = rows[phrase][-1]
            print(
                f"{phrase}, slide {number + 1}: {sum(last['ours'])} of {len(placed)} in {last['seconds']:.1f} s",
                flush=True,
            )
    parts = {phrase: summary(slides) for phrase, slides in rows.items()}
    return {
        "side": side, "budget": budget, "per_phrase": per_phrase, "planted": planted, "seed": seed, "draws": DRAWS,
        "slides": sum(map(len, rows.values())), "phrases": parts,
        "all": summary([s for slides in rows.values() for s in slides]),
    }  # fmt: skip


def summary(slides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of planted fields with intervals, over the slides given."""
    columns = {k: [float(v) for s in slides for v in s[k]] for k in ("ours", "random", "everywhere")}
    columns["difference"] = [a - b for a, b in zip(columns["ours"], columns["random"], strict=True)]
    groups = [str(i) for i in range(len(columns["ours"]))]
    boxes = sum(s["boxes"] for s in slides)
    return {
        "n": len(groups), "fields": float(np.mean([s["fields"] for s in slides])),
        "looked": float(np.mean([s["looked"] for s in slides])),
        "seconds": float(np.median([s["seconds"] for s in slides])),
        "ranking": float(np.median([s["ranking"] for s in slides])),
        "boxes": boxes, "inside": sum(s["inside"] for s in slides) / boxes if boxes else 0.0,
    } | {name: cluster_interval(values, groups) for name, values in columns.items()}  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """The page."""

    def cell(triple: Sequence[float]) -> str:
        return f"{triple[0]:.3f} [{triple[1]:.2f}, {triple[2]:.2f}]"

    def row(name: str, r: dict[str, Any]) -> str:
        cells = " | ".join(cell(r[k]) for k in ("ours", "random", "difference", "everywhere"))
        return (
            f"| {name} | {r['n']} | {cells} | {r['inside']:.2f} of {r['boxes']} "
            f"| {r['seconds']:.1f} ({r['ranking']:.1f}) |"
        )

    whole = result["all"]
    return "\n".join([
        "# Grounding on slides, coarse to fine", "",
        f"{DISCLAIMER} {result['slides']} made slides of {result['side']} x {result['side']} pixels, on average"
        f" {whole['fields']:.0f} fields with tissue, of which {result['budget']} are looked at. Real fields of `val`"
        " (GlaS, BCCD, WSSS4LUAD) are planted at random places among normal oral mucosa and normal lung; one counts as"
        " found when a box has IoU > 0.5 with one of its labelled objects. The slides are mosaics: tissue of one set"
        " beside another is easier to tell apart than tissue of one patient. Intervals are 95 %, over planted fields.",
        "",
        "| phrase | planted fields | found | random search, same budget | difference | every field looked at"
        " | boxes inside a planted field | seconds a slide (of these, ranking) |",
        "|---|---|---|---|---|---|---|---|",
        row("all", whole), *(row(name, r) for name, r in result["phrases"].items()), "",
        f"Random search: mean of {result['draws']} draws. Seconds: median processor time on one thread, model loaded.",
        "",
        "Again: `" + COMMAND.format(*(result[k] for k in ("per_phrase", "planted", "budget", "seed"))) + "`", "",
    ])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m eval.grounding_slides", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder of grounding-slides.md and .json")
    parser.add_argument("--data", type=Path, default=None, help="data root; default PATHASSIST_DATA")
    parser.add_argument("--slides", type=int, default=1, help="slides a phrase")
    parser.add_argument("--planted", type=int, default=4, help="planted fields a slide")
    parser.add_argument("--budget", type=int, default=4, help="fields looked at")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    result = measure(data_root(given.data), given.slides, given.planted, given.budget, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "grounding-slides.json", result)
    partial = given.out / ".grounding-slides.md.part"
    partial.write_text(markdown(result), encoding="utf-8")
    partial.replace(given.out / "grounding-slides.md")
    print(markdown(result))


if __name__ == "__main__":
    main()
