"""Open answers against the published rules, and BLEU against NLTK where it is installed."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.text import (
    llava_med_closed,
    llava_med_normalise,
    llava_med_scores,
    pa_llava_exact,
    pa_llava_normalise,
    sentence_bleu,
    token_f1,
    yes_no,
)

WORDS = st.lists(st.sampled_from(["the", "liver", "cell", "cells", "is", "no", "of", "two"]), max_size=9).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The liver, and a spleen.", "liver and spleen"),
        ("Dont know; two cells", "don't know 2 cells"),
        ("1,200 cells", "1200 cells"),
        ("well-differentiated", "well differentiated"),
        ("well -differentiated", "well differentiated"),
        ("a.b 1.5", "ab 1.5"),
        ("couldntve shouldntve couldn'tve", "couldntve shouldntve couldn't've"),
        ("hed wed", "he'd wed"),
        ("somebody'd", "somebodyd"),
        ("none", "0"),
        ("", ""),
    ],
)
def test_llava_med_normalisation(text: str, normal: str) -> None:
    assert llava_med_normalise(text) == normal


def test_only_the_first_32_periods_go() -> None:
    assert llava_med_normalise("." * 40 + "x").count(".") == 8


def test_llava_med_exact_match_is_a_share_of_words() -> None:
    scores = llava_med_scores("liver cells of rats", "rat liver")
    assert scores["exact"] == 1 / 4
    assert scores["precision"] == 1 / 4
    assert scores["recall"] == 1 / 2
    assert scores["f1"] == pytest.approx(1 / 3)
    assert llava_med_scores("", "liver")["f1"] == 0


def test_a_shared_word_counts_as_often_as_it_was_said() -> None:
    # Published: tp 2 ("liver" said twice), fn 1, fp 1: precision 2/3, recall 2/3. SQuAD: 2 * 1 / (3 + 2).
    scores = llava_med_scores("liver liver cell", "liver duct")
    assert scores["f1"] == pytest.approx(2 / 3)
    assert token_f1("liver liver cell", "liver duct") == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("said", "wanted", "published", "strict"),
    [
        ("Yes", "yes", 1.0, True),
        ("No, it is not.", "no", 1.0, True),
        ("No", "yes", None, False),
        ("It is normal", "no", 1.0, False),  # "no" inside "normal"
        ("It is normal", "yes", None, False),
        ("Perhaps", "yes", 0.0, False),
        ("nothing", "yes", None, False),
        (" yes!", "yes", 1.0, True),
    ],
)
def test_closed_answers(said: str, wanted: str, published: float | None, strict: bool) -> None:
    assert llava_med_closed(said, wanted) == published
    assert (yes_no(said) == wanted) is strict


def test_pa_llava_equality() -> None:
    assert pa_llava_normalise("X-Ray (chest)!") == "xray chest"
    assert pa_llava_exact("Liver.", "liver")
    assert not pa_llava_exact("the liver", "liver")


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS, st.sampled_from([(0.25,) * 4, (1.0,), (0.0, 1.0), (0.0, 0.0, 1.0)]))
def test_bleu_is_nltks(said: str, wanted: str, weights: tuple[float, ...]) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bleu.sentence_bleu([wanted.split()], said.split(), weights=weights)
    assert sentence_bleu(said, wanted, weights) == pytest.approx(expected, abs=1e-12)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_bounded(a: str, b: str) -> None:
    assert 0 <= token_f1(a, b) <= 1
    assert token_f1(a, b) == pytest.approx(token_f1(b, a))
    assert token_f1(a, a) == 1
