"""Arguments settled by the words of a request: which image, how many, which marker; nothing a schema does not allow."""

from __future__ import annotations

from typing import Any

import pytest

from assistant.chat.arguments import images_asked, narrowed, pixel_sizes, points_back, says_what, settled
from assistant.chat.grammar import FunctionTool, from_tool
from assistant.tools.registry import find_tools
from assistant.tools.schema import check_arguments


def tool(name: str) -> FunctionTool:
    return from_tool(find_tools().tools[name])


@pytest.mark.parametrize(
    ("clause", "question", "images", "remade", "asked"),
    [
        ("Count nuclei", "", 1, {}, [1]),
        ("Count nuclei", "", 3, {}, [1]),
        ("Count nuclei in image 9", "", 3, {}, [1]),
        ("how dense are they", "In the second picture, how dense are they", 2, {}, [2]),
        ("of both images", "", 2, {}, [1, 2]),
        ("count its glands", "normalise image 1 to image 2, count its glands", 2, {1: 3}, [3]),
        ("glands of image 1", "", 2, {1: 3}, [3]),
        ("glands of image 2", "", 2, {1: 3}, [2]),
        ("glands of image 1 once it looks like image 2", "", 2, {1: 3}, [3]),
    ],
)
def test_the_images_a_tool_is_asked_for(
    clause: str, question: str, images: int, remade: dict[int, int], asked: list[int]
) -> None:
    assert images_asked(clause, question or clause, images, remade, {2} if remade else ()) == asked


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("0.25 µm per pixel", [0.25]), ("mpp is .5", [0.5]), ("460 nm a pixel", [0.46]),
        ("4 pixels per micron", [0.25]), ("pixel size: 0.3", [0.3]), ("a duct 40 µm wide in 4 µm sections", []),
        ("20x", []),
    ],
)  # fmt: skip
def test_pixel_sizes(text: str, sizes: list[float]) -> None:
    assert pixel_sizes(text) == sizes


@pytest.mark.parametrize(
    ("text", "says"),
    [("look-alikes", False), ("anything like the second picture", False), ("cases with amyloid", True), ("", False)],
)
def test_a_text_to_search_for_has_to_say_something(text: str, says: bool) -> None:
    assert says_what(text) is says


@pytest.mark.parametrize(
    ("name", "clause", "question", "expected"),
    [
        ("segment_nuclei", "Count nuclei", "", {}),
        ("segment_nuclei", "count", "At 0.25 µm per pixel, count", {"mpp": 0.25}),
        ("segment_nuclei", "count", "At 25 µm per pixel, count", {}),
        ("score_ihc", "What is the HER2 score?", "", {"compartment": "membrane"}),
        ("score_ihc", "What is the Ki-67 index?", "", {}),
        ("score_ihc", "E-cadherin, cut-off 0.3", "", {"compartment": "membrane", "threshold": 0.3}),
        ("segment_nuclei", "with the neural network, please", "", {"method": "network"}),
        ("classify_tissue", "Classify this polyp", "", {"site": "colorectal"}),
        ("classify_tissue", "classify it", "It is from the tongue: classify it", {"site": "oral"}),
        ("classify_tissue", "Name its colour", "", {}),
    ],
)
def test_words_settle_arguments(name: str, clause: str, question: str, expected: dict[str, Any]) -> None:
    fixed, left = settled(tool(name), clause, question or clause, 2, 3)
    assert (fixed, left) == ({"image": 2, **expected}, ())
    assert check_arguments(find_tools().tools[name], fixed)


@pytest.mark.parametrize(
    ("clause", "k"),
    [
        ("Show me 7 cases", 7), ("the three nearest", 3), ("99 cases", None), ("top five", 5), ("ten similar hits", 10),
        ("cases like the first of these four", None),
    ],
)  # fmt: skip
def test_the_number_of_cases(clause: str, k: int | None) -> None:
    fixed, left = settled(tool("find_similar_cases"), clause, clause, 1, 1)
    assert fixed.get("k") == k
    assert [p.name for p in left] == ["text"]


def test_what_is_left_is_written_and_the_rest_has_one_value() -> None:
    one = tool("find_similar_cases")
    fixed, left = settled(one, "3 cases with amyloid", "3 cases with amyloid", 1, 1)
    kept = {p.name: p for p in narrowed(one, fixed, left).parameters}
    assert kept["image"].values == (1,)
    assert kept["k"].values == (3,)
    assert kept["k"].required
    assert kept["text"].kind == "string"
    assert not kept["text"].required


def test_the_reference_is_left_open_where_words_do_not_settle_it() -> None:
    one = tool("normalise_stain")
    assert [p.name for p in settled(one, "x", "x", 1, 2)[1]] == ["image", "reference"]
    assert settled(one, "x", "x", 1, 1) == ({"image": 1, "reference": 1}, ())
    words = "by Vahadane: image 2 like image 1"
    assert settled(one, "image 2 like image 1", words, 1, 2)[0] == {"image": 2, "reference": 1, "method": "vahadane"}


@pytest.mark.parametrize(
    ("clause", "back"),
    [("Box it.", True), ("Please show me where", True), ("frame them for me, too", True), ("mark the gland", False),
     ("where is the largest one of the nuclei?", False)],
)  # fmt: skip
def test_an_order_that_names_nothing_points_back(clause: str, back: bool) -> None:
    assert points_back(clause) is back


def test_a_search_is_narrowed_by_announced_words_only() -> None:
    one = tool("find_similar_cases")
    words = 'Search the archive, with the keywords "signet ring carcinoma", 4 cases'
    assert settled(one, words, words, 1, 1) == ({"image": 1, "k": 4, "text": "signet ring carcinoma"}, ())
    assert "text" not in settled(one, "restrict it to similar cases", "", 1, 1)[0]


@pytest.mark.parametrize(
    ("clause", "question", "phrase", "masks"),
    [
        ("put a box around the largest gland, please", "", "the largest gland", None),
        ("Where are the platelets in this smear?", "", "the platelets", None),
        ("trace the outline of the keratin pearl for me", "", "the keratin pearl", True),
        ("box the cell with two nuclei in image 2", "", "the cell with two nuclei", None),
        ("A box will do.", "Which corner has the nerve? A box will do.", "the nerve", None),
    ],
)
def test_what_to_box_is_read_from_the_words(clause: str, question: str, phrase: str, masks: bool | None) -> None:
    fixed, left = settled(tool("ground_phrase"), clause, question or clause, 1, 1)
    assert (fixed["phrase"], fixed.get("masks"), left) == (phrase, masks, ())


def test_a_thing_that_no_words_announce_is_left_to_the_model() -> None:
    _, left = settled(tool("ground_phrase"), "Point at it.", "I look for a nerve. Point at it.", 1, 1)
    assert [p.name for p in left] == ["phrase"]
