"""Arguments settled by the words of a request: which image, how many, which marker; nothing a schema does not allow."""

from __future__ import annotations

from typing import Any

import pytest

from assistant.chat.arguments import images_named, narrowed, points_back, settled
from assistant.chat.grammar import FunctionTool, from_tool
from assistant.tools.registry import find_tools
from assistant.tools.schema import check_arguments


def tool(name: str) -> FunctionTool:
    return from_tool(find_tools().tools[name])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Count the nuclei in image 2", [2]),
        ("the second picture, and photo no. 3", [2, 3]),
        ("field three", [3]),
        ("the 2nd slide", [2]),
        ("the last image", [0]),
        ("Show me 3 images like it", []),
        ("a field 40 µm wide", []),
        ("Ki-67 of the tumour", []),
    ],
)
def test_images_are_found_by_their_numbers(text: str, numbers: list[int]) -> None:
    assert images_named(text) == numbers


@pytest.mark.parametrize(
    ("name", "clause", "question", "images", "made", "expected"),
    [
        ("segment_nuclei", "Count nuclei", "Count nuclei", 1, 0, {"image": 1}),
        ("segment_nuclei", "Count nuclei in image 3", "", 3, 0, {"image": 3}),
        ("segment_nuclei", "Count nuclei in image 9", "", 3, 0, {"image": 1}),
        ("segment_nuclei", "how dense are they", "In the second picture, how dense are they", 2, 0, {"image": 2}),
        ("segment_nuclei", "count", "At 0.25 µm per pixel, count", 1, 0, {"image": 1, "mpp": 0.25}),
        ("segment_nuclei", "count", "At 25 µm per pixel, count", 1, 0, {"image": 1}),
        ("segment_glands", "count its glands", "normalise image 1 to image 2, count its glands", 2, 1, {"image": 3}),
        ("segment_glands", "count glands of image 2", "", 2, 1, {"image": 2}),
        ("score_ihc", "What is the HER2 score?", "", 1, 0, {"image": 1, "compartment": "membrane"}),
        ("score_ihc", "What is the Ki-67 index?", "", 1, 0, {"image": 1}),
        ("classify_tissue", "Classify this polyp", "", 1, 0, {"image": 1, "site": "colorectal"}),
        ("classify_tissue", "Name its colour", "", 1, 0, {"image": 1}),
    ],
)
def test_words_settle_arguments(
    name: str, clause: str, question: str, images: int, made: int, expected: dict[str, Any]
) -> None:
    fixed, left = settled(tool(name), clause, question or clause, images, made)
    assert (fixed, left) == (expected, ())
    assert check_arguments(find_tools().tools[name], fixed)


@pytest.mark.parametrize(("clause", "k"), [("Show me 7 cases", 7), ("the three nearest", 3), ("99 cases", None)])
def test_the_number_of_cases(clause: str, k: int | None) -> None:
    fixed, left = settled(tool("find_similar_cases"), clause, clause, 1, 0)
    assert fixed.get("k") == k
    assert [p.name for p in left] == ["text"]


def test_what_is_left_is_written_and_the_rest_has_one_value() -> None:
    one = tool("find_similar_cases")
    fixed, left = settled(one, "3 cases with amyloid", "3 cases with amyloid", 1, 0)
    kept = {p.name: p for p in narrowed(one, fixed, left).parameters}
    assert kept["image"].values == (1,)
    assert kept["k"].values == (3,)
    assert kept["k"].required
    assert kept["text"].kind == "string"
    assert not kept["text"].required


def test_the_reference_is_left_open_with_two_images_only() -> None:
    assert [p.name for p in settled(tool("normalise_stain"), "x", "x", 2, 0)[1]] == ["image", "reference"]
    assert settled(tool("normalise_stain"), "x", "x", 1, 0) == ({"image": 1, "reference": 1}, ())


@pytest.mark.parametrize(
    ("clause", "back"),
    [("Box it.", True), ("Please show me where", True), ("frame them for me, too", True), ("mark the gland", False),
     ("where is the largest one of the nuclei?", False)],
)  # fmt: skip
def test_an_order_that_names_nothing_points_back(clause: str, back: bool) -> None:
    assert points_back(clause) is back
