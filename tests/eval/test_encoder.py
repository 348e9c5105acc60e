"""The encoder's measures on toy vectors whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from eval import retrieval
from eval.encoder_metrics import (
    caption_retrieval,
    collapse,
    probe,
    slide_retrieval,
    zero_shot,
)
from eval.metrics.ranking import balanced_accuracy as balanced
from eval.stats import cluster_statistic as clustered
from training.data.captions import plain_caption
from training.data.records import Record

ORGANS = ("colon", "liver", "spleen")


class Words:
    """Texts as bags of the words the toy knows: organ and diagnosis each own a direction."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)

    class info:
        has_text = True
        name = "words"

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        rows = np.array([[float(word in text) for word in self.known] for text in texts], dtype=np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def atlas(fields: int = 4) -> list[Record]:
    """Per organ two train slides of one diagnosis and one val slide of another, and one val slide of the first."""
    made = []
    for organ in ORGANS:
        slides = (("a", "d1", "train"), ("b", "d1", "train"), ("c", "d2", "val"), ("d", "d1", "val"))
        for slide, diagnosis, split in slides:
            facts = {"organ": organ, "diagnosis": f"{diagnosis} {organ}", "stain": "H&E", "stain_class": "H&E"}
            for n in range(fields):
                path = Path(f"{organ}{slide}{n}.png")
                made.append(Record("atlas", path, split, f"atlas:{organ}{slide}", facts, slide == "c"))
    return made


@pytest.fixture
def material() -> tuple[list[Record], np.ndarray, Words]:
    """Images whose vectors are the words of their caption plus a little noise."""
    records = atlas()
    words = Words([*ORGANS, *(f"{d} {o}" for d in ("d1", "d2") for o in ORGANS)])
    captions = [plain_caption(r) for r in records]
    vectors = words.embed_texts([c.text for c in captions if c])
    noise = np.random.default_rng(0).normal(0, 0.02, vectors.shape)
    return records, (vectors + noise).astype(np.float32), words


def test_balanced_accuracy_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth, guess = (generator.choice(list("abc"), 200, p=p) for p in ([0.7, 0.2, 0.1], [0.4, 0.3, 0.3]))
    assert balanced(truth, guess) == pytest.approx(balanced_accuracy_score(truth, guess))


def test_intervals_resample_whole_groups() -> None:
    hits = np.array([1.0] * 50 + [0.0] * 50)
    two = clustered(lambda k: float(hits[k].mean()), ["a"] * 50 + ["b"] * 50)
    many = clustered(lambda k: float(hits[k].mean()), [str(i) for i in range(100)])
    assert two[0] == many[0] == 0.5
    assert (two[1], two[2]) == (0.0, 1.0)
    assert many[1] > 0.35


def test_a_probe_learns_what_is_there_and_nothing_from_noise(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, whole, _ = material
    vectors = whole[:, : len(ORGANS)]  # the words of diagnoses that training never saw would only be noise to it
    row = probe(vectors, records, "organ")
    assert row["linear"][0] == 1.0
    assert (row["n"], row["unseen_n"]) == (24, 12)
    noise = np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    assert probe(noise, records, "organ")["linear"][0] < 0.75


def test_zero_shot_beats_random_texts(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, vectors, words = material
    row = zero_shot(vectors, records, "organ", words)
    assert row["accuracy"][0] == 1.0
    assert row["random"] < 0.6


def test_captions_are_found_and_chance_is_right(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, vectors, words = material
    found = caption_retrieval(vectors, records, words)
    assert (found["captions"], found["fields"], found["unseen_fields"]) == (6, 24, 12)
    assert found["image_to_text@1"][0] == 1.0
    assert found["image_to_text@1"][3] == pytest.approx(1 / 6)
    assert found["text_to_image@1"][0] == 1.0
    turned = caption_retrieval(vectors[::-1], records, words)
    assert turned["image_to_text@1"][0] < 0.5


def test_slides_of_one_diagnosis_find_each_other(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, vectors, _ = material
    found = slide_retrieval(vectors, records)
    assert found["all"]["n"] == 9  # the slides of d2 have no other slide to find
    assert found["all"]["hit@1"] == 1.0
    assert found["val"]["n"] == 3


def test_collapse_tells_slides_from_organs(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, vectors, _ = material
    by_kind = collapse(vectors, records)
    assert by_kind["neighbour_other_slide_same_organ"] == 1.0
    slides = sorted({r.group for r in records})
    own = np.eye(len(slides), dtype=np.float32)[[slides.index(r.group) for r in records]]
    by_slide = collapse(own + np.random.default_rng(0).normal(0, 0.01, own.shape).astype(np.float32), records)
    assert by_slide["neighbour_same_slide"] == 1.0
    assert by_slide["silhouette_slide"] > 0.9 > by_slide["silhouette_organ"] + 0.5
    assert by_slide["neighbour_other_slide_same_organ"] < 0.7


def test_the_own_slide_is_never_a_similar_case(material: tuple[list[Record], np.ndarray, Words]) -> None:
    records, vectors, _ = material
    queries = [i for i, r in enumerate(records) if r.split == "val"]
    found = retrieval.ask(records, queries, vectors[queries], vectors)
    assert found["diagnosis"]["n"] == 12
    assert found["diagnosis"]["hit@1"][0] == found["diagnosis"]["mAP"][0] == 1.0
    assert found["organ, unseen"]["n"] == 12
    assert found["organ"]["hit@1"][0] == 1.0
    slides = sorted({r.group for r in records})
    own = np.eye(len(slides), dtype=np.float32)[[slides.index(r.group) for r in records]]
    blind = retrieval.ask(records, queries, own[queries], own)  # only the own slide looks alike
    assert blind["diagnosis"]["hit@1"][0] < 0.7
