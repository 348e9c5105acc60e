"""IoU by hand and against torchvision, mAP against pycocotools where it is installed."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.boxes import Detection, Truth, accuracy_at_iou, box_iou, detection_ap, mean_ap, xywh_to_xyxy


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
        ((3, 3, 1, 1), (0, 0, 10, 10), 0.0),
        ((0, 0, 10, 10), (0, 0, 10, 7), 0.7),
    ],
)
def test_iou_by_hand(a: tuple[float, ...], b: tuple[float, ...], iou: float) -> None:
    assert box_iou([a], [b])[0, 0] == pytest.approx(iou)


def test_accuracy_is_strictly_greater() -> None:
    ious = box_iou([[0, 0, 10, 10]] * 3, [[0, 0, 10, 5], [0, 0, 10, 5.01], [0, 0, 10, 10]])[0]
    assert accuracy_at_iou(ious, 0.5) == pytest.approx(2 / 3)
    assert accuracy_at_iou([0.5, 0.5], 0.5) == 0
    assert np.isnan(accuracy_at_iou([], 0.5))


def test_corner_and_size() -> None:
    assert xywh_to_xyxy([201, 0, 182, 307]) == (201, 0, 383, 307)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000))
def test_iou_is_torchvisions(seed: int) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    generator = np.random.default_rng(seed)
    corners = generator.random((2, 5, 2)) * 50
    boxes = np.concatenate([corners, corners + generator.random((2, 5, 2)) * 40 + 1], axis=2)
    expected = ops.box_iou(torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1])).numpy()
    assert np.allclose(box_iou(boxes[0], boxes[1]), expected)


def test_ap_by_hand() -> None:
    truth = [Truth("1", "a", (0, 0, 10, 10)), Truth("1", "a", (20, 0, 30, 10))]
    right = Detection("1", "a", (0, 0, 10, 10), 0.9)
    twice = Detection("1", "a", (0, 0, 10, 9), 0.8)  # the same cell again: a false positive
    assert detection_ap(truth, [right])["a"] == pytest.approx(51 / 101)
    assert detection_ap(truth, [right, twice])["a"] == pytest.approx(51 / 101)
    assert mean_ap(truth, []) == 0
    assert np.isnan(mean_ap([], [right]))


def random_scene(seed: int) -> tuple[list[Truth], list[Detection]]:
    generator = np.random.default_rng(seed)
    truth, found = [], []
    for image in "123":
        for _ in range(generator.integers(0, 5)):
            x, y = generator.integers(0, 60, 2)
            w, h = generator.integers(8, 30, 2)
            label = str(generator.choice(["a", "b"]))
            truth.append(Truth(image, label, (float(x), float(y), float(x + w), float(y + h))))
            for _ in range(generator.integers(0, 3)):
                dx, dy = generator.normal(0, 3, 2)
                box = (x + dx, y + dy, x + w + dx, y + h + dy)
                found.append(Detection(image, label, box, float(generator.random())))
        found.append(Detection(image, "a", (70.0, 70.0, 80.0, 80.0), float(generator.random())))
    return truth, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000))
def test_ap_is_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluate = pytest.importorskip("pycocotools.cocoeval")
    truth, found = random_scene(seed)
    if not truth:
        return
    number = {"a": 1, "b": 2}

    def entry(i: int, box: Truth | Detection) -> dict[str, object]:
        x0, y0, x1, y1 = box.xyxy
        size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "id": i + 1}
        return size | {"image_id": int(box.image), "category_id": number[box.label]}

    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [{"id": i} for i in (1, 2, 3)],
            "categories": [{"id": i} for i in (1, 2)],
            "annotations": [entry(i, t) for i, t in enumerate(truth)],
        }
        reference.createIndex()
        results = reference.loadRes([entry(i, d) | {"score": d.score} for i, d in enumerate(found)])
        run = evaluate.COCOeval(reference, results, "bbox")
        run.params.iouThrs = np.array([0.5])
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][0, :, :, 0, -1]  # [recall, label]
    for label, value in detection_ap(truth, found).items():
        assert value == pytest.approx(precision[:, number[label] - 1].mean(), abs=1e-6)
