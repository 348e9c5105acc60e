"""Citations after an answer, and whether the labels of the cases go with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from assistant.answer import Answer
from assistant.chat.evidence import judge, with_evidence, without_evidence
from assistant.chat.prompt import Turn, parse_question
from assistant.errors import NotAvailable
from retrieval.notes import Passage
from retrieval.records import Case, Hit

CASES = [
    Case("1", title="Field of a lung", organ="lung", diagnosis="adenocarcinoma"),
    Case("2", title="Normal", organ="colon"),
]
PICTURE = Image.new("RGB", (8, 8))
CHOICE = "Which organ?\nA) liver\nB) colon"


def answer(guess: str, **more: Any) -> Answer:
    return Answer(**{"text": guess, "confidence": 0.9, "abstained": False, "best_guess": guess, **more})


class FakeLibrary:
    def __init__(self, cases: list[Case] = CASES) -> None:
        self.hits = [Hit(case, 0.9 - 0.1 * n) for n, case in enumerate(cases)]

    def search(self, images: Any, text: str | None = None, k: int = 5) -> list[Hit]:
        return self.hits[:k]

    def thumbnail_uri(self, case: Case) -> str:
        return f"data:image/jpeg;base64,{case.id}"


class Away(FakeLibrary):
    def search(self, *_: Any, **__: Any) -> list[Hit]:
        raise NotAvailable("the server is away")


NOTES: Any = SimpleNamespace(
    search=lambda text, k: [
        Passage("n-1", 0, "On glands", "A gland.", "", "", 0.6),
        Passage("n-2", 3, "On cars", "A car.", "", "", 0.1),
    ]
)


@pytest.mark.parametrize(
    ("question", "guess", "state"),
    [
        (CHOICE, "B) colon", "supported"),
        (CHOICE, "A) liver", "unsupported"),
        ("What is shown?", "A field of Lung tissue with Adenocarcinoma.", "supported"),
        ("What is shown?", "There is no evidence of adenocarcinoma.", "unsupported"),
        ("What is shown?", "An adenocarcinoma-free lymph node.", "supported"),  # words are compared, not meaning
        ("What is shown?", "A carcinoma.", "unsupported"),
        ("Is this lung?", "Yes", "supported"),
        ("Is this liver?", "Yes", "unsupported"),
        ("Is this liver?", "No", "unknown"),
    ],
)
def test_support(question: str, guess: str, state: str) -> None:
    assert judge(answer(guess), parse_question(question), CASES).state == state


def test_cases_without_labels_say_nothing() -> None:
    assert judge(answer("lung"), parse_question("What?"), [Case("1", title="untitled")]).state == "unknown"


def test_evidence_is_numbered_and_cited() -> None:
    cited = with_evidence(answer("B) colon"), parse_question(CHOICE), [PICTURE], FakeLibrary(), NOTES)  # type: ignore[arg-type]
    assert cited.text.startswith("B) colon\n\nSimilar cases: [1] Field of a lung (0.90); [2] Normal (0.80).")
    assert "Named in the labels of [2], 1 of 2" in cited.text
    assert "[3] On glands: “A gland.”" in cited.text
    assert "cars" not in cited.text  # too far from question and answer
    shown = cited.pathology()
    assert shown["cases"][0] == {
        "id": "1", "score": 0.9, "title": "Field of a lung", "thumbnail": "data:image/jpeg;base64,1",
    }  # fmt: skip
    assert shown["support"] == "supported"
    assert [note["id"] for note in shown["notes"]] == ["n-1/0"]
    assert cited.best_guess == "B) colon"


def test_a_claim_without_a_case_is_marked() -> None:
    cited = with_evidence(answer("A) liver"), parse_question(CHOICE), [PICTURE], FakeLibrary(), None)  # type: ignore[arg-type]
    assert "No supporting case: none of the 2 similar cases" in cited.text


def test_nothing_to_cite_changes_nothing() -> None:
    given = answer("B) colon")
    assert with_evidence(given, parse_question(CHOICE), [], FakeLibrary(), None) == given  # type: ignore[arg-type]
    assert with_evidence(given, parse_question(CHOICE), [PICTURE], FakeLibrary([]), None) == given  # type: ignore[arg-type]
    assert set(given.pathology()) >= {"cases"}
    assert not {"support", "notes"} & set(given.pathology())


def test_a_library_that_is_away_does_not_cost_the_answer() -> None:
    cited = with_evidence(answer("B) colon"), parse_question(CHOICE), [PICTURE], Away(), None)  # type: ignore[arg-type]
    assert cited.text == "B) colon"
    assert cited.warnings == ("similar cases could not be searched: the server is away",)


def test_the_model_does_not_read_its_citations() -> None:
    cited = with_evidence(answer("B) colon"), parse_question(CHOICE), [PICTURE], FakeLibrary(), NOTES)  # type: ignore[arg-type]
    assert without_evidence(Turn("assistant", cited.text)).text == "B) colon"
    only_notes = with_evidence(answer("B) colon"), parse_question(CHOICE), [], None, NOTES)
    assert without_evidence(Turn("assistant", only_notes.text)).text == "B) colon"
    assert without_evidence(Turn("user", cited.text)).text == cited.text


def test_cases_and_notes_come_with_the_answer(tiny_assistant: Any, field: Image.Image) -> None:
    plain = tiny_assistant.ask(field, CHOICE, threshold=0.0)
    tiny_assistant.library, tiny_assistant.notes = FakeLibrary(), NOTES
    try:
        *pieces, cited = tiny_assistant.stream(field, CHOICE, threshold=0.0)
        assert "".join(pieces) == cited.text  # so a stream shows the citations too
        assert cited.text.startswith(f"{plain.text}\n\nSimilar cases: [1] ")
        assert (cited.best_guess, cited.confidence) == (plain.best_guess, plain.confidence)
        assert [case.id for case in cited.cases] == ["1", "2"]
        *pieces, declined = tiny_assistant.stream(field, CHOICE, threshold=1.0)
        assert "Similar cases" not in "".join(pieces)
        assert "Similar cases" in declined.text
        history = [Turn("user", CHOICE, (field,)), Turn("assistant", cited.text)]
        follow = tiny_assistant.ask(None, "Is this lung?", history=history, threshold=0.0)
        assert follow.cases  # of the image that is talked about
        bare = [history[0], Turn("assistant", plain.text)]
        assert follow.options == tiny_assistant.ask(None, "Is this lung?", history=bare, threshold=0.0).options
        assert not tiny_assistant.ask(Image.new("RGB", (300, 300), (250, 248, 250)), CHOICE).cases
    finally:
        tiny_assistant.library = tiny_assistant.notes = None
