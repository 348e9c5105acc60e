"""What is asked of an encoder's vectors: probes, zero-shot classes, retrieval, and how far slides collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.model.encoders.base import Encoder
from assistant.model.encoders.classify import ClassCalibration, fit_calibration, label_vectors
from eval.metrics.ranking import balanced_accuracy
from eval.stats import cluster_statistic
from training.data.captions import plain_caption
from training.data.records import Record

#: Classification task → the set it belongs to. The last three sets were never trained on.
TASKS = {
    "organ": "atlas", "stain_class": "atlas", "lung": "lc25000_lung", "oral": "oral_oscc", "node": "pcam_1k",
    "colorectal": "crc_polyp5", "cervical": "herlev_pap", "leucocyte": "wbc_seg",
}  # fmt: skip
_CLASS_WORDS = {
    "node": {
        "metastasis in the centre": "lymph node with metastasis",
        "no metastasis in the centre": "lymph node without metastasis",
    },
    "colorectal": "{} of the colon",
    "cervical": "{} cell of the cervix",
    "leucocyte": "{} in a blood smear",
    "stain_class": "a section stained with {}",
}  # fmt: skip
#: Inverse regularisation of every probe, the same for all encoders.
PROBE_C = 0.01
SHOTS, SHOT_SEEDS, RANDOM_DRAWS = 16, 5, 50
Vectors = NDArray[np.float32]


def members(records: Sequence[Record], task: str, split: str) -> list[int]:
    """Indices of the records of a task in one split."""
    return [i for i, r in enumerate(records) if r.dataset == TASKS[task] and r.split == split and task in r.facts]


def _balanced(truth: NDArray[Any], guess: NDArray[Any], groups: Sequence[str]) -> list[float]:
    """Balanced accuracy with its interval over whole groups."""
    return [*cluster_statistic(lambda k: balanced_accuracy(truth[k], guess[k]), groups)]


def _fit(x: Vectors, y: Sequence[str]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = LogisticRegression(C=PROBE_C, max_iter=500, class_weight="balanced")
    return make_pipeline(StandardScaler(), probe).fit(x, list(y))


def probe(vectors: Vectors, records: Sequence[Record], task: str) -> dict[str, Any]:
    """Linear probe on all of ``train`` and on 16 shots (mean of five draws), scored on ``val``."""
    train, val = members(records, task, "train"), members(records, task, "val")
    labels = np.array([records[i].facts[task] for i in train])
    truth = np.array([records[i].facts[task] for i in val])
    guess = _fit(vectors[train], labels).predict(vectors[val])
    groups = [records[i].group for i in val]
    row: dict[str, Any] = {"n": len(val), "classes": len(set(labels)), "majority": 1 / len(set(truth))}
    row["linear"] = _balanced(truth, guess, groups)
    few = []
    for seed in range(SHOT_SEEDS):
        generator = np.random.default_rng(seed)
        picked = np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:SHOTS] for c in np.unique(labels)])
        chosen = [train[p] for p in picked]
        few.append(balanced_accuracy(truth, _fit(vectors[chosen], labels[picked]).predict(vectors[val])))
    row["shots"] = float(np.mean(few))
    if task == "organ":
        new = np.array([records[i].unseen_case for i in val])
        row["unseen"] = _balanced(truth[new], guess[new], list(np.array(groups)[new]))
        row["unseen_n"] = int(new.sum())
    return row


def class_words(task: str, names: Sequence[str]) -> list[str]:
    """How the classes of a task are called when they stand alone."""
    words = _CLASS_WORDS.get(task, "{}")
    return [words[n] if isinstance(words, dict) else words.format(n) for n in names]


def zero_shot(images: Vectors, records: Sequence[Record], task: str, encoder: Encoder) -> dict[str, Any]:
    """Balanced accuracy of the nearest class text, and of random vectors in the texts' place."""
    val = members(records, task, "val")
    names = sorted({records[i].facts[task] for i in members(records, task, "train") + val})
    truth = np.array([records[i].facts[task] for i in val])
    groups = [records[i].group for i in val]
    guess = np.array(names)[(images[val] @ label_vectors(encoder, class_words(task, names)).T).argmax(1)]
    generator = np.random.default_rng(0)
    kinds = np.array(names)
    noise = (generator.normal(size=(images.shape[1], len(names))) for _ in range(RANDOM_DRAWS))
    control = [balanced_accuracy(truth, kinds[(images[val] @ texts).argmax(1)]) for texts in noise]
    row = {
        "accuracy": _balanced(truth, guess, groups),
        "random": float(np.mean(control)),
    }
    if task == "organ":
        new = np.array([records[i].unseen_case for i in val])
        row["unseen"] = _balanced(truth[new], guess[new], list(np.array(groups)[new]))
    return row


def caption_retrieval(images: Vectors, records: Sequence[Record], encoder: Encoder) -> dict[str, Any]:
    """Recall of ``val`` fields of the atlas against every distinct caption of the whole atlas, both ways.

    Image → text: is the field's caption among the k nearest of all captions? Text → image: for each caption of a
    ``val`` slide, is one of its fields among the k nearest of all ``val`` fields?
    """
    fields = [i for i, r in enumerate(records) if r.dataset == "atlas" and plain_caption(r)]
    texts = sorted({c.text for i in fields if (c := plain_caption(records[i]))})
    vectors = encoder.embed_texts(texts)
    val = [i for i in fields if records[i].split == "val"]
    own = np.array([texts.index(c.text) for i in val if (c := plain_caption(records[i]))])
    groups = [records[i].group for i in val]
    similar = images[val] @ vectors.T  # [fields, captions]
    rank = (similar > similar[np.arange(len(val)), own][:, None]).sum(1)
    unseen = np.array([records[i].unseen_case for i in val])
    out: dict[str, Any] = {"fields": len(val), "captions": len(texts), "unseen_fields": int(unseen.sum())}
    for k in (1, 5, 10):
        found = cluster_statistic(lambda i, k=k: float((rank[i] < k).mean()), groups)
        out[f"image_to_text@{k}"] = [*found, k / len(texts)]
        out[f"image_to_text_unseen@{k}"] = float((rank[unseen] < k).mean())
        hits, chance = [], []
        for caption in np.unique(own):
            nearest = own[np.argsort(-similar[:, caption])[:k]]
            hits.append(float((nearest == caption).any()))
            chance.append(1 - (1 - (own == caption).mean()) ** k)
        out[f"text_to_image@{k}"] = [float(np.mean(hits)), len(hits), float(np.mean(chance))]
    return out


def slide_retrieval(vectors: Vectors, records: Sequence[Record]) -> dict[str, Any]:
    """Slides (mean of their fields) of the whole atlas: is the nearest other slide of the same diagnosis?

    Only slides whose diagnosis another slide shares are asked; slides of one case count as other slides.
    """
    slides: dict[str, list[int]] = {}
    for i, r in enumerate(records):
        if r.dataset == "atlas" and "diagnosis" in r.facts:
            slides.setdefault(r.group, []).append(i)
    names = list(slides)
    centres = np.stack([vectors[slides[s]].mean(0) for s in names])
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    label = np.array([records[slides[s][0]].facts["diagnosis"] for s in names])
    held = np.array([records[slides[s][0]].split == "val" for s in names])
    similar = centres @ centres.T
    np.fill_diagonal(similar, -np.inf)
    order = np.argsort(-similar, axis=1)
    out: dict[str, Any] = {"slides": len(names)}
    for name, part in (("all", np.ones(len(names), bool)), ("val", held)):
        asked = [i for i in np.flatnonzero(part) if (label == label[i]).sum() > 1]
        chance = [((label == label[i]).sum() - 1) / (len(names) - 1) for i in asked]
        hits = {f"hit@{k}": [float((label[order[i, :k]] == label[i]).any()) for i in asked] for k in (1, 5)}
        means = {k: float(np.mean(v)) for k, v in hits.items()}
        out[name] = {"n": len(asked), "chance@1": float(np.mean(chance))} | means

    return out


def collapse(vectors: Vectors, records: Sequence[Record]) -> dict[str, float]:
    """Does a field lie nearer to its slide than to its kind? Over all atlas fields in H&E.

    ``slide`` and ``organ``: silhouette (cosine) by slide and by organ. ``neighbour_*``: share of fields whose nearest
    field is of the same slide; and, leaving out the own slide, of the same organ and of the same diagnosis.
    """
    from sklearn.metrics import silhouette_score

    rows = [i for i, r in enumerate(records) if r.dataset == "atlas" and {"organ", "stain"} <= r.facts.keys()]
    rows = [i for i in rows if records[i].facts["stain"] == "H&E"]
    x = vectors[rows] - vectors[rows].mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    slide, organ, diagnosis = (
        np.array([f(records[i]) for i in rows])
        for f in (lambda r: r.group, lambda r: r.facts["organ"], lambda r: r.facts.get("diagnosis", r.group))
    )
    similar = x @ x.T
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.argmax(1)
    similar[slide[:, None] == slide[None, :]] = -np.inf
    other = similar.argmax(1)
    shared = np.array([len(set(slide[organ == o])) > 1 for o in organ])
    shared_diagnosis = np.array([len(set(slide[diagnosis == d])) > 1 for d in diagnosis])
    return {
        "fields": len(rows),
        "silhouette_slide": float(silhouette_score(x, slide, metric="cosine")),
        "silhouette_organ": float(silhouette_score(x, organ, metric="cosine")),
        "neighbour_same_slide": float((slide[nearest] == slide).mean()),
        "neighbour_other_slide_same_organ": float((organ[other] == organ)[shared].mean()),
        "neighbour_other_slide_same_diagnosis": float((diagnosis[other] == diagnosis)[shared_diagnosis].mean()),
    }


#: Tasks whose classes calibrate the shipped classifier → sets whose images show none of these classes.
_STRANGERS = {
    "organ": ("bccd_boxes",), "lung": ("oral_oscc", "pcam_1k", "bccd_boxes"),
    "oral": ("lc25000_lung", "pcam_1k", "bccd_boxes"), "node": ("lc25000_lung", "oral_oscc", "bccd_boxes"),
}  # fmt: skip


def class_calibration(images: Vectors, records: Sequence[Record], encoder: Encoder) -> ClassCalibration:
    """Scale of probabilities and threshold of "none of these", fitted on ``val`` of the open sets."""
    tasks = []
    for task, strangers in _STRANGERS.items():
        val = members(records, task, "val")
        names = sorted({records[i].facts[task] for i in members(records, task, "train") + val})
        other = [i for i, r in enumerate(records) if r.split == "val" and r.dataset in strangers]
        cosines = images[val + other] @ label_vectors(encoder, class_words(task, names)).T
        right = [names.index(records[i].facts[task]) for i in val] + [-1] * len(other)
        tasks.append((cosines, np.array(right)))
    return fit_calibration(tasks)
