"""Similar cases on the atlas: does the archive return the same diagnosis and the same organ from another slide?

Every field of ``val`` asks; the gallery is the whole atlas without the query's own slide. Vectors are those of
``eval.encoder`` (kept under ``runs/encoder``). Ways of asking: the image, words (organ and diagnosis), and both at the
weight named; beside them ImageNet features and noise.

    python -m eval.retrieval --out eval/results
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.answer import DISCLAIMER
from eval.encoder import cached, encode
from eval.metrics.ranking import average_precision, recall_at
from eval.run import arguments
from eval.stats import cluster_interval
from retrieval.search import compose
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

NAME = "retrieval"
#: Share of the image in a composed query.
WEIGHT = 0.5
Vectors = NDArray[np.float32]


def similarities(queries: Vectors, gallery: Vectors, own: NDArray[np.bool_]) -> Vectors:
    """Cosines [queries, gallery], minus infinity for those in ``own``."""
    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9) for v in (queries, gallery)]
    return np.where(own, -np.inf, unit[0] @ unit[1].T)


def ask(
    records: Sequence[Record], queries: Sequence[int], vectors: Vectors, gallery: Vectors
) -> dict[str, dict[str, Any]]:
    """Every measure of one way of asking.

    Args:
        records: The atlas. queries: Rows that ask. vectors: [Q, D], one a query. gallery: [N, D], one a record.
    """
    groups = np.array([r.group for r in records])
    own = groups[list(queries)][:, None] == groups[None, :]
    scores = similarities(vectors, gallery, own)
    out: dict[str, dict[str, Any]] = {}
    for name, fact, unseen in (
        ("diagnosis", "diagnosis", False),
        ("organ", "organ", False),
        ("organ, unseen", "organ", True),
    ):
        label = np.array([r.facts.get(fact, "") for r in records])
        right = (label[list(queries)][:, None] == label[None, :]) & ~own & (label != "")[None, :]
        keep = [k for k, i in enumerate(queries) if right[k].any() and (records[i].unseen_case or not unseen)]
        found, wanted = scores[keep], right[keep]
        values = {"hit@1": recall_at(found, wanted, 1), "hit@5": recall_at(found, wanted, 5)}
        values["mAP"] = average_precision(found, wanted)
        asked = [records[queries[k]].group for k in keep]
        chance = float(np.mean([right[k].sum() / (~own[k]).sum() for k in keep])) if keep else float("nan")
        out[name] = {"n": len(keep), "slides": len(set(asked)), "chance@1": chance}
        out[name] |= {m: [round(v, 4) for v in cluster_interval(values[m], asked)] for m in values}
    return out


def markdown(numbers: dict[str, Any]) -> str:
    """One table a question."""
    lines = [
        "# Similar cases on the atlas",
        "",
        f"{DISCLAIMER} Reprint: `python -m eval.retrieval`. Each field of `val` asks the whole atlas without its own",
        "slide; intervals: bootstrap over slides. Only fields for which another slide shares the label are asked.",
        f"Words are organ and diagnosis of the query; both: the image weighs {WEIGHT:g}. The encoder was trained on",
        "the train part of the gallery, but on no slide that asks.",
    ]
    for kind in next(iter(numbers.values())):
        first = next(iter(numbers.values()))[kind]
        lines += [
            "",
            f"## Same {kind} (n {first['n']}, {first['slides']} slides, chance@1 {first['chance@1']:.3f})",
            "",
        ]
        lines += ["| asked by | hit@1 [95 %] | hit@5 [95 %] | mAP [95 %] |", "|---|---|---|---|"]
        for way, found in numbers.items():
            cells = [
                f"{v[0]:.3f} [{v[1]:.2f}, {v[2]:.2f}]" for v in (found[kind][m] for m in ("hit@1", "hit@5", "mAP"))
            ]
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def run(data: str | None = None, out: str | Path = "eval/results", cache: str | Path = "runs/encoder") -> Path:
    """Measure and write ``retrieval.{json,md}``; returns the table's path."""
    from assistant.model.cache import sha256
    from assistant.model.encoders import load_encoder
    from assistant.model.encoders.pathclip import PathClipModel
    from assistant.model.familiar import imagenet_tower
    from assistant.model.preset import WEIGHTS_FOLDER

    everything = [r for split in ("train", "val") for r in load_records(OPEN_SETS + RESTRICTED_SETS, split, data)]
    folder = WEIGHTS_FOLDER / "pathclip-small"
    key = sha256(folder / "model.safetensors")[:12]
    model = PathClipModel.load(folder)
    ours = cached(Path(cache) / f"{key}.npz", lambda: encode(model, everything, model.config.image_size))
    plain = cached(Path(cache) / "imagenet.npz", lambda: encode(imagenet_tower(), everything, 224))
    rows = [i for i, r in enumerate(everything) if r.dataset == "atlas" and r.facts.get("kind") == "field"]
    records = [everything[i] for i in rows]
    queries = [k for k, r in enumerate(records) if r.split == "val" and "organ" in r.facts and "diagnosis" in r.facts]
    assert ours.embedded is not None  # noqa: S101 - a PathCLIP always has a shared space
    gallery, imagenet = ours.embedded[rows], plain.pooled[rows]
    encoder = load_encoder("pathclip-small")
    said = [f"{records[k].facts['diagnosis']} of the {records[k].facts['organ']}" for k in queries]
    unique = sorted(set(said))
    texts = encoder.embed_texts(unique)[[unique.index(t) for t in said]]
    both = np.stack([compose(gallery[k][None], t, WEIGHT) for k, t in zip(queries, texts, strict=True)])
    noise = np.random.default_rng(0).normal(size=(len(records), 64)).astype(np.float32)
    numbers = {
        "image": ask(records, queries, gallery[queries], gallery),
        "words": ask(records, queries, texts, gallery),
        "both": ask(records, queries, both.reshape(len(queries), -1), gallery),
        "image, ImageNet features": ask(records, queries, imagenet[queries], imagenet),
        "noise": ask(records, queries, noise[queries], noise),
    }
    target = Path(out)
    (target / f"{NAME}.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    report = target / f"{NAME}.md"
    report.write_text(markdown(numbers), encoding="utf-8")
    print(report.read_text(encoding="utf-8"))
    return report


def main() -> None:
    """Command line: ``python -m eval.retrieval [--data] [--out]``."""
    args = arguments(__doc__).parse_args()
    run(args.data, args.out)


if __name__ == "__main__":
    main()
