"""What a phrase asks is carried out exactly: by hand, and against a brute-force count over all memberships."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.grounding.detector import CLASSES, Detector, Proposals, boxed
from assistant.grounding.matcher import Matcher, geometry_of
from assistant.grounding.program import OPS, PLACES, execute, first, winner, within

# A field of 400 x 200: (box, darkness)
BOXES = ((10, 10, 50, 50), (100, 100, 180, 180), (300, 20, 320, 30), (340, 150, 390, 160))


def found(boxes: tuple[tuple[int, int, int, int], ...] = BOXES, size: tuple[int, int] = (400, 200)) -> Proposals:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    features = np.zeros((len(rows), Detector.feature_size), np.float32)
    features[:, -6:-3] = np.linspace(-0.5, 0.5, len(rows))[:, None]  # the first is the darkest
    scores = np.zeros((len(rows), len(CLASSES)), np.float32)
    scores[:, 3] = 0.9
    outlines = boxed(rows) / np.array([size[0] * size[1], 1, 1, 1], np.float32)
    return Proposals(rows, scores, features, outlines, np.zeros(Detector.context_size, np.float32), size)


def done(op: str, place: str = "left", member: tuple[float, ...] = (1, 1, 1, 1), anchor: int = 0) -> torch.Tensor:
    geometry = torch.from_numpy(geometry_of(found()))[None]
    at = torch.nn.functional.one_hot(torch.tensor([anchor]), len(BOXES)).float()
    said = (torch.eye(len(OPS))[OPS.index(op)][None], torch.eye(len(PLACES))[PLACES.index(place)][None])
    return execute(*said, torch.tensor([member], dtype=torch.float32), at, geometry)[0]


@pytest.mark.parametrize(
    ("op", "meant"),
    [
        ("largest", [1]), ("smallest", [2]), ("leftmost", [0]), ("rightmost", [3]), ("topmost", [2]),
        ("bottommost", [3]), ("central", [1]), ("elongated", [3]), ("darkest", [0]), ("palest", [3]),
        ("nearest", [1]), ("farthest", [3]), ("nearest to the largest", [0]), ("farthest to the largest", [3]),
        ("two largest", [0, 1]), ("three largest", [0, 1, 3]), ("all", [0, 1, 2, 3]), ("group", [0, 1, 2, 3]),
        ("one", [0, 1, 2, 3]), ("positions", [0, 1]), ("position", [0, 1]), ("group position", [0, 1]),
    ],
)  # fmt: skip
def test_operations_by_hand(op: str, meant: list[int]) -> None:
    assert (done(op) > 0.9).nonzero().flatten().tolist() == meant
    assert (done(op) > 0.1).nonzero().flatten().tolist() == meant


def test_every_operation_is_tested() -> None:
    assert len(OPS) == 22
    assert done("one").shape == (4,)


def test_what_is_not_named_does_not_count() -> None:
    assert done("largest", member=(1, 0, 1, 1)).argmax() == 0
    assert done("darkest", member=(0, 1, 1, 0)).argmax() == 1
    assert done("nearest", member=(0, 0, 1, 1), anchor=1).argmax() == 2
    assert done("rightmost", member=(0, 0, 0, 0)).max() == 0


def test_places() -> None:
    x, y = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.2, 0.8]])
    assert (within(x, y) > 0.5)[0].tolist() == [
        [True, False, False, False, True, False, True, False],
        [False, False, False, True, False, True, False, True],
    ]


@settings(max_examples=40, deadline=None)
@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_winner_is_the_sum_over_all_memberships(chances: list[float], seed: int) -> None:
    key = torch.from_numpy(np.random.default_rng(seed).permutation(len(chances)).astype(np.float64))[None]
    wanted = np.zeros(len(chances))
    for members in itertools.product((0, 1), repeat=len(chances)):
        weight = np.prod([c if m else 1 - c for c, m in zip(chances, members, strict=True)])
        if any(members):
            wanted[min((i for i, m in enumerate(members) if m), key=lambda i: float(key[0, i]))] += weight
    got = winner(key, torch.tensor([chances], dtype=torch.float64))[0].numpy()
    assert got == pytest.approx(wanted, abs=1e-9)


def test_first_of_sure_members() -> None:
    got = first(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]), 2)[0]
    assert (got > 0.9).tolist() == [False, True, True, False]


def test_gradients_reach_memberships_and_reading() -> None:
    matcher = Matcher().train()
    said = found()
    geometry = torch.from_numpy(geometry_of(said))[None]
    features = torch.from_numpy(np.concatenate([said.features, said.scores], axis=1))[None]
    read = matcher(
        torch.from_numpy(said.boxes / 400)[None], features, geometry, torch.zeros(1, Detector.context_size),
        torch.tensor([[True, True, True, False]]), torch.randn(1, 5, 384), torch.zeros(1, 5).long(),
        torch.zeros(1, 5).bool(),
    )  # fmt: skip
    read.match.sum().backward()
    for parameter in (matcher.role.weight, matcher.parser.queries, matcher.trust):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert read.op.shape == (1, len(OPS))


def test_a_wide_image_measures_distances_in_pixels() -> None:
    # In shares of the sides the second box is nearer to the first; in pixels the third is.
    wide = replace(found(((0, 0, 10, 10), (90, 0, 100, 10), (0, 60, 10, 70), (0, 0, 1, 1))), size=(1000, 100))
    geometry = torch.from_numpy(geometry_of(wide))[None]
    ops = torch.eye(len(OPS))[OPS.index("nearest")][None]
    got = execute(ops, torch.zeros(1, 8), torch.tensor([[0.0, 1, 1, 0]]), torch.tensor([[1.0, 0, 0, 0]]), geometry)
    assert got[0].argmax() == 2


def test_a_phrase_for_one_thing_gives_one_box() -> None:
    from assistant.grounding.ground import Grounder, Reading
    from assistant.grounding.matcher import MatcherConfig

    grounder = Grounder(None, Matcher(MatcherConfig(threshold=0.1)))  # type: ignore[arg-type]
    said = found()
    for most, count in ((None, 4), (1, 1), (2, 2)):
        read = Reading(said.boxes.astype(np.float64), np.array([0.1, 2.0, 0.3, 0.2]), False, most)
        got = grounder.chosen(read, "x", said.size, 0.1)
        assert len(got) == count
        assert got[0].xyxy == BOXES[1]
