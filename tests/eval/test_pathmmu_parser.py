"""The official parser of PathMMU: a table of replies over every branch, the prompt, the fallback."""

from __future__ import annotations

import random

import pytest

from assistant.chat.prompt import parse_question
from eval.pathmmu_parser import Parsed, Unreadable, official_hits, official_options, official_prompt, parse

PUBLISHED = ["A) Random distribution", "B) Palisading arrangement", "C) Rosette formation", "D) Whorled pattern"]
OPTIONS = official_options(PUBLISHED)

# {L}: letter, {l}: the same in lower case, {T}: text of the option, {t}: the same in lower case
BRACKET = [
    "({L})", "({L}) {T}", "({L}) {t}.", "Answer: ({L})", "The answer is ({L}).",
    "The correct option is ({L}) {T}.",
    "**({L})**", "I choose ({L}), since the cells are so arranged.", "({L}).", "({L})!!!", "'({L})'", "[({L})]",
    "({L}),({L})",
    "\n({L})\n", "option({L})", "Based on the image, the answer would most likely be ({L}) {T}", "({L}): {T}",
    "{L} ({L})",
    "<answer>({L})</answer>", "A) or ({L})",
]  # fmt: skip
LETTER = [
    "{L}", "{L}.", " {L} ", "{L}!", "'{L}'", "{L}:", "{L};", "{L},", "{L}?", "Answer {L}", "Option {L} is right",
    "The answer is {L}", "The answer is {L}.", "I think {L} because of the shape", "{L} .", "... {L} ...", "{L} {T}",
    "My answer: {L}", "{L} - {T}", "choose {L} please", "The right one is {L} , clearly",
]  # fmt: skip
TEXT = [
    "The spindle cells in this field show {t} here", "This is {T}, as far as I can see",
    "I would call it {t} in this view",
    "It looks very much like {T} to me", "the cells are arranged in a {t} here",
    "In my opinion the pattern is {t}.", "The pattern that is seen here: {T}",
]  # fmt: skip
NOTHING = [
    "{T}", "{t}.", "{L})", "{L}) {T}", "({l})", "{l}", "Answer:{L}", "It is {T}", "{L}{L}", "[{L}]", "**{L}**",
    "{L}/none",
    "({L}", "the answer is:{L}", "\t{L}\t",
]  # fmt: skip
FORMS = (
    [(form, "bracket") for form in BRACKET] + [(form, "letter") for form in LETTER] + [(form, "text") for form in TEXT]
)
FORMS += [(form, "none") for form in NOTHING]
TABLE = [
    (form.format(L=c, l=c.lower(), T=OPTIONS[i], t=OPTIONS[i].lower()), i if branch != "none" else None, branch)
    for form, branch in FORMS
    for i, c in enumerate("ABCD")
]
SPECIAL: list[tuple[str, int | None, str]] = [
    ("", None, "none"), ("   ", None, "none"), ("?", None, "none"), ("I do not know", None, "none"),
    ("I cannot answer this question from the image alone", None, "none"), ("E", None, "none"), ("(E)", None, "none"),
    ("(A) or (B)", 1, "bracket"), ("(B) or (A)", 0, "bracket"), ("(A) (B) (C) (D)", 3, "bracket"),
    ("(D) (C) (B) (A)", 0, "bracket"), ("(A) no, (C), no, (A)", 0, "bracket"), ("Not (A). B is right", 0, "bracket"),
    ("A or B", 1, "letter"), ("B or A", 0, "letter"), ("A B C D", 3, "letter"), ("D C B A", 0, "letter"),
    ("A cell is seen", 0, "letter"), ("This is a B cell lymphoma", 1, "letter"), ("vitamin D is low", 3, "letter"),
    ("A group of cells in a whorled pattern is what one sees", 0, "letter"),
    ("Neither rosette formation nor whorled pattern but random distribution", 0, "text"),
    ("random distribution is excluded, so it is a whorled pattern", 3, "text"),
    ("WHORLED PATTERN IS WHAT IS SEEN IN THIS FIELD", 3, "text"),
    ("whorled pattern of the cells here", 3, "text"), ("whorled pattern of cells here", None, "none"),
    ("The whorled  pattern of all the cells", None, "none"), ("A.", 0, "letter"), ("A.B", None, "none"),
    ("A, B", 1, "letter"), ("A, B.", 1, "letter"), (",A", 0, "letter"), (".,A", None, "none"), (",.A", 0, "letter"),
    ("A\n", None, "none"), ("A\nB C", 2, "letter"), ("The answer is\nB", None, "none"), ("(A)(B)", 1, "bracket"),
]  # fmt: skip


def test_the_table_is_large_and_covers_every_branch() -> None:
    table = TABLE + SPECIAL
    assert len({response for response, _, _ in table}) >= 200
    assert {branch for _, _, branch in table} == {"bracket", "letter", "text", "none"}


@pytest.mark.parametrize(("response", "index", "branch"), TABLE + SPECIAL)
def test_parse(response: str, index: int | None, branch: str) -> None:
    found = parse(response, OPTIONS)
    assert (found.index, found.branch) == (index, branch)


def test_several_are_noted() -> None:
    assert parse("(A) or (B)", OPTIONS) == Parsed(1, "bracket", True)
    assert not parse("(A)", OPTIONS).several


def test_of_two_options_at_the_same_place_the_first_wins() -> None:
    assert parse("one sees tumour cells in the middle", ["tumour", "tumour cells"]).index == 0


def test_the_prompt_is_the_folded_yaml() -> None:
    assert official_prompt("Which pattern?", OPTIONS[:2]) == (
        "Which pattern?\n(A) Random distribution\n(B) Palisading arrangement\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_our_assistant_reads_the_official_prompt_as_a_closed_question() -> None:
    asked = parse_question(official_prompt("Which pattern do the cells show?", OPTIONS))
    assert asked.stem == "Which pattern do the cells show?"
    assert list(asked.options) == OPTIONS


def test_options_are_cut_at_the_second_bracket() -> None:
    assert official_options(["A) p53 (TP53) loss", "B)  x "]) == ["p53 (TP53", "x"]
    with pytest.raises(Unreadable, match="no '\\)'"):
        official_options(["A. liver"])


def test_the_fallback_is_the_official_sequence() -> None:
    random.seed(42)
    drawn = [random.choice(["A", "B", "C", "D"]) for _ in range(12)]
    rows = [(None, "no idea", OPTIONS, "ABCD".index(letter)) for letter in drawn]
    assert official_hits(rows) == [True] * 12
    assert official_hits([(None, "no idea", OPTIONS, 1)] * 12) == [letter == "B" for letter in drawn]


def test_a_reply_that_is_the_right_text_wins_and_still_draws() -> None:
    random.seed(42)
    second = [random.choice("ABCD") for _ in range(2)][1]
    rows = [(None, "Whorled pattern", OPTIONS, 3), (None, "no idea", OPTIONS, "ABCD".index(second))]
    assert official_hits(rows) == [True, True]
    assert official_hits([(2, "Whorled pattern", OPTIONS, 3)]) == [True]


def test_options_cut_to_the_same_text_are_both_right() -> None:
    cut = official_options(["A) grade (1) low", "B) Grade (1) high"])
    assert official_hits([(1, "(B)", cut, 0)]) == [True]
