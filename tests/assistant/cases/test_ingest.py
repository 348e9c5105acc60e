"""Building a case library from folders, indexes, tables and datasets."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assistant.cases.decode import decode, decode_all
from assistant.cases.ingest import BuildResult, build, identity_of
from assistant.cases.sources import read_source
from assistant.errors import BadInput
from assistant.images.intake import load_image
from retrieval.search import Similarity
from retrieval.store import VectorStore, open_store
from tests.assistant.cases.conftest import ColourEncoder, paint


@pytest.fixture
def store(tmp_path: Path, encoder: ColourEncoder) -> Iterator[VectorStore]:
    store = open_store(f"faiss:{tmp_path / 'store'}", identity_of(encoder), write=True)
    yield store
    store.close()


def counts(result: BuildResult) -> tuple[int, ...]:
    """Added, updated, unchanged, duplicates, failed, total."""
    return (
        result.added, result.updated, result.unchanged, result.duplicates, len(result.failed), result.total,
    )  # fmt: skip


def write_index(folder: Path, rows: list[dict[str, Any]], name: str = "index.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder / name


def test_folder(pictures: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    (pictures / "notes.txt").write_text("not an image")
    paint(pictures / ".hidden" / "a.png", "red", 99)
    assert counts(build(read_source(str(pictures)), store, encoder)) == (7, 0, 0, 0, 0, 7)
    cases = store.get(store.ids())
    assert len({case.group for case in cases}) == 3  # two subfolders, and none
    for case in cases:
        shown = f"{case.id} {case.title} {case.text} {case.group} {dict(case.facts)}"
        assert not any(name in shown for name in ("s1", "s2", "x.png"))
        expected = encoder.embed_images([load_image(case.image)])
        assert np.allclose(store.vectors([case.id]), expected, atol=1e-6)


def test_again_reads_nothing(pictures: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    build(read_source(str(pictures)), store, encoder)
    encoder.embedded = 0
    os.chmod(pictures / "x.png", 0o644)
    assert counts(build(read_source(str(pictures)), store, encoder)) == (0, 0, 7, 0, 0, 7)
    assert encoder.embedded == 0
    paint(pictures / "s1" / "new.png", "green", 50)
    assert counts(build(read_source(str(pictures)), store, encoder)) == (1, 0, 7, 0, 0, 8)
    assert encoder.embedded == 1


def test_touched_moved_changed_and_copied_files(pictures: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    build(read_source(str(pictures)), store, encoder)
    encoder.embedded = 0
    os.utime(pictures / "x.png", (1, 1))
    (pictures / "s2" / "a.png").rename(pictures / "s2" / "moved.png")
    Image.open(pictures / "s2" / "b.png").save(pictures / "s2" / "copy.tiff")  # the same pixels in another format
    assert counts(build(read_source(str(pictures)), store, encoder)) == (0, 0, 7, 1, 0, 7)
    assert encoder.embedded == 0
    before = store.by_locator([str((pictures / "x.png").resolve())])
    paint(pictures / "x.png", "green", 77)
    assert counts(build(read_source(str(pictures)), store, encoder))[:2] == (0, 1)
    assert len(store) == 7
    after = store.by_locator([str((pictures / "x.png").resolve())])
    assert before != after
    assert store.get([case.id for case in before.values()]) == []


def test_a_file_that_becomes_a_copy_of_another_loses_its_case(
    pictures: Path, store: VectorStore, encoder: ColourEncoder
) -> None:
    build(read_source(str(pictures)), store, encoder)
    (pictures / "x.png").write_bytes((pictures / "s1" / "a.png").read_bytes())
    assert counts(build(read_source(str(pictures)), store, encoder)) == (0, 0, 6, 1, 0, 6)


def test_index(tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    folder = tmp_path / "set"
    rows: list[dict[str, Any]] = [
        {
            "image": "images/a.png", "slide": "S1/HE", "case": "K1", "organ": "liver", "diagnosis": "steatosis",
            "stain": "H&E", "downsample": 2, "instances": "i.png", "boxes": [[1, 2]], "unseen_case": True,
        },
        {"image": "images/b.png", "label": "normal", "organ": None, "license": "CC0", "caption": "a text",
         "id": "mine"},
    ]  # fmt: skip
    for name, colour in (("a", "red"), ("b", "blue")):
        paint(folder / "images" / f"{name}.png", colour)
    write_index(folder, rows)
    assert counts(build(read_source(str(folder)), store, encoder)) == (2, 0, 0, 0, 0, 2)
    first, second = store.get(store.ids())
    assert (first.title, first.group, first.organ) == ("steatosis, liver", "S1/HE", "liver")
    assert dict(first.facts) == {"case": "K1", "downsample": "2", "unseen_case": "True"}
    assert (second.id, second.diagnosis, second.licence, second.text, second.organ) == (
        "mine", "normal", "CC0", "a text", "",
    )  # fmt: skip

    rows[0]["organ"] = "spleen"  # labels are corrected: no image is read again
    encoder.embedded = 0
    assert counts(build(read_source(str(write_index(folder, rows))), store, encoder)) == (0, 1, 1, 0, 0, 2)
    assert encoder.embedded == 0
    assert store.values("organ") == {"spleen": 1}

    rows[1]["id"] = "renamed"
    assert counts(build(read_source(str(write_index(folder, rows))), store, encoder)) == (0, 1, 1, 0, 0, 2)
    assert store.get(["mine", "renamed"])[0].id == "renamed"


def test_csv_and_regions(tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    left_red = Image.new("RGB", (40, 20), "#2828dc")
    left_red.paste("#dc2828", (0, 0, 20, 20))
    left_red.save(tmp_path / "two.png")
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [("image", "region", "organ"), ("two.png", "0,0,20,20", "liver"), ("two.png", "20,0,20,20", "lung"),
             ("two.png", "30,0,20,20", "over the edge")]
        )  # fmt: skip
    result = build(read_source(str(tmp_path / "table.csv")), store, encoder)
    assert counts(result) == (2, 0, 0, 0, 1, 2)
    assert "reaches over the edge of the image, 40 x 20 pixels" in result.failed[0]
    hit = store.search(encoder.embed_texts(["red"]), 1)[0][0]
    assert (hit.case.organ, hit.case.region) == ("liver", (0, 0, 20, 20))


@pytest.mark.slow
def test_saved_dataset(pictures: Path, tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(pictures / "s1" / "a.png"), str(pictures / "s2" / "b.png")]
    columns = {"picture": [Path(file).read_bytes() for file in files], "organ": ["liver", "lung"], "slide": ["1", "2"]}
    features = datasets.Features(
        {"picture": datasets.Image(), "organ": datasets.Value("string"), "slide": datasets.Value("string")}
    )
    rows = {**columns, "picture": [{"bytes": data, "path": None} for data in columns["picture"]]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "saved"))
    assert counts(build(read_source(str(tmp_path / "saved")), store, encoder)) == (2, 0, 0, 0, 0, 2)
    assert counts(build(read_source(str(tmp_path / "saved")), store, encoder)) == (0, 0, 2, 0, 0, 2)
    case = store.get(store.ids({"split": "train", "organ": "lung"}))[0]
    assert case.group == "2"
    assert store.search(encoder.embed_texts(["green"]), 1)[0][0].case.id == case.id


def test_unreadable_files_are_reported_and_skipped(pictures: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    (pictures / "broken.png").write_bytes((pictures / "x.png").read_bytes()[:200])
    (pictures / "text.jpg").write_text("hello")
    result = build(read_source(str(pictures)), store, encoder)
    assert counts(result) == (7, 0, 0, 0, 2, 7)
    assert "'broken.png'" in result.failed[0]
    assert "'text.jpg'" in result.failed[1]
    assert result.to_dict()["failed"] == 2


def test_a_deleted_image_keeps_its_case(tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    folder = tmp_path / "set"
    path = paint(folder / "a.png", "red")
    index = write_index(folder, [{"image": "a.png", "organ": "liver"}])
    build(read_source(str(index)), store, encoder)
    path.unlink()
    result = build(read_source(str(index)), store, encoder)
    assert counts(result) == (0, 0, 0, 0, 1, 1)
    assert "does not exist" in result.failed[0]
    hit = store.search(encoder.embed_texts(["red"]), 1)[0][0]
    picture = store.thumbnail(hit.case)
    assert picture is not None
    assert load_image(picture).size == (40, 30)


def test_ids_that_come_twice(tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    folder = tmp_path / "set"
    for name in ("a", "b"):
        paint(folder / f"{name}.png", "red", ord(name))
    index = write_index(folder, [{"image": "a.png", "id": "1"}, {"image": "b.png", "id": "1"}])
    result = build(read_source(str(index)), store, encoder)
    assert counts(result) == (1, 0, 0, 0, 1, 1)
    assert result.failed == ["the id '1' comes twice; ids must be unique"]


@pytest.mark.slow
def test_same_result_with_processes_and_after_an_interruption(
    tmp_path: Path, store: VectorStore, encoder: ColourEncoder
) -> None:
    folder = tmp_path / "many"
    for number in range(150):
        paint(folder / f"{number}.png", ("red", "green", "blue")[number % 3], number)

    def stop_after_two_commits(result: BuildResult) -> None:
        if result.added >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(read_source(str(folder)), store, encoder, workers=0, on_progress=stop_after_two_commits)
    assert len(store) == 128
    assert counts(build(read_source(str(folder)), store, encoder, workers=2)) == (22, 0, 128, 0, 0, 150)
    other = open_store(f"faiss:{tmp_path / 'other'}", identity_of(encoder), write=True)
    build(read_source(str(folder)), other, encoder, workers=0)
    assert other.get(other.ids()) == store.get(store.ids())
    assert np.array_equal(other.vectors(other.ids()), store.vectors(store.ids()))
    other.close()


@pytest.mark.slow
def test_order_is_kept_by_processes(pictures: Path) -> None:
    files = sorted(pictures.rglob("*.png")) * 5
    found = list(decode_all(((file, file, None, 0) for file in files), workers=2, ahead=4))
    assert [tag for tag, _ in found] == files
    assert [decoded.hash for _, decoded in found] == [decode(file).hash for file in files]


def test_similarity_is_fitted(tmp_path: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    folder = tmp_path / "set"
    rows = []
    for number in range(24):
        paint(folder / f"{number}.png", ("red", "blue")[number % 2], number)
        rows.append({"image": f"{number}.png", "diagnosis": "ab"[number % 2], "patient": str(number)})
    build(read_source(str(write_index(folder, rows))), store, encoder)
    fitted = Similarity.read(store)
    assert fitted is not None
    assert fitted.diagnoses == 2


def test_thumbnails_are_small_and_bare(tmp_path: Path) -> None:
    image = Image.new("RGB", (900, 300), "#dc2828")
    exif = image.getexif()
    exif[270] = "name of a patient"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"name of a patient")
    decoded = decode(tmp_path / "a.jpg")
    assert b"patient" not in decoded.thumbnail
    assert load_image(decoded.thumbnail).size == (256, 85)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.jsonl", '{"image": "a.png"}\n{"image": \n', r"line 2: not JSON"),
        ("index.jsonl", "[1]", r"line 1: expected an object, saw list"),
        ("index.jsonl", '{"organ": "liver"}', r"line 1: no 'image'; it has: organ"),
        ("index.jsonl", '{"image": "a.png", "region": [1, 2]}', r"line 1: region \[1, 2\] is not x, y, width"),
        ("index.jsonl", '{"image": "a.png", "region": [-1, 2, 3, 4]}', r"outside the image"),
        ("index.jsonl", "", r"names no images"),
        ("t.csv", "organ\nliver\n", r"line 2: no 'image'; it has: organ"),
        ("t.csv", b"\xff\xfe\x00", r"cannot be read"),
        ("t.xlsx", "", r"not a source of cases; allowed"),
    ],
)
def test_bad_sources(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message) as caught:
        list(read_source(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist; give a folder"):
        read_source(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="no images in"):
        list(read_source(str(tmp_path)))
