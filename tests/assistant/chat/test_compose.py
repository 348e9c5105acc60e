"""Answers from calls on several images say which image each result and each box belongs to."""

from __future__ import annotations

from typing import Any

from assistant.answer import Box, ToolCall
from assistant.chat.compose import boxes_of, report
from ui.evidence import regions_html


def call(image: int, name: str = "segment_nuclei", **numbers: Any) -> ToolCall:
    return ToolCall(name, {"image": image}, {"text": f"{image}0 nuclei", "numbers": numbers}, 0.1, "ok")


def test_results_of_several_images_are_numbered_and_that_of_one_is_not() -> None:
    assert report([call(1)]) == "segment_nuclei: 10 nuclei"
    assert report([call(1), call(2)]) == "segment_nuclei (image 1): 10 nuclei\n\nsegment_nuclei (image 2): 20 nuclei"


def test_boxes_know_their_image() -> None:
    found = [{"label": "nerve", "xyxy": [1, 2, 3, 4], "score": 0.5}]
    first, second = boxes_of([call(1, "ground_phrase", boxes=found), call(2, "ground_phrase", boxes=found)])
    assert (first.image, second.image) == (1, 2)
    assert "image" not in first.as_dict()
    assert second.as_dict()["image"] == 2
    page = regions_html([first, second], "", (10, 10))
    assert "image 1 · 0.50" in page
    assert "image 2 · 0.50" in page
    assert "image" not in regions_html([Box("nerve", (1, 2, 3, 4), 0.5)], "", (10, 10)).split("<ol")[1]
