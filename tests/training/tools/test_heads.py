"""Fitting of heads on drawn features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.head_labels import head_labels
from training.data.records import Record
from training.run import read_recipe
from training.tools.heads import HeadsRecipe, fit_head, other_threshold


def test_a_head_learns_and_its_threshold_keeps_known_fields() -> None:
    generator = np.random.default_rng(0)
    labels = [name for name in ("a", "b", "other") for _ in range(40)]
    centres = np.repeat(generator.normal(size=(3, 20)) * 2, 40, axis=0)
    features = (centres + generator.normal(size=centres.shape)).astype(np.float32)
    head, _ = fit_head(features, labels, [str(i) for i in range(120)], HeadsRecipe(), "x")
    guess = [head.classes[i] for i in head.probabilities(features).argmax(axis=1)]
    assert np.mean([g == t for g, t in zip(guess, labels, strict=True)]) > 0.95
    threshold = other_threshold(head, features, labels, 0.05)
    assert np.mean(head.probabilities(features[:80]).max(axis=1) < threshold) <= 0.05


def test_two_classes_get_two_rows() -> None:
    features = np.array([[-1.0], [1.0]] * 20, np.float32)
    head, _ = fit_head(features, ["x", "y"] * 20, [str(i) for i in range(40)], HeadsRecipe(strengths=(1.0,)), "e")
    assert head.weight.shape == (2, 1)
    assert head.probabilities(np.array([[3.0]], np.float32))[0].argmax() == head.classes.index("y")


def test_organs_of_a_site_are_not_other() -> None:
    def record(dataset: str, **facts: str) -> Record:
        return Record(dataset, Path("x.png"), "train", "g", facts)

    labels = head_labels([record("atlas", organ="lung"), record("atlas", organ="liver"),
                          record("crc_polyp5", colorectal="normal mucosa")])  # fmt: skip
    assert labels["site"] == [None, "other", "colorectal"]
    assert labels["site-open"] == [None, "other", None]
    assert labels["colorectal"] == [None, None, "normal mucosa"]


def test_the_shipped_recipe_reads() -> None:
    assert read_recipe(Path("training/tools/recipes/heads.yaml"), HeadsRecipe) == HeadsRecipe()
