"""The classifier is trained as it is run: the same numbers before and after it is stored."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from assistant.chat.intent import Intent, load_intent
from assistant.chat.planner import Facts
from training.data.tool_calls import Expected, Request
from training.tool_intent import NAMES, Model, averaged, chosen, hashed_words, restyled, save


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

    other = Model().eval()
    other.take(stored)
    with torch.no_grad():
        again = other([hashed_words(t) for t in texts], other.below(texts)).numpy()
    assert np.abs(again - trained).max() < 0.02


def test_hurried_writing_keeps_the_words_that_matter() -> None:
    said = {restyled("Please count the nuclei, and tell me what is large.", random.Random(i)) for i in range(300)}
    assert {
        "Please count nuclei, and tell me what is large.",
        "Please count the nuclei and tell me what is large",
    } <= said
    assert "pls count the nuclei, & tell me whats large." in said
    assert sum("nuclei" in text for text in said) > len(said) / 2
    assert "" not in said


def test_an_average_lies_between_and_keeps_the_settings_of_the_first() -> None:
    one, two = (
        Intent(("a",), np.full((1, 3), v, np.float32), np.array([v]), v, 1.0, {"x.a": np.array([v])})
        for v in (1.0, 3.0)
    )
    mean = averaged([one, two])
    assert (mean.weights == 2).all()
    assert mean.bias.tolist() == [2]
    assert mean.low_rank["x.a"].tolist() == [2]
    assert mean.threshold == 1.0


def test_the_threshold_that_calls_least_too_much_is_chosen() -> None:
    class Fixed(Intent):
        def log_odds(self, texts):  # type: ignore[no-untyped-def]
            return np.array(
                [[1.0 if "count" in t else 0.2 if "?" in t else -4.0] * len(NAMES) for t in texts], np.float32
            )

    every = tuple(Expected(name, {"image": 1}) for name in NAMES)
    asked = [Request("count it", Facts(1), every, "call"), Request("why?", Facts(1), (), "none")]
    found = chosen(Fixed(NAMES, np.zeros((11, 3), np.float32), np.zeros(11, np.float32)), {"x": asked})
    assert found.threshold in (0.6, 0.7)
    assert found.wanted("count it")
    assert not found.wanted("why?")
