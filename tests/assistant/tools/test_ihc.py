"""Nuclei of an immunostain: pale blue ones between brown cytoplasm and brown ones are both found, each once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from assistant.tools.base import Context, ToolResult
from assistant.tools.ihc import as_he, joined, score_ihc

#: Brown epithelium in the upper left of scikit-image's immunostained colon, xyxy.
EPITHELIUM = (28, 56, 225, 225)


@pytest.fixture(scope="module")
def colon() -> Image.Image:
    from skimage.data import immunohistochemistry

    return Image.fromarray(immunohistochemistry())  # type: ignore[no-untyped-call]


def inside(result: ToolResult, box: tuple[int, int, int, int]) -> int:
    assert result.geojson is not None
    rings = [np.array(f["geometry"]["coordinates"][0]).mean(axis=0) for f in result.geojson["features"]]
    return sum(box[0] <= x < box[2] and box[1] <= y < box[3] for x, y in rings)


def test_nuclei_between_brown_cytoplasm_are_found(colon: Image.Image) -> None:
    with_network, without = (score_ihc(colon, context=Context(research=flag)) for flag in (True, False))
    assert inside(without, EPITHELIUM) < 10
    assert inside(with_network, EPITHELIUM) > 40
    assert with_network.numbers["negative"] > 100  # the stroma stays blue
    assert with_network.numbers["positive"] > 150
    assert any("watershed alone" in w for w in without.warnings)
    assert not any("watershed" in w for w in with_network.warnings)


def test_each_nucleus_is_counted_once() -> None:
    network, watershed = np.zeros((40, 60), np.int32), np.zeros((40, 60), np.int32)
    network[5:15, 5:15] = 1  # found by both
    watershed[5:15, 5:15] = 1
    watershed[20:30, 5:15] = 2  # left out by the network
    watershed[20:30, 30:50] = 3  # the network has a small part of it
    network[21:24, 31:34] = 2
    watershed[2, 20:40] = 4  # a crooked thing
    watershed[2:12, 20] = 4
    found = joined(network, watershed)
    assert sorted(np.unique(found)) == [0, 1, 2, 3]
    assert len({int(found[10, 10]), int(found[25, 10]), int(found[25, 45])}) == 3
    assert found[22, 32] == found[25, 45]
    assert found[2, 30] == 0


def test_haematoxylin_alone_is_drawn_as_dark_as_in_h_and_e() -> None:
    pale = np.full((40, 40), 0.02, np.float32)
    pale[10:30, 10:30] = 0.3
    drawn = as_he(pale)
    assert drawn.shape == (40, 40, 3)
    assert drawn[20, 20].astype(int).sum() < drawn[2, 2].astype(int).sum() - 150
    assert drawn[20, 20, 2] > drawn[20, 20, 0]  # blue, not brown
