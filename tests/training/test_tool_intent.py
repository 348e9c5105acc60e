"""The classifier is trained as it is run: the same numbers before and after it is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from assistant.chat.intent import load_intent
from training.tool_intent import Model, hashed_words, save


def test_the_stored_classifier_reads_as_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model().eval()
    for part in (model.head.weight, model.words.weight, *(one.b for one in model.changed.values())):
        torch.nn.init.normal_(part, std=0.05)
    texts = ["Count the nuclei in this image.", "hello there my friend", "x"]
    with torch.no_grad():
        trained = model([hashed_words(t) for t in texts], model.below(texts)).numpy()
    save(model.intent(0.4, (0.5, 0.5, -1.0)), tmp_path)
    stored = load_intent(tmp_path)
    assert stored.threshold == 0.4
    assert stored.mix == (0.5, 0.5, -1.0)
    assert np.abs(stored.log_odds(texts) - trained).max() < 0.02
    assert np.ptp(trained) > 0.1
