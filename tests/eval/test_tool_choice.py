"""What is counted as right, over-called and valid, and what the chat model would have said without a tool."""

from __future__ import annotations

from assistant.answer import Answer
from assistant.chat.planner import Facts, PlannedCall
from eval.tool_choice import Keywords, planning, planning_table, without
from training.data.tool_calls import Expected, Request


def answer(*warnings: str) -> Answer:
    return Answer("A) x", 0.5, False, "A) x", warnings=warnings)


def test_what_the_chat_model_would_have_said_is_read_from_the_answer() -> None:
    assert without(answer()) == "A) x"
    told = answer("blank", "the chat model without classify_tissue would answer C) villous adenoma")
    assert without(told) == "C) villous adenoma"


class Script:
    """Plans what it is told for each question."""

    def __init__(self, **calls: list[PlannedCall]) -> None:
        self.calls = calls

    def plan(self, question, tools, facts, done=()):  # type: ignore[no-untyped-def]
        mine = self.calls[question]
        return mine[len(done)] if len(done) < len(mine) else None


def request(question: str, *names: str) -> Request:
    return Request(question, Facts(1, "H&E"), tuple(Expected(n, {"image": 1}) for n in names), "call", wording=question)


def test_rates_of_planning() -> None:
    nuclei, glands = (PlannedCall(n, {"image": 1}) for n in ("segment_nuclei", "segment_glands"))
    planner = Script(a=[nuclei], b=[glands], c=[nuclei], d=[], e=[PlannedCall("segment_nuclei", {"image": 4})])
    asked = [request("a", "segment_nuclei"), request("b", "segment_nuclei"), request("c"), request("d")]
    rows = planning(planner, [*asked, request("e", "segment_nuclei")])
    assert [r["right"] for r in rows] == [True, False, False, True, True]
    assert [r["over"] for r in rows] == [False, False, True, False, False]
    assert [r["exact"] for r in rows] == [True, False, False, True, False]
    table = {r["metric"]: (r["value"], r["n"]) for r in planning_table("x", rows) if r["part"] == "all"}
    assert table["right tool"] == (0.6, 5)
    assert table["over-call"] == (0.5, 2)
    assert table["valid arguments"] == (0.75, 4)


def test_the_control_names_the_tool_of_the_first_keyword() -> None:
    rows = planning(Keywords(), [request("Count the glands", "segment_glands"), request("Hello")])
    assert [r["right"] for r in rows] == [True, True]


def test_an_article_of_a_phrase_makes_no_difference_and_a_word_does() -> None:
    def boxed(phrase: str, image: int = 1) -> PlannedCall:
        return PlannedCall("ground_phrase", {"image": image, "phrase": phrase})

    wanted = (Expected("ground_phrase", {"image": 1, "phrase": "the largest gland"}),)
    asked = [Request(name, Facts(2, "H&E"), wanted, "call", wording=name) for name in "abcd"]
    said = Script(a=[boxed("Largest gland")], b=[boxed("gland")], c=[boxed("the largest gland", 2)], d=[])
    assert [r["exact"] for r in planning(said, asked)] == [True, False, False, False]


def test_a_default_that_is_written_out_makes_no_difference() -> None:
    wanted = (Expected("score_ihc", {"image": 1, "threshold": 0.3}),)
    asked = [Request(name, Facts(1, ""), wanted, "call", wording=name) for name in "ab"]
    given = {"image": 1, "threshold": 0.3, "compartment": "nuclear"}
    said = Script(a=[PlannedCall("score_ihc", given)], b=[PlannedCall("score_ihc", given | {"threshold": 0.4})])
    assert [r["exact"] for r in planning(said, asked)] == [True, False]
