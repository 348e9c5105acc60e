"""Run alone or by ``accelerate launch``: a few contrastive steps on made-up colours; rank 0 writes how they went."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.training.clip.test_clip import COLOURS, RECIPE, TinyTowers, record
from training.clip import train
from training.loop import leave


def main() -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    out = Path(sys.argv[1])
    images = out / f"images{world}{rank}"
    images.mkdir()
    records = []
    for organ, colour in COLOURS.items():
        for slide in "ab":
            Image.fromarray(np.full((96, 96, 3), colour, np.uint8)).save(path := images / f"{organ}{slide}.png")
            records.append(record(path, organ, f"disease {slide} of {organ}", organ + slide))
    train.load_records = lambda *_: records  # type: ignore[assignment]
    towers = TinyTowers(dropout=0.0)
    losses = train.train_clip(replace(RECIPE, chunk=4), out / f"run{world}", towers=towers)
    if rank == 0:
        weights = [float(p.detach().sum()) for p in towers.parameters()]
        (out / f"world{world}.json").write_text(json.dumps({"losses": losses, "weights": weights}))


if __name__ == "__main__":
    main()
    leave()
