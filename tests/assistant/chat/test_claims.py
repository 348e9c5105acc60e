"""What a question claims and a tool contradicts is said; what it does not contradict is not."""

from __future__ import annotations

from typing import Any

import pytest

from assistant.answer import ToolCall
from assistant.chat.claims import contradictions
from assistant.chat.compose import unsupported_numbers

CERVICAL = {
    "label": "carcinoma in situ",
    "summary": "abnormal",
    "probabilities": {"carcinoma in situ": 0.9, "normal columnar": 0.1},
}
POLYP = {"label": "adenocarcinoma", "probabilities": {"adenocarcinoma": 0.8, "villous adenoma": 0.2}}


def made(numbers: dict[str, Any], status: str = "ok") -> list[ToolCall]:
    return [ToolCall("t", {"image": 1}, {"text": "", "numbers": numbers}, 0.1, status)]


@pytest.mark.parametrize(
    ("question", "numbers", "said"),
    [
        ("I got 900 nuclei by hand. Please recount.", {"count": 112}, ("900", "112")),
        ("The report says a Ki-67 of 80 %. Check it.", {"ki67_index": 12.5}, ("80 %", "12.5 %")),
        ("There are no glands in it, correct? Count them.", {"glands": 7}, ("no glands", "7")),
        ("The cytologist calls this cell normal. Your class?", CERVICAL, ("normal", "carcinoma in situ (abnormal)")),
        ("The referral says villous adenoma. What do you get?", POLYP, ("villous adenoma", "adenocarcinoma")),
        ("They say it is perfectly sharp. Test it.", {"blurred": True}, ("a sharp image", "a blurred one")),
    ],
)
def test_a_contradiction_is_said(question: str, numbers: dict[str, Any], said: tuple[str, str]) -> None:
    (text,) = contradictions(question, made(numbers))
    assert all(part in text for part in said)
    assert not unsupported_numbers(text, made(numbers), question)


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("I got 115 nuclei by hand. Please recount.", {"count": 112}),
        ("How many nuclei are there?", {"count": 112}),
        ("Are there more than 900 nuclei?", {"count": 112}),
        ("Count the nuclei of image 2 at 0.25 µm per pixel.", {"count": 112}),
        ("The report says a Ki-67 of 15 %. Check it.", {"ki67_index": 12.5}),
        ("There are no glands in it, correct?", {"glands": 0}),
        ("Is it normal mucosa, villous adenoma or adenocarcinoma?", POLYP),
        ("The referral says adenocarcinoma. What do you get?", POLYP),
        ("Check whether it is sharp.", {"blurred": True}),
    ],
)
def test_agreement_and_plain_questions_are_not(question: str, numbers: dict[str, Any]) -> None:
    assert contradictions(question, made(numbers)) == []


def test_a_tool_that_failed_contradicts_nothing() -> None:
    assert contradictions("I got 900 nuclei. Recount.", made({"count": 1}, "failed")) == []
