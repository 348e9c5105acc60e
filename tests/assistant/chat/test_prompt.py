"""Recognising options and yes/no questions, and refusing bad ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.chat.prompt import MAX_QUESTION_CHARS, YES_NO, Question, Turn, parse_question, to_messages
from assistant.errors import BadInput


@pytest.mark.parametrize(
    "text",
    [
        "Which organ?\nA) liver\nB) lung\nC) skin\nD) colon",
        "Which organ?\n(A) liver\n(B) lung\n(C) skin\n(D) colon",
        "Which organ?\nA. liver\nB. lung\nC. skin\nD. colon",
        "Which organ? A: liver B: lung C: skin D: colon",
        "Which organ?\nOptions:\nA) liver,\nB) lung;\nC) skin\nD) colon\n\nAnswer with the option's letter.",
        "Which organ?  (A)  liver (B) lung (C) skin (D) colon\nChoose one.",
    ],
)
def test_options_are_found_however_they_are_typed(text: str) -> None:
    found = parse_question(text)
    assert found.stem == "Which organ?"
    assert found.options == ("liver", "lung", "skin", "colon")
    assert found.labels[1] == "B) lung"
    assert found.prompt() == "Which organ?\nA) liver\nB) lung\nC) skin\nD) colon"


@pytest.mark.parametrize(
    "text",
    [
        "What is a grade A) tumour?",
        "Describe vitamin A. deficiency and vitamin B12",
        "A) liver B) lung",
        "Which?\nA) liver\nA) lung",
        "Which?\nA) same\nB) same",
        "What does the slide show?",
        "Is it benign or malignant?",
        "Can you describe the image?",
    ],
)
def test_ordinary_text_stays_open(text: str) -> None:
    assert not parse_question(text).closed


@pytest.mark.parametrize("text", ["Is this liver?", "Does the field show tumour?", "are there mitoses?"])
def test_yes_no(text: str) -> None:
    found = parse_question(text)
    assert found.options == YES_NO
    assert found.prompt() == text


def test_given_options_win_over_typed_ones() -> None:
    assert parse_question("Which?\nA) x\nB) y", ["lung", "liver"]).options == ("lung", "liver")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", None, "empty"),
        ("   \n", None, "empty"),
        ("x" * (MAX_QUESTION_CHARS + 1), None, "8,001 characters"),
        ("Which?", ["one"], "1 options"),
        ("Which?", [str(i) for i in range(11)], "11 options"),
        ("Which?", ["a", ""], "option B is empty"),
        ("Which?", ["a", "A"], "repeat"),
    ],
)
def test_bad_questions_say_what_is_wrong(text: str, options: list[str] | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_question(text, options)


_option = st.text(st.characters(categories=("L", "N")), min_size=2, max_size=12)


@given(st.lists(_option, min_size=2, max_size=10, unique_by=str.casefold))
def test_canonical_prompt_is_read_back(options: list[str]) -> None:
    question = Question("Which one is shown here?", tuple(options))
    assert parse_question(question.prompt()).options == tuple(options)


@given(st.text(max_size=300))
def test_any_text_is_a_question_or_a_clear_refusal(text: str) -> None:
    try:
        found = parse_question(text)
    except BadInput:
        assert not text.strip()
    else:
        assert found.prompt()


def test_images_precede_the_text_of_their_turn(field: object) -> None:
    messages = to_messages([Turn("user", "What?", (field, field)), Turn("assistant", "Liver.")])  # type: ignore[arg-type]
    assert [p["type"] for p in messages[0]["content"]] == ["image", "image", "text"]
    assert messages[1] == {"role": "assistant", "content": [{"type": "text", "text": "Liver."}]}
