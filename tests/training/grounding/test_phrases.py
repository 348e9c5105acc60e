"""Phrases mean what they say, val uses other words than train, and the matcher learns and resumes to the bit."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.grounding.detector import CLASSES, Detector, Proposals, boxed
from training.data.objects import Field, Object, load_regions
from training.data.proposals import iou
from training.data.records import DataError
from training.data.referring import (
    ELSEWHERE,
    FORMS,
    NAMES,
    PLACES,
    Builder,
    Phrase,
    at_edge,
    distance,
    inside,
    phrases,
)
from training.grounding.train import GroundingRecipe, balanced, collate, train

GLANDS = (
    Object("gland", (10, 10, 60, 60), 2000), Object("gland", (200, 20, 300, 120), 8000),
    Object("gland", (30, 200, 80, 240), 1500), Object("gland", (220, 210, 290, 260), 3000),
)  # fmt: skip


def field(objects: tuple[Object, ...] = GLANDS, dataset: str = "glas") -> Field:
    return Field(dataset, Path("none.png"), "g", objects, (320, 280))


def drawn(kind: str, one: Field, side: str = "train", darkness: tuple[float, ...] = ()) -> Phrase | None:
    return Builder(side)._make(kind, one, one.objects[0].label, random.Random(0), darkness)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("largest", 1), ("smallest", 2), ("leftmost", 0), ("rightmost", None), ("topmost", 0), ("bottommost", 3)],
)
def test_superlatives_need_a_clear_winner(kind: str, expected: int | None) -> None:
    found = drawn(kind, field())
    if expected is None:  # two glands reach as far
        assert found is None
    else:
        assert found is not None
        assert found.boxes == (GLANDS[expected].box,)


def test_colour_groups_numbers_and_all() -> None:
    assert drawn("darkest", field(), darkness=(0.1, 0.2, 0.9, 0.3)).boxes == (GLANDS[2].box,)  # type: ignore[union-attr]
    assert drawn("palest", field(), darkness=(0.1, 0.11, 0.9, 0.3)) is None
    group = drawn("group", field())
    assert group is not None
    assert group.grouped
    assert group.boxes == ((10, 10, 300, 260),)
    assert len(group.members) == 4
    assert len(drawn("all", field()).boxes) == 4  # type: ignore[union-attr]
    number = drawn("number", field())
    assert number is not None
    assert set(number.boxes) in ({GLANDS[1].box, GLANDS[3].box}, {o.box for o in GLANDS[:2]} | {GLANDS[3].box})


def test_relations_are_to_the_only_other_object() -> None:
    cells = (
        Object("platelet", (100, 100, 110, 110), 100), Object("platelet", (20, 20, 30, 30), 100),
        Object("white blood cell", (130, 100, 180, 150), 2500),
    )  # fmt: skip
    found = drawn("nearest", field(cells, "bccd_boxes"))
    assert found is not None
    assert found.boxes == (cells[0].box,)
    assert drawn("farthest", field(cells, "bccd_boxes")).boxes == (cells[1].box,)  # type: ignore[union-attr]
    assert distance(cells[0].box, cells[1].box) == pytest.approx(80 * 2**0.5)


NUCLEI = (
    Object("nucleus", (100, 100, 130, 130), 700), Object("nucleus", (40, 180, 60, 200), 300),
    Object("nucleus", (200, 60, 220, 80), 320),
)  # fmt: skip
SLIVER = Object("nucleus", (150, 272, 170, 280), 120)


@pytest.mark.parametrize("kind", ["bottommost", "smallest"])
def test_what_the_edge_hides_must_not_decide(kind: str) -> None:
    sure = Field("monuseg", Path("none.png"), "g", (*NUCLEI, Object("nucleus", (90, 210, 110, 230), 200)), (320, 280))
    assert drawn(kind, sure) is not None
    assert drawn(kind, replace(sure, unsure=(SLIVER,))) is None
    assert drawn("topmost", replace(sure, unsure=(SLIVER,))) is not None


def test_sizes_are_of_what_is_seen_whole() -> None:
    cut = Object("nucleus", (0, 20, 12, 60), 90)  # labelled, but the edge took a part
    found = drawn("smallest", field((*NUCLEI, cut), "monuseg"))
    assert found is None
    assert drawn("leftmost", field((*NUCLEI, cut), "monuseg")).boxes == (cut.box,)  # type: ignore[union-attr]
    regions = (Object("tumour", (0, 0, 200, 280), 50000), Object("tumour", (230, 10, 320, 120), 8000))
    assert drawn("largest", field(regions, "luad_tissue_seg")).boxes == (regions[0].box,)  # type: ignore[union-attr]


def test_nothing_there_means_no_sliver_either() -> None:
    one = Field("monuseg", Path("none.png"), "g", NUCLEI, (320, 280), unsure=(SLIVER,))
    said = [Builder("train")._empty(one, ["nucleus"], ["nucleus"], random.Random(n)) for n in range(300)]
    assert not [p for p in said if p is not None and p.place in ("bottom", "lower right") and p.nouns[0] in "nucleus"]
    bare = [
        Builder("train")._empty(replace(one, unsure=()), ["nucleus"], ["nucleus"], random.Random(n)) for n in range(300)
    ]
    assert any(p is not None and p.place == "lower right" and p.subjects for p in bare)


def test_groups_may_differ_a_little() -> None:
    group = drawn("group", Field("monuseg", Path("none.png"), "g", NUCLEI, (320, 280), unsure=(SLIVER,)))
    assert group is None  # the box around all would reach the lower edge
    near = Object("nucleus", (205, 195, 225, 203), 10)
    assert drawn("group", Field("monuseg", Path("none.png"), "g", NUCLEI, (320, 280), unsure=(near,))) is not None


@pytest.mark.data
def test_less_than_half_a_nucleus_is_unsure(data_root: Path) -> None:
    fields = load_regions("val", data_root, ("monuseg",))
    assert sum(len(f.unsure) for f in fields) > 50
    assert all(at_edge(one, f.size) or one.area < 30 for f in fields for one in f.unsure)


def test_positions() -> None:
    assert inside(list(GLANDS), "upper left", (320, 280)) == [GLANDS[0]]
    assert inside(list(GLANDS), "right", (320, 280)) == [GLANDS[1], GLANDS[3]]
    assert inside([Object("gland", (150, 10, 170, 30), 400)], "left", (320, 280)) is None
    assert inside(list(GLANDS[:1]), "lower right", (320, 280)) == []


def test_nothing_like_that_is_sure() -> None:
    rng = random.Random(0)
    builder = Builder("train")
    for _ in range(200):
        one = builder._empty(field(), ["gland"], ["gland"], rng)
        if one is not None:
            assert one.boxes == ()
            assert one.kind == "empty"
    rest = [p for _, p in phrases([field()], "train", 60, darkness=[[0.1, 0.2, 0.3, 0.4]])]
    assert {p.kind for p in rest} > {"empty", "largest", "smallest"}
    assert len({p.text for p in rest}) == len(rest)


def test_val_uses_words_and_forms_that_train_does_not() -> None:
    for train_side, val_side in (*NAMES.values(), *FORMS.values(), *PLACES.values(), ELSEWHERE):
        assert not set(map(str, train_side)) & set(map(str, val_side))
    said = [
        {p.text for _, p in phrases([field()], split, 40, darkness=[[0.1, 0.2, 0.3, 0.4]])}
        for split in ("train", "val")
    ]
    assert said[0]
    assert not said[0] & said[1]


def test_a_box_outside_its_image_is_refused_with_the_line(tmp_path: Path) -> None:
    folder = tmp_path / "bccd_boxes"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    row = {"image": "a.png", "split": "val", "boxes": [{"label": "platelet", "xyxy": [1, 1, 5, 50]}]}
    (folder / "index.jsonl").write_text("\n".join(json.dumps(r) for r in ({**row, "boxes": []}, row)))
    with pytest.raises(DataError, match=r"index\.jsonl of bccd_boxes, line 2: the box \[1, 1, 5, 50\] is not inside"):
        load_regions("val", tmp_path, ("bccd_boxes",))


@pytest.mark.data
def test_objects_of_every_set_lie_in_their_fields(data_root: Path) -> None:
    fields = load_regions("val", data_root)
    assert {f.dataset for f in fields} == {
        "bccd_boxes", "wbc_seg", "glas", "monuseg", "dsb2018_stained", "consep_patches", "luad_tissue_seg"
    }  # fmt: skip
    for one in fields:
        for thing in one.objects:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= one.size[0]
            assert 0 <= y0 < y1 <= one.size[1]
    assert next(f for f in fields if f.cut).image().size == next(f for f in fields if f.cut).size


def proposals(one: Field) -> Proposals:
    """The objects themselves and two wrong boxes."""
    rng = np.random.default_rng(0)
    boxes = np.array([*(o.box for o in one.objects), (0, 0, 20, 20), (100, 100, 140, 150)], np.float32)
    scores = np.zeros((len(boxes), len(CLASSES)), np.float32)
    scores[:, CLASSES.index("gland")] = 0.8
    features = rng.normal(size=(len(boxes), Detector.feature_size)).astype(np.float32)
    outlines = boxed(boxes) / np.array([one.size[0] * one.size[1], 1, 1, 1], np.float32)
    return Proposals(boxes, scores, features, outlines, np.zeros(Detector.context_size, np.float32), one.size)


def test_targets_mark_the_meant_boxes() -> None:
    one = field()
    said = [Phrase("the largest gland", "largest", (GLANDS[1].box,), (GLANDS[1].box,)), Phrase("cat", "empty", ())]
    batch = collate([proposals(one)] * 2, said, ["", ""])
    assert batch.positive[0].tolist() == [0, 1, 0, 0, 0, 0]
    assert batch.positive[1].sum() == 0
    assert batch.answer.tolist() == [[1, 0], [0, 0]]
    assert batch.single.tolist() == [True, False]
    assert iou(np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 0, 15, 10]], np.float32))[0, 0] == pytest.approx(
        1 / 3
    )


@pytest.mark.slow
def test_it_learns_and_a_second_run_is_the_same(tmp_path: Path) -> None:
    one = field()
    said = [(0, p) for _, p in phrases([one], "train", 12, darkness=[[0.1, 0.2, 0.3, 0.4]])]
    recipe = GroundingRecipe(steps=24, batch_size=6, log_every=8, checkpoint_every=24, lr=1e-3)
    whole = train([one], [proposals(one)], said, recipe, tmp_path / "whole")
    assert np.mean(whole[-5:]) < 0.8 * np.mean(whole[:5])
    assert len(balanced([one], said)) == len(said)
    assert train([one], [proposals(one)], said, recipe, tmp_path / "again") == whole


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.grounding.train as stage

    one = field()
    said = [(0, p) for _, p in phrases([one], "train", 12, darkness=[[0.1, 0.2, 0.3, 0.4]])]
    recipe = GroundingRecipe(steps=12, batch_size=6, log_every=4, checkpoint_every=4)
    whole = train([one], [proposals(one)], said, recipe, tmp_path / "whole")
    real, calls = stage.loss_of, []

    def dies(*args):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stage, "loss_of", dies)
    with pytest.raises(KeyboardInterrupt):
        train([one], [proposals(one)], said, recipe, tmp_path / "part")
    monkeypatch.setattr(stage, "loss_of", real)
    assert train([one], [proposals(one)], said, recipe, tmp_path / "part", resume=True) == whole[4:]
