"""PMEB-style: retrieval, zero-shot classification and composed retrieval on the local sets, for any encoder.

The benchmark of that name (arXiv 2502.07221) has no public code and changed between its versions, so this is not it:
the three kinds of task, on sets named below, under the version below. Image-only and text-only retrieval are reported
apart.

    classification   image against label prompts (three wordings averaged): balanced accuracy
    image to image   another image with the same label, never of the same slide or group: recall@1, @5, mAP
    text to image    a description against all atlas images; image to text the other way round
    composed         an image and "the same, stained by X": an image of the same case in that stain; the sum of both
                     vectors, or the encoder's own way; controls: image only, text only
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assistant.answer import DISCLAIMER
from assistant.images.intake import load_image
from assistant.model.encoders import load_encoder
from assistant.model.encoders.base import Encoder
from eval.metrics.ranking import average_precision, balanced_accuracy, recall_at
from eval.provenance import read_json
from eval.stats import cluster_interval, cluster_statistic
from eval.task import SUMMARY, Root
from training.data.questions import LABELS
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

VERSION = "pmeb-style-1"
#: Label of each set that is classified and retrieved by.
LABELLED = {
    "lc25000_lung": "lung", "oral_oscc": "oral", "pcam_1k": "node", "crc_polyp5": "colorectal",
    "herlev_pap": "cervical", "wbc_seg": "leucocyte", "atlas": "organ",
}  # fmt: skip
WORDINGS = ("a histopathology image of {}", "{}", "a microscope image showing {}")

Vectors = NDArray[np.float32]


def run_pmeb(
    encoder: Encoder, root: Root = None, split: str = "val", *, limit: int | None = None, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All tasks on one split.

    Args:
        limit: At most so many images of each set, drawn with the seed.

    Returns:
        Rows (one a query and condition, with ``hit1``, ``hit5``, ``ap`` or ``said``, ``wanted``) and the summary.

    Raises:
        DataError: A set is missing.
    """
    records: list[Record] = []
    generator = np.random.default_rng(seed)
    for dataset in [s for s in OPEN_SETS + RESTRICTED_SETS if s in LABELLED]:
        found = [r for r in load_records([dataset], split, root) if LABELLED[dataset] in r.facts]
        if limit is not None and len(found) > limit:
            found = [found[i] for i in sorted(generator.choice(len(found), limit, replace=False))]
        records += found
    vectors = encoder.embed_images([load_image(r.image) for r in records])
    rows: list[dict[str, Any]] = []
    shuffled = vectors[generator.permutation(len(vectors))]
    for dataset, kind in LABELLED.items():
        index = [i for i, r in enumerate(records) if r.dataset == dataset]
        inside = [records[i] for i in index]
        for condition, these in (("image", vectors[index]), ("shuffled", shuffled[index])):
            if encoder.info.has_text:
                rows += classification(encoder, inside, these, kind, condition)
            rows += image_to_image(inside, these, kind, condition)
    atlas = [i for i, r in enumerate(records) if r.dataset == "atlas"]
    if encoder.info.has_text and atlas:
        inside = [records[i] for i in atlas]
        rows += text_retrieval(encoder, inside, vectors[atlas], "image")
        rows += text_retrieval(encoder, inside, shuffled[atlas], "shuffled")
        rows += composed(encoder, inside, vectors[atlas])
    frame = pd.DataFrame(rows).assign(status="ok", error="")
    return frame, summarise(frame)


def classification(
    encoder: Encoder, records: Sequence[Record], vectors: Vectors, kind: str, condition: str
) -> list[dict[str, Any]]:
    """Zero-shot: the label whose prompts are nearest."""
    labels = LABELS.get(kind) or tuple(sorted({r.facts[kind] for r in records}))
    texts = encoder.embed_texts([wording.format(label) for label in labels for wording in WORDINGS])
    prompts = texts.reshape(len(labels), len(WORDINGS), -1).mean(axis=1)
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    chosen = (vectors @ prompts.T).argmax(axis=1)
    return [
        _row(r, f"classification/{r.dataset}", condition, said=labels[c], wanted=r.facts[kind])
        for r, c in zip(records, chosen, strict=True)
    ]


def image_to_image(records: Sequence[Record], vectors: Vectors, kind: str, condition: str) -> list[dict[str, Any]]:
    """Another image with the same label; images of the query's own slide or group are left out."""
    if not records:
        return []
    labels = np.array([r.facts[kind] for r in records])
    groups = np.array([r.group for r in records])
    scores = (vectors @ vectors.T).astype(np.float64)
    scores[groups[:, None] == groups[None, :]] = -np.inf
    relevant = (labels[:, None] == labels[None, :]) & (groups[:, None] != groups[None, :])
    return _ranked(records, f"image to image/{records[0].dataset}", condition, scores, relevant)


def text_retrieval(
    encoder: Encoder, records: Sequence[Record], vectors: Vectors, condition: str
) -> list[dict[str, Any]]:
    """Descriptions (organ, diagnosis, stain) to images and back; right is every image or text of equal description."""
    captions = [_caption(r) for r in records]
    unique = sorted(set(captions))
    texts = encoder.embed_texts(unique)
    scores = vectors @ texts.T
    relevant = np.array([[c == u for u in unique] for c in captions])
    rows = _ranked(records, "image to text/atlas", condition, scores, relevant)
    firsts = [records[captions.index(u)] for u in unique]
    return rows + _ranked(firsts, "text to image/atlas", condition, scores.T, relevant.T)


def composed(encoder: Encoder, records: Sequence[Record], vectors: Vectors) -> list[dict[str, Any]]:
    """An image with the stain wanted in words: an image of the same case in that stain, of another slide."""
    cases = np.array([r.group.partition(":")[2].partition("/")[0] for r in records])
    stains = np.array([r.facts.get("stain", "") for r in records])
    groups = np.array([r.group for r in records])
    rows: list[dict[str, Any]] = []
    wanted = sorted({s for s in stains if s})
    texts = dict(zip(wanted, encoder.embed_texts([f"the same tissue stained by {s}" for s in wanted]), strict=True))
    for stain in wanted:
        queries = [
            i for i in range(len(records)) if stains[i] != stain and ((cases == cases[i]) & (stains == stain)).any()
        ]
        if not queries:
            continue
        relevant = (cases[queries][:, None] == cases[None, :]) & (stains == stain)[None, :]
        own = groups[queries][:, None] == groups[None, :]
        both = vectors[queries] + texts[stain]
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        kinds = {"image": both}
        if hasattr(encoder, "embed_composed"):  # an encoder that reads image and text together needs no sum
            pictures = [load_image(records[i].image) for i in queries]
            kinds = {"image": encoder.embed_composed(pictures, f"the same tissue stained by {stain}"), "sum": both}
        kinds |= {"image only": vectors[queries], "text": np.tile(texts[stain], (len(queries), 1))}
        for condition, query in kinds.items():
            scores = np.where(own, -np.inf, (query @ vectors.T).astype(np.float64))
            rows += _ranked([records[i] for i in queries], "composed/atlas", condition, scores, relevant, stain)
    return rows


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Balanced accuracy of classification, recall@1, recall@5 and mAP of retrieval, with clustered intervals."""
    out = []
    for (part, condition), inside in rows.groupby(["part", "condition"], sort=False):
        groups = list(inside["group"])
        if part.startswith("classification/"):
            truth, said = inside["wanted"].to_numpy(), inside["said"].to_numpy()

            def value(index: NDArray[np.int64], truth: Any = truth, said: Any = said) -> float:
                return balanced_accuracy(truth[index], said[index])

            found = cluster_statistic(value, groups, draws=300)
            out.append((part, "balanced accuracy", condition, *found, len(inside), 0, len(set(groups))))
            constant = truth == pd.Series(truth).mode().iloc[0]
            if condition == "image":
                share = 1 / len(set(truth))
                out.append(
                    (part, "balanced accuracy", "majority", share, share, share, len(constant), 0, len(set(groups)))
                )
            continue
        for column, name in (("hit1", "recall@1"), ("hit5", "recall@5"), ("ap", "mAP")):
            kept = inside[inside[column].notna()]
            found = cluster_interval(kept[column], list(kept["group"]))
            out.append((part, name, condition, *found, len(kept), 0, int(kept["group"].nunique())))
    return pd.DataFrame(out, columns=list(SUMMARY))


def _ranked(
    records: Sequence[Record], part: str, condition: str, scores: Any, relevant: Any, suffix: str = ""
) -> list[dict[str, Any]]:
    first, five, precision = (
        recall_at(scores, relevant, 1),
        recall_at(scores, relevant, 5),
        average_precision(scores, relevant),
    )
    return [
        _row(r, part, condition, suffix, hit1=a, hit5=b, ap=c)
        for r, a, b, c in zip(records, first, five, precision, strict=True)
    ]


def _row(record: Record, part: str, condition: str, suffix: str = "", **scores: Any) -> dict[str, Any]:
    identity = f"{part}/{record.id}" + (f"#{suffix}" if suffix else "")
    return {
        "id": identity,
        "part": part,
        "condition": condition,
        "group": record.group,
        "image": str(record.image),
    } | scores


def _caption(record: Record) -> str:
    facts = [record.facts.get(k) for k in ("organ", "diagnosis", "stain")]
    return ", ".join(f for f in facts if f)


def markdown(runs: Sequence[dict[str, Any]]) -> str:
    """Runs beside each other: a row a task and measure, a column an encoder, controls below their task.

    Args:
        runs: ``run.json`` of finished runs of this task.
    """
    names = [run["model"] for run in runs]
    lines = [
        f"# {VERSION} on `{runs[0]['split']}`",
        "",
        f"{DISCLAIMER} Not the published PMEB, see `eval/pmeb.py`. Intervals: 95 %, bootstrap over slides or groups.",
        f"Reprint: `python -m eval.pmeb {' '.join(names)}`. Encoders: {', '.join(r['revision'] for r in runs)}.",
        "",
        "| task | measure | shown | n | " + " | ".join(names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    tables = [{(s["part"], s["metric"], s["condition"]): s for s in run["summary"]} for run in runs]
    for key in dict.fromkeys(k for table in tables for k in table):
        found = [table.get(key) for table in tables]
        cells = ["–" if s is None else f"{s['value']:.3f} [{s['low']:.2f}, {s['high']:.2f}]" for s in found]
        n = next(s["n"] for s in found if s is not None)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Command line: ``python -m eval.pmeb ENCODER… [--runs DIR] [--out DIR]``: run what is missing, and tabulate."""
    from eval.run import run_one

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--data")
    parser.add_argument("--runs", type=Path, default=Path("runs/pmeb"))
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    args = parser.parse_args()
    runs = []
    for name in args.encoders:
        kept = [read_json(p) for p in args.runs.glob(f"pmeb-style-val-{name}-*/run.json")]
        current = load_encoder(name).id
        run = next((r for r in kept if (r["revision"], r["version"]) == (current, VERSION)), None)
        runs.append(run or run_one("pmeb-style", name, args.data, args.runs).info)
    (args.out / "pmeb-style.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    (args.out / "pmeb-style.md").write_text(markdown(runs), encoding="utf-8")
    print(markdown(runs))


if __name__ == "__main__":
    main()
