"""Images a second of ``embed`` over those of the encoder's bare forward pass, decoding included.

The same 1,000 files in turn: prepared once and passed through the encoder, then embedded from disk. Rounds alternate,
so that whatever else the machine does meets both. The control is the bare pass: 1.0 would mean decoding costs nothing.

    python -m eval.encoder_speed --out eval/results
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from assistant.answer import DISCLAIMER
from assistant.images.intake import load_image
from assistant.model.encoders import load_encoder
from assistant.model.encoders.use import embed_files
from training.data.records import OPEN_SETS, load_records

FILES, ROUNDS = 1000, 3


def measure(encoder: Any, files: list[Path], rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of both ways in ``rounds`` alternating rounds, and what came of them."""
    prepared = [encoder.prepare(load_image(path)) for path in files]
    encoder.embed_prepared(prepared[:64])  # warm
    bare, whole = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        wanted = encoder.embed_prepared(prepared)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        found = embed_files(encoder, files)
        whole.append(time.perf_counter() - began)
    ratios = [b / w for b, w in zip(bare, whole, strict=True)]
    return {
        "encoder": encoder.id, "files": len(files), "rounds": rounds, "cores": os.cpu_count(),
        "bare_images_per_s": len(files) / float(np.median(bare)),
        "embed_images_per_s": len(files) / float(np.median(whole)),
        "ratio": float(np.median(ratios)), "ratio_range": [min(ratios), max(ratios)],
        "same_vectors": bool(np.allclose(wanted, found.vectors, atol=1e-5)), "failed": len(found.failed),
    }  # fmt: skip


def markdown(m: dict[str, Any]) -> str:
    """The numbers in one paragraph."""
    low, high = m["ratio_range"]
    return (
        f"# Speed of `embed`\n\n{DISCLAIMER} Reprint: `python -m eval.encoder_speed`.\n\n"
        f"{m['files']:,} files, {m['rounds']} alternating rounds, {m['cores']} cores, {m['encoder']}: bare forward "
        f"pass {m['bare_images_per_s']:.1f} images/s, `embed` from disk {m['embed_images_per_s']:.1f} images/s, ratio "
        f"{m['ratio']:.2f} (rounds {low:.2f} to {high:.2f}). Same vectors: {'yes' if m['same_vectors'] else 'no'}.\n"
    )


def main() -> None:
    """Command line: ``python -m eval.encoder_speed [--encoder] [--files] [--out]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="pathclip-small")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    args = parser.parse_args()
    records = load_records(OPEN_SETS, "train", args.data)
    picked = [records[i].image for i in np.linspace(0, len(records) - 1, args.files).astype(int)]
    found = measure(load_encoder(args.encoder), picked)
    (args.out / "encoder-speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.out / "encoder-speed.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
