"""The measures of stain normalisation: distances fall, structure and the control behave, refusals are counted apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.stain import choose_fields, dark_mask, markdown, measure, spread, structure, tissue_mask
from tests.assistant.images.test_stain import EOSIN, HAEMATOXYLIN, PINK, PURPLE, stained
from training.data.records import Record


def record(path: Path, slide: str, stain: str = "H&E") -> Record:
    facts = {"stain_class": stain}
    return Record(image=path, dataset="atlas", split="val", group=slide, facts=facts)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    made = []
    for i in range(6):
        path = tmp_path / f"field-{i}.png"
        stained(PURPLE, PINK, strength=0.5 + 0.05 * i, seed=i).save(path)
        made.append(record(path, f"slide {i % 3}"))
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    return [*made, record(tmp_path / "blank.png", "slide 3")]


def test_all_methods_are_compared_on_the_same_fields(records: list[Record]) -> None:
    report = measure(records, stained(HAEMATOXYLIN, EOSIN))
    assert (report["fields"], report["compared"], report["compared_slides"]) == (7, 6, 3)
    methods = report["methods"]
    assert methods["none"]["ssim"] == [1.0, 1.0, 1.0]
    for name in ("macenko", "vahadane", "reinhard"):
        row = methods[name]
        assert row["accepted"] == 6
        assert row["refused"] == {"is nearly blank": 1}
        assert row["distance"][0] < 0.5 * methods["none"]["distance"][0]
        assert row["slide_spread"] < methods["none"]["slide_spread"]
        assert row["distance"][1] <= row["distance"][0] <= row["distance"][2]
        assert 0 < row["ssim"][0] < 1
        assert row["seconds_median"] >= 0
    page = markdown(json.loads(json.dumps(report)))
    assert "| none | 7 |" in page
    assert "1 is nearly blank" in page


def test_fields_are_spread_over_slides(tmp_path: Path) -> None:
    many = [record(tmp_path / f"{s}-{i}.png", s) for s in "abc" for i in range(10)]
    many += [record(tmp_path / "a-overview.png", "a"), record(tmp_path / "ihc.png", "d", stain="IHC")]
    chosen = choose_fields(many, 7)
    assert [sum(r.group == s for r in chosen) for s in "abcd"] == [3, 2, 2, 0]
    assert chosen == choose_fields(many, 7)
    assert len(choose_fields(many, 100)) == 30


def test_measures() -> None:
    image = stained(HAEMATOXYLIN, EOSIN)
    tissue = tissue_mask(image)
    assert not tissue[:, 145:].any()
    assert 0.15 < dark_mask(image, tissue).sum() / tissue.sum() < 0.3
    assert structure(image, image) == 1
    assert structure(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.5
    colours = np.array([[0.0, 0, 0], [0, 0, 2], [3, 4, 1]])
    assert spread(colours, ["a", "a", "b"]) == 5.0
