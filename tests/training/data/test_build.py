"""Questions and conversations built from records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from training.data.build import Builder, write_blanks
from training.data.phrases import ASK, ASK_HELD_OUT
from training.data.questions import ORGANS, diagnosis_names, four_choice
from training.data.records import OPEN_SETS, RESTRICTED_SETS, DataError, Record, load_records

FACTS = {"organ": "liver", "stain": "H&E", "diagnosis": "fatty change", "findings": "fat droplets"}


def made_records(count: int = 6) -> list[Record]:
    organs = ("liver", "colon", "lung")
    return [
        Record(
            "atlas", Path(f"/x/{i}.png"), "train", f"atlas:{i // 2}",
            FACTS | {"organ": organs[i % 3], "diagnosis": f"disease {i}", "findings": f"finding {i}"},
        )
        for i in range(count)
    ]  # fmt: skip


def test_four_choice_is_deterministic_and_fair() -> None:
    records = made_records(60)
    names = diagnosis_names(records)
    first, again = four_choice(records, names), four_choice(records, names)
    assert first == again
    assert four_choice(records, names, seed=1) != first
    for q in first:
        assert len(set(q.options)) == 4
        assert q.options[q.answer] == q.record.facts[q.kind]
    places = Counter(q.answer for q in first)
    assert min(places.values()) > len(first) / 4 * 0.5


def test_a_question_does_not_depend_on_its_neighbours() -> None:
    records = made_records(20)
    names = diagnosis_names(records)
    assert four_choice(records[3:4], names)[0] == four_choice(records, names)[9]


def test_benchmark_wording_is_never_trained_on() -> None:
    trained = {s for stems in ASK.values() for s in stems}
    assert not trained & {s for stems in ASK_HELD_OUT.values() for s in stems}


def test_conversations_are_valid_reproducible_and_mixed(tmp_path: Path) -> None:
    blanks = write_blanks(tmp_path)
    builder = Builder(made_records(), blanks, seed=3)
    drawn = [builder.draw(i) for i in range(400)]
    assert drawn == [Builder(made_records(), blanks, seed=3).draw(i) for i in range(400)]
    for conversation in drawn:
        conversation.check()
    groups = Counter(c.group for c in drawn)
    assert groups["general"]
    assert groups["blank"]
    assert any(len(c.images) == 2 for c in drawn)
    assert any(len(c.messages) > 2 for c in drawn)


def test_choice_answers_are_among_the_options(tmp_path: Path) -> None:
    builder = Builder(made_records(), write_blanks(tmp_path), seed=0)
    seen = 0
    for i in range(300):
        messages = builder.draw(i).messages
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            text = question["content"][-1]["text"]
            if "\nA) " in text and "tissue" not in answer["content"][0]["text"]:
                options = [line[3:] for line in text.splitlines() if line[1:3] == ") "]
                assert answer["content"][0]["text"] in options or "evidence" in answer["content"][0]["text"]
                seen += 1
    assert seen > 50


def test_unknown_set_and_missing_index_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no index at .*atlas"):
        load_records(["atlas"], "train", tmp_path)
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "index.jsonl").write_text('{"image": "a.png", "split": "train"\n')
    with pytest.raises(DataError, match="line 1: not JSON"):
        load_records(["atlas"], "train", tmp_path)
    with pytest.raises(DataError, match="no data folder"):
        load_records(["atlas"], "train", tmp_path / "absent")


@pytest.mark.data
def test_real_records_keep_splits_apart(data_root: Path) -> None:
    train, val = (load_records(OPEN_SETS + RESTRICTED_SETS, s, data_root) for s in ("train", "val"))
    assert len(train) > 3000
    assert len(val) > 700
    assert not {r.group for r in train} & {r.group for r in val}
    assert all(r.image.is_file() for r in val)
    unseen = {r.image.name.split("__")[0] for r in val if r.unseen_case}
    assert unseen
    assert not unseen & {r.image.name.split("__")[0] for r in train if r.dataset == "atlas"}
    assert {r.facts["organ"] for r in val if r.dataset == "atlas"} <= set(ORGANS)
