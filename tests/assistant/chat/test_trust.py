"""The confidence of an answer from tools is what was measured of the tool, never how sure the planner was."""

from __future__ import annotations

from typing import Any

import pytest

from assistant.answer import ToolCall
from assistant.chat import trust as trusted
from assistant.chat.compose import option_chances
from assistant.chat.prompt import parse_question
from assistant.chat.tool_answer import _sure
from assistant.chat.trust import confidence, trust

TABLE = {
    "classify_tissue": {
        "colorectal": {"adenocarcinoma": {"said": 40, "right": 38}, "villous adenoma": {"said": 3, "right": 1}}
    },
    "segment_nuclei": {"counts": {"nuclei": {"said": 50, "right": 20}}},
    "detect_blood_cells": {
        "counts": {"red blood cell": {"said": 80, "right": 8}, "platelet": {"said": 80, "right": 60}},
        "leucocyte": {"neutrophil": {"said": 20, "right": 18}},
    },
}


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "measured", lambda: TABLE)


def made(name: str, **numbers: Any) -> ToolCall:
    return ToolCall(name, {"image": 1}, {"text": "", "numbers": numbers}, 0.1)


def test_a_class_has_the_accuracy_of_that_class() -> None:
    found = trust(made("classify_tissue", site="colorectal", label="adenocarcinoma", probability=0.51))
    assert found.value == pytest.approx(39 / 42)
    assert "38 of 40" in found.basis


def test_a_rare_class_has_that_of_all_classes() -> None:
    found = trust(made("classify_tissue", site="colorectal", label="villous adenoma", probability=0.99))
    assert found.value == pytest.approx(40 / 45)
    assert "39 of 43" in found.basis


def test_counts_and_cells() -> None:
    assert trust(made("segment_nuclei", count=30)).value == pytest.approx(21 / 52)
    smear = made("detect_blood_cells", counts={"red blood cell": 12, "platelet": 3}, white_cell_types={"neutrophil": 1})
    assert trust(smear).value == pytest.approx(9 / 82)
    assert trust(smear, "platelet").value == pytest.approx(61 / 82)
    assert trust(smear, "neutrophil").value == pytest.approx(19 / 22)


@pytest.mark.parametrize("name", ["score_ihc", "normalise_stain", "find_similar_cases", "check_quality", "theirs"])
def test_without_a_measurement_there_is_no_confidence_but_a_reason(name: str) -> None:
    found = trust(made(name))
    assert found.value is None
    assert found.basis.startswith(f"no confidence for {name}: ")


def test_an_answer_has_the_least_of_its_results_and_names_those_without() -> None:
    found = confidence([made("segment_nuclei", count=3), made("score_ihc"), ToolCall("x", {}, {}, 0.1, "failed")])
    assert found.value == pytest.approx(21 / 52)
    assert "no confidence for score_ihc" in found.basis
    assert " x" not in found.basis


def test_the_type_of_a_white_cell_answers_a_closed_question() -> None:
    asked = parse_question("Which white cell?", ["monocyte", "neutrophil", "lymphocyte", "eosinophil"])
    call = made("detect_blood_cells", counts={"white blood cell": 1}, white_cell_types={"neutrophil": 1})
    mapped = option_chances(asked, [call])
    assert mapped is not None
    assert mapped.told == "neutrophil"
    assert mapped.chances == pytest.approx([3 / 66, 19 / 22, 3 / 66, 3 / 66])
    tied = made("detect_blood_cells", white_cell_types={"neutrophil": 1, "monocyte": 1})
    assert option_chances(asked, [tied]) is None


def test_a_flag_that_was_never_measured_gives_no_confidence() -> None:
    mapped = option_chances(parse_question("Is it blurred?"), [made("check_quality", blurred=True)])
    assert mapped is not None
    sure, basis = _sure(mapped, "Yes")
    assert sure is None
    assert "never measured" in basis


def test_a_class_option_has_the_measured_accuracy_not_the_tools_own_probability() -> None:
    asked = parse_question("Which?", ["adenocarcinoma", "villous adenoma"])
    call = made(
        "classify_tissue", site="colorectal", label="adenocarcinoma",
        probabilities={"adenocarcinoma": 0.999, "villous adenoma": 0.001},
    )  # fmt: skip
    mapped = option_chances(asked, [call])
    assert mapped is not None
    assert _sure(mapped, "A) adenocarcinoma")[0] == pytest.approx(39 / 42)


def test_an_answer_without_confidence_says_so_everywhere() -> None:
    from assistant.answer import NO_CONFIDENCE, Answer
    from ui.evidence import Record, evidence_html

    unknown = Answer("61 % positive", 0.0, False, "61 %", warnings=(f"{NO_CONFIDENCE} score_ihc: never measured",))
    known = Answer("liver", 0.02, False, "liver", warnings=("the image is small",))
    assert not unknown.confidence_known
    assert known.confidence_known
    pages = [evidence_html(Record("q", a, 0.5)) for a in (unknown, known)]
    assert "<span>Confidence</span> <span>not known</span>" in pages[0]
    assert "never measured" in pages[0].split("Research use only")[0]
    assert "meter" not in pages[0]
    assert "2 %" in pages[1]
