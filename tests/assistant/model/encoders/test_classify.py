"""Zero-shot classes: ensembles, fitted probabilities, "none of these"."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.model.encoders import classify as module
from assistant.model.encoders.classify import (
    NONE,
    TEMPLATES,
    ClassCalibration,
    classify,
    fit_calibration,
    label_vectors,
    parse_labels,
)
from tests.assistant.model.encoders.fake import ColourEncoder

LABELS = ["red", "green", "blue"]


def vectors(*colours: str) -> np.ndarray:
    return ColourEncoder().embed_images([Image.new("RGB", (4, 4), colour) for colour in colours])


def test_the_label_that_fits() -> None:
    found = classify(ColourEncoder(), vectors("blue", "red"), LABELS, calibration=ClassCalibration())
    assert [one.label for one in found] == ["blue", "red"]
    for one in found:
        assert list(one.probabilities) == LABELS
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert max(one.probabilities, key=one.probabilities.__getitem__) == one.label
        assert 0.9 < one.cosine <= 1.0001


def test_ensembles_average_prompts() -> None:
    class Recording(ColourEncoder):
        def embed_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:  # type: ignore[override]
            self.seen = list(texts)
            return super().embed_texts(texts)

    encoder = Recording()
    rows = label_vectors(encoder, LABELS, ["{}", "red or {}"])
    assert encoder.seen == ["red", "red or red", "green", "red or green", "blue", "red or blue"]
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[1, 0] > 0.3  # the second prompt's red is in the mean
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_scale_sharpens_and_threshold_declines() -> None:
    grey, encoder = vectors("#808080", "red"), ColourEncoder()
    soft = classify(encoder, grey, LABELS, calibration=ClassCalibration(scale=1.0))
    sharp = classify(encoder, grey, LABELS, calibration=ClassCalibration(scale=50.0, threshold=0.8))
    assert sharp[1].probabilities["red"] > soft[1].probabilities["red"]
    assert [one.label for one in sharp] == [NONE, "red"]
    assert NONE not in [one.label for one in soft]


def test_the_fit_finds_scale_and_threshold() -> None:
    generator = np.random.default_rng(0)
    right = generator.integers(0, 3, 3000)
    logits = generator.normal(0, 1, (3000, 3)) * 4
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = np.array([generator.choice(3, p=p) for p in shares])  # so that a scale of 20 on logits / 20 is the truth
    fitted = fit_calibration([((logits / 20).astype(np.float32), right)])
    assert fitted.scale == pytest.approx(20, rel=0.1)
    assert fitted.threshold is None
    known, unknown = np.full((50, 2), 0.4, np.float32), np.full((50, 2), 0.2, np.float32)
    tasks = [(np.concatenate([known, unknown]), np.array([0] * 50 + [-1] * 50))]
    threshold = fit_calibration(tasks).threshold
    assert threshold is not None
    assert 0.2 < threshold < 0.4
    with pytest.raises(BadInput, match="no image has a right label"):
        fit_calibration([(unknown, np.full(50, -1))])


def test_the_calibration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEIGHTS_FOLDER", tmp_path)
    assert ClassCalibration.read("colours") == ClassCalibration()
    path = tmp_path / "colours" / "calibration.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**ClassCalibration(30.0, 0.25).as_dict(), "n": 12}))
    assert ClassCalibration.read("colours") == ClassCalibration(30.0, 0.25)
    assert classify(ColourEncoder(), vectors("#808080"), LABELS)[0].label != NONE  # cosine 0.58
    path.write_text("[]")
    with pytest.raises(NotAvailable, match=r"calibration\.json cannot be read"):
        ClassCalibration.read("colours")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lung", r"1 label\(s\) given; between 2"), ("lung,,colon", "label 2 is empty"), ("", "label 1 is empty"),
        ("lung, Lung", "stands there twice"), ("x" * 300 + ",b", "has 300 letters"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_labels(text)


def test_labels_with_braces_and_without_texts() -> None:
    assert parse_labels(" lung , colon{0} ") == ["lung", "colon{0}"]
    assert len(classify(ColourEncoder(), vectors("red"), ["red {0}", "blue {x}"], calibration=ClassCalibration())) == 1
    with pytest.raises(BadInput, match="no texts to classify with"):
        classify(ColourEncoder(has_text=False), vectors("red"), LABELS)
