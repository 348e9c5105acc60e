"""What the detector makes of maps: means over boxes, boxes of instances, colours, places of classes."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.grounding.detector import CLASSES, boxed, boxes_of, colours, outlines_of, pooled, spread


def test_pooled_is_the_mean_over_each_box() -> None:
    features = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
    boxes = np.array([[1, 2, 4, 5], [7.2, 5.1, 7.4, 5.3], [-3, -3, 90, 90]], np.float32)
    means = pooled(features, boxes)
    expected = [features[:, 2:5, 1:4].mean(axis=(1, 2)), features[:, 5, 7], features.mean(axis=(1, 2))]
    np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_boxes_enclose_their_instances() -> None:
    ids = np.zeros((10, 12), np.int32)
    ids[2:5, 3:9] = 1
    ids[7:10, 0:2] = 2
    np.testing.assert_array_equal(boxes_of(ids), [[3, 2, 9, 5], [0, 7, 2, 10]])
    assert boxes_of(np.zeros((4, 4), np.int32)).shape == (0, 4)


def test_colours_tell_the_box_from_what_is_around_it() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:20, 10:20] = (255, 0, 0)
    (row,) = colours(pixels, np.array([[10, 10, 20, 20]], np.float32))
    np.testing.assert_allclose(row[:3], [1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(row[3:], [-0.5, -1, -1], atol=1e-5)


def test_scores_keep_to_the_places_of_their_family() -> None:
    out = spread(np.array([[0.2, 0.8]], np.float32), 3)
    assert out.shape == (1, len(CLASSES))
    assert out[0, 3:5].tolist() == [np.float32(0.2), np.float32(0.8)]
    assert out.sum() == np.float32(1.0)


def test_an_outline_tells_a_merged_pair_from_one_nucleus() -> None:
    y, x = np.mgrid[:60, :60]
    ids = np.zeros((60, 60), np.int32)
    ids[(y - 20) ** 2 + (x - 20) ** 2 < 100] = 1
    ids[((y - 45) ** 2 + (x - 15) ** 2 < 64) | ((y - 45) ** 2 + (x - 31) ** 2 < 64)] = 2
    ids[5:10, 40:55] = 3
    distance = np.where(ids == 2, 0.6, 0.9).astype(np.float32)
    pair, one, rectangle = outlines_of(ids, distance, np.array([2, 1, 3]))
    assert pair[2] < 0.9 < 0.93 < one[2]
    assert rectangle.tolist() == pytest.approx([75, 1, 1, 0.9])
    assert pair[3] == pytest.approx(0.6)
    assert boxed(np.array([[40, 5, 55, 10]], np.float32))[0].tolist() == [75, 1, 1, 1]
