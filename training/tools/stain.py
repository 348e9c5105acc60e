"""Fit the head that tells H&E, DAB immunostains and other stains apart by colour.

    python -m training.tools.stain --recipe training/tools/recipes/stain.yaml --out assistant/weights/tools

Openly licensed sets only; some two minutes on one core. Immunostains are those of the atlas (one slide in ``train``)
and fields made from H&E (``training/data/virtual.py``).
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.images.intake import load_image
from assistant.tools.colour import LEAST, STAINS, colour_features, stained_density
from assistant.tools.heads import Head
from training.data.records import Record, load_records
from training.data.virtual import write_virtual
from training.run import read_recipe

OTHER_SETS, PINK_SETS = ("bccd_boxes",), ("lc25000_lung", "oral_oscc", "pcam_1k")


@dataclass(frozen=True)
class StainRecipe:
    """Settings.

    Attributes:
        per_set: Images of each set, evenly spread.
        per_slide: H&E fields of each slide of the atlas.
        virtual: Immunostains made from H&E.
        strength: Inverse strength of L2 regularisation, chosen on ``val``.
        seed: Of the virtual stains.
    """

    per_set: int = 40
    per_slide: int = 6
    virtual: int = 220
    strength: float = 1.0
    seed: int = 0


def examples(recipe: StainRecipe, folder: Path) -> list[tuple[Path, str]]:
    """Images of ``train`` with their kind of stain."""
    found: list[tuple[Path, str]] = []
    for name in PINK_SETS + OTHER_SETS:
        records = load_records((name,), "train")
        kind = STAINS[2] if name in OTHER_SETS else STAINS[1]
        found += [(r.image, kind) for r in records[:: max(1, len(records) // recipe.per_set)]]
    atlas = load_records(("atlas",), "train")
    seen: Counter[str] = Counter()
    for record in atlas:
        kind = kind_of(record)
        seen[record.group] += 1
        if kind != STAINS[1] or seen[record.group] <= recipe.per_slide:
            found.append((record.image, kind))
    made = write_virtual(atlas, folder, recipe.virtual, recipe.seed)
    return found + [(r.image, STAINS[0]) for r in made]


def kind_of(record: Record) -> str:
    """Which of ``STAINS`` a field of the atlas has."""
    stain = record.facts.get("stain", "")
    return STAINS[0] if "IHC" in stain else STAINS[1] if stain == "H&E" else STAINS[2]


def fit(features: NDArray[np.float32], kinds: list[str], strength: float) -> Head:
    """A head with standardisation folded into its weights."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 0.05)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    model.fit((features - mean) / spread, kinds)
    weight = model.coef_ / spread
    bias = model.intercept_ - weight @ mean
    classes = tuple(str(name) for name in model.classes_)
    return Head(classes, weight.astype(np.float32), bias.astype(np.float32), 0.0, "colour")


def fit_stain(recipe: StainRecipe, out: Path, virtual: Path = Path("runs/data/virtual")) -> str:
    """Fit and write the head; returns one line about it.

    Args:
        virtual: Folder of the immunostains made from H&E; missing ones are made.
    """
    rows = []
    for path, kind in examples(recipe, virtual):
        density = stained_density(load_image(path))
        if len(density) >= LEAST:
            rows.append((colour_features(density), kind))
    fit(np.stack([f for f, _ in rows]), [k for _, k in rows], recipe.strength).save(out / "stain.safetensors")
    return f"stain: {len(rows)} train images, {dict(Counter(k for _, k in rows))}"


def main() -> None:
    """Command line, see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("training/tools/recipes/stain.yaml"))
    parser.add_argument("--out", type=Path, default=Path("assistant/weights/tools"))
    parser.add_argument("--virtual", type=Path, default=Path("runs/data/virtual"), help="folder of made immunostains")
    args = parser.parse_args()
    print(fit_stain(read_recipe(args.recipe, StainRecipe), args.out, args.virtual))


if __name__ == "__main__":
    main()
