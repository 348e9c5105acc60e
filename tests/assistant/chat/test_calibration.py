"""Scores to probabilities, and reading the shipped file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.chat.calibration import Calibration


def test_options_sum_to_one_and_keep_order() -> None:
    chances = Calibration().options([-1.0, -2.0, -0.5])
    assert chances.sum() == pytest.approx(1)
    assert list(np.argsort(chances)) == [1, 0, 2]


def test_temperature_flattens() -> None:
    sharp, flat = Calibration(temperature=0.5), Calibration(temperature=5.0)
    assert sharp.options([0.0, -1.0]).max() > flat.options([0.0, -1.0]).max()


def test_prior_takes_off_what_is_liked_blindly() -> None:
    scores, prior = [-0.5, -0.6], [-0.2, -2.0]
    assert Calibration().options(scores, prior).argmax() == 0
    assert Calibration(prior_weight=1.0).options(scores, prior).argmax() == 1


def test_open_confidence_rises_with_likelihood() -> None:
    calibration = Calibration(open_slope=2.0, open_offset=1.0)
    assert calibration.open_answer(-0.1) > calibration.open_answer(-3.0)
    assert 0 < calibration.open_answer(-50.0) < calibration.open_answer(0.0) < 1


def test_read_round_trip_ignores_unknown_keys(tmp_path: Path) -> None:
    made = Calibration(prior_weight=0.25, temperature=0.5, threshold=0.3)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(made.as_dict() | {"note": "x"}))
    assert Calibration.read(path) == made
    assert Calibration.read(tmp_path / "absent.json") == Calibration()


@given(
    scores=st.lists(st.floats(-20, 5), min_size=2, max_size=8, unique=True),
    slope=st.floats(0.2, 4),
    offset=st.floats(-3, 3),
)
def test_the_top_is_moved_and_the_order_stays(scores: list[float], slope: float, offset: float) -> None:
    plain, moved = Calibration(), Calibration(top_slope=slope, top_offset=offset)
    before, after = plain.options(scores), moved.options(scores)
    assert after.sum() == pytest.approx(1)
    order = np.argsort(before)
    assert (np.diff(after[order]) >= -1e-9).all()
    wanted = min(max(moved.top(float(before.max())), 1 / len(scores)), 0.9999)
    gap = np.diff(np.sort(scores))[-1]
    if gap > 1e-3:  # nearly equal best scores share their probability
        assert after.max() == pytest.approx(wanted, abs=2e-3)


def test_all_equal_scores_stay_uniform() -> None:
    assert Calibration(top_slope=2.0).options([1.0, 1.0, 1.0]) == pytest.approx([1 / 3] * 3)
