"""Knowledge, matcher and the grounder on made-up detections, and the shipped weights on real fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.grounding import load_grounder
from assistant.grounding.detector import CLASSES, Detector, Proposals, boxed, boxes_of, colours, pooled, spread
from assistant.grounding.ground import Grounder, Reading, check_phrase, refined
from assistant.grounding.knowledge import LONGEST, expand, terms
from assistant.grounding.matcher import GEOMETRY, Matcher, MatcherConfig, geometry_of
from assistant.grounding.slides import fields_of, ground_slide
from assistant.grounding.text import padded, tokens


def proposals(*boxes: tuple[float, float, float, float], size: tuple[int, int] = (100, 100)) -> Proposals:
    """Glands at the boxes, with features of their own."""
    rng = np.random.default_rng(0)
    count = len(boxes)
    scores = np.zeros((count, len(CLASSES)), np.float32)
    scores[:, CLASSES.index("gland")] = 0.9
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return Proposals(
        rows,
        scores,
        rng.normal(size=(count, Detector.feature_size)).astype(np.float32),
        boxed(rows) / np.array([size[0] * size[1], 1, 1, 1], np.float32),
        np.zeros(Detector.context_size, np.float32),
        size,
    )


class FakeDetector:
    def __init__(self, found: Proposals) -> None:
        self.found, self.asked = found, 0

    def propose(self, image: Image.Image, limit: int = 128) -> Proposals:
        self.asked += 1
        return replace(self.found, size=image.size)


def noisy(size: tuple[int, int] = (320, 240)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(80, 200, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def test_knowledge_knows_other_names_and_takes_the_longest() -> None:
    assert expand("the erythrocyte").startswith("red blood cell: a round")
    assert "white blood cell" in expand("all leukocytes")
    assert expand("the red blood cells").count(":") == 1
    assert expand("qwerty zxcv") == ""
    assert len(expand(" ".join(name for name, _, _ in terms()))) <= LONGEST
    assert not any("glandular" in s and ": " not in s for s in expand("glandular").split("; "))


def test_terms_have_one_meaning() -> None:
    names = [name for name, _, _ in terms()]
    assert len(names) == len(set(names))
    assert all(20 < len(looks) < 160 for _, _, looks in terms())


def test_words_from_the_ontologies() -> None:
    pytest.importorskip("cellxgene_ontology_guide", reason="the extra 'knowledge' is not installed")
    assert expand("the podocyte").startswith("podocyte: ")
    assert expand("the podocyte", ontologies=False) == ""


def test_pooling_is_a_mean_over_the_cells_of_a_box() -> None:
    maps = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    boxes = np.array([[0, 0, 2, 2], [3, 3, 3.2, 3.2], [0, 0, 4, 4]], np.float32)
    assert pooled(maps, boxes)[:, 0].tolist() == [2.5, 15.0, 7.5]
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    assert np.allclose(colours(pixels, np.array([[0, 0, 4, 8]], np.float32))[0, :3], 1, atol=1e-6)


def test_boxes_of_instances_and_scores_in_their_family() -> None:
    ids = np.zeros((6, 8), np.int32)
    ids[1:3, 2:5], ids[4, 7] = 1, 2
    assert boxes_of(ids).tolist() == [[2, 1, 5, 3], [7, 4, 8, 5]]
    assert spread(np.array([[0.5]], np.float32), 3)[0].tolist() == [0, 0, 0, 0.5, *[0] * (len(CLASSES) - 4)]


def test_ranks_tell_the_largest_and_the_leftmost() -> None:
    found = geometry_of(proposals((0, 0, 10, 10), (30, 30, 70, 70), (80, 10, 90, 30)))
    assert found.shape == (3, GEOMETRY)
    area, left = found[:, 10], found[:, 11]
    assert area.argmax() == 1
    assert left.argmin() == 0
    assert geometry_of(proposals()).shape == (0, GEOMETRY)


def test_order_of_the_boxes_does_not_matter_and_padding_is_not_seen() -> None:
    torch.manual_seed(0)
    matcher = Matcher().eval()
    torch.nn.init.normal_(matcher.refine.weight)
    grounder = Grounder(FakeDetector(proposals()), matcher)  # type: ignore[arg-type]
    found = proposals((0, 0, 10, 10), (30, 30, 70, 70), (80, 10, 90, 30))
    order = [2, 0, 1]
    parts = ("boxes", "scores", "features", "outlines")
    turned = replace(found, **{name: getattr(found, name)[order] for name in parts})
    first, second = grounder.read(found, "the largest gland"), grounder.read(turned, "the largest gland")
    assert np.allclose(first.logits[order], second.logits, atol=1e-4)
    assert np.allclose(first.boxes[order], second.boxes, atol=1e-3)


def test_refined_boxes() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.6]])
    assert torch.allclose(refined(boxes, torch.zeros(1, 4)), boxes)
    moved = refined(boxes, torch.tensor([[0.5, 0.0, 0.0, float(np.log(0.5))]]))
    assert torch.allclose(moved, torch.tensor([[0.3, 0.3, 0.5, 0.5]]))


@pytest.mark.parametrize(
    ("phrase", "message"),
    [("", "the phrase is empty"), ("  \n", "is empty"), ("gland " * 100, "at most 400 are allowed")],
)
def test_phrases_that_are_refused(phrase: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_phrase(phrase)


def test_blank_images_and_images_without_anything_give_no_boxes() -> None:
    detector = FakeDetector(proposals())
    grounder = Grounder(detector, Matcher())  # type: ignore[arg-type]
    assert grounder.ground(Image.new("RGB", (200, 200), "white"), "the gland") == []
    assert detector.asked == 0
    assert grounder.ground(noisy(), "the gland") == []
    with pytest.raises(BadInput, match="threshold is 2; allowed: 0 to 1"):
        grounder.ground(noisy(), "the gland", threshold=2)


def test_an_image_is_looked_at_once() -> None:
    detector = FakeDetector(proposals((10, 10, 60, 60)))
    grounder = Grounder(detector, Matcher())  # type: ignore[arg-type]
    image = noisy()
    for phrase in ("the gland", "the largest gland", "all glands"):
        grounder.ground(image, phrase, threshold=0.0)
    assert detector.asked == 1
    boxes = grounder.ground(image, "the gland", threshold=0.0)
    assert [b.label for b in boxes] == ["the gland"]
    assert np.allclose(boxes[0].xyxy, (10, 10, 60, 60), atol=0.1)


def test_a_group_is_one_box_around_all() -> None:
    grounder = Grounder(FakeDetector(proposals()), Matcher(MatcherConfig(threshold=0.5)))  # type: ignore[arg-type]
    boxes = np.array([[0, 0, 10, 10], [50, 60, 80, 90], [20, 20, 30, 30]], float)
    read = Reading(boxes, np.array([3.0, 2.0, -3.0]), grouped=True)
    (box,) = grounder.chosen(read, "the group of glands", (100, 100), 0.5)
    assert box.xyxy == (0, 0, 80, 90)
    single = grounder.chosen(replace(read, grouped=False), "glands", (100, 100), 0.5)
    assert [b.xyxy for b in single] == [(0, 0, 10, 10), (50, 60, 80, 90)]


def test_matcher_is_read_back_and_wrong_files_are_named(tmp_path: Path) -> None:
    matcher = Matcher(MatcherConfig(threshold=0.37, scale=1.5)).eval()
    matcher.save(tmp_path / "m.safetensors")
    again = Matcher.read(tmp_path / "m.safetensors")
    assert again.config == matcher.config
    assert torch.allclose(again.match.weight, matcher.match.weight, atol=1e-3)
    with pytest.raises(NotAvailable, match=r"no weights none\.safetensors for grounding"):
        Matcher.read(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(NotAvailable, match=r"bad\.safetensors is not this matcher's"):
        Matcher.read(tmp_path / "bad.safetensors")


def test_text_is_padded() -> None:
    rows = tokens(["the gland", "the largest gland in the upper left"], ["", expand("gland")])
    text, parts, blind = padded(rows)
    assert text.shape == (2, len(rows[1][0]), 384)
    assert blind[0].sum() == len(rows[1][0]) - len(rows[0][0])
    assert parts[1].sum() > 0
    assert not blind[1].any()
    alone = tokens(["the gland"], [""])[0][0]
    assert torch.allclose(alone, rows[0][0], atol=1e-4)
    assert tokens([""], [" "])[0][0].shape == (0, 384)


class FakeSlide:
    """A grey slide with two dark patches of noise."""

    size, mpp = (6000, 4000), None

    def __init__(self) -> None:
        self.pixels = np.full((400, 600, 3), 245, np.uint8)
        rng = np.random.default_rng(0)
        self.pixels[0:90, 0:90] = rng.integers(60, 180, (90, 90, 3))
        self.pixels[300:390, 420:520] = rng.integers(60, 180, (90, 100, 3))
        self.read_fields = 0

    def read(self, x: int, y: int, w: int, h: int, out: tuple[int, int] | None = None) -> Image.Image:
        self.read_fields += 1
        part = Image.fromarray(self.pixels).crop((x // 10, y // 10, (x + w) // 10, (y + h) // 10))
        return part.resize(out or (w, h), Image.Resampling.NEAREST)

    def thumbnail(self, max_side: int) -> Image.Image:
        return Image.fromarray(self.pixels)


def test_a_slide_is_searched_within_its_budget() -> None:
    slide = FakeSlide()
    grid = fields_of(slide)
    assert 2 <= len(grid) < 24
    grounder = Grounder(FakeDetector(proposals((100, 100, 300, 300))), Matcher())  # type: ignore[arg-type]
    boxes, looked = ground_slide(grounder, slide, "the gland", budget=len(grid), threshold=0.0)
    assert looked == len(grid) == slide.read_fields
    assert len(boxes) == len(grid)
    x, y, w, _ = grid[0]
    scale = w / min(w, 1024)
    assert any(np.allclose(b.xyxy[:2], (x + 100 * scale, y + 100 * scale), atol=1) for b in boxes)
    with pytest.raises(BadInput, match="budget is 0"):
        ground_slide(grounder, slide, "the gland", budget=0)


@pytest.mark.data
def test_shipped_weights_point_at_the_white_cell(data_root: Path) -> None:
    from eval.metrics.boxes import box_iou

    rows = [json.loads(x) for x in (data_root / "bccd_boxes" / "index.jsonl").read_text().splitlines()]
    val = [r for r in rows if r["split"] == "val" and sum(b["label"] == "white blood cell" for b in r["boxes"]) == 1][
        :8
    ]
    right = 0
    for row in val:
        true = next(b["xyxy"] for b in row["boxes"] if b["label"] == "white blood cell")
        with Image.open(data_root / "bccd_boxes" / row["image"]) as opened:
            boxes = load_grounder().ground(opened.convert("RGB"), "the leukocyte")
        right += bool(boxes) and box_iou([boxes[0].xyxy], [true])[0, 0] > 0.5
    assert right >= 6


def test_shipped_weights_find_nothing_in_a_cat() -> None:
    from skimage.data import chelsea

    image = Image.fromarray(chelsea())
    found = [load_grounder().ground(image, phrase) for phrase in ("the bicycle", "der Hund", "a white blood cell")]
    assert found == [[], [], []]
