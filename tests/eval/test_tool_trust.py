"""What was said and what was right, put into the table that answers take their confidence from."""

from __future__ import annotations

import pytest
from PIL import Image

from assistant.chat.trust import COUNTS
from eval.tool_trust import markdown, near, table, wilson
from eval.tools_cost import FIELDS, repeated
from eval.tools_cost import markdown as cost_page


def test_rows_are_counted_by_what_was_said() -> None:
    rows = [("t", "site", "a", True), ("t", "site", "a", False), ("t", "site", "b", True), ("n", COUNTS, "x", True)]
    found = table(iter(rows))
    assert found["t"]["site"] == {"a": {"said": 2, "right": 1}, "b": {"said": 1, "right": 1}}
    page = markdown({"command": "c", "tools": found})
    assert "| t | site | a | 0.500 | 0.095 to 0.905 | 2 | 0.67 |" in page
    assert "| n | counts | x | 1.000 |" in page


@pytest.mark.parametrize(
    ("count", "true", "right"), [(115, 100, True), (116, 100, False), (85, 100, True), (1, 1, True), (2, 1, False)]
)
def test_near(count: int, true: int, right: bool) -> None:
    assert near(count, true) is right


def test_wilson_stays_within_0_and_1() -> None:
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-9)
    assert wilson(5, 5)[1] == pytest.approx(1)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_a_cost_field_is_filled_with_copies() -> None:
    part = Image.new("RGB", (30, 20), (1, 2, 3))
    field = repeated(part, 70)
    assert field.size == (70, 70)
    assert field.getpixel((69, 69)) == (1, 2, 3)


def test_the_cost_page_names_every_row() -> None:
    rows = [{"tool": t, "side": 512, "seconds": 0.1, "mib": 9, "before": 8, "said": "ok"} for t in FIELDS]
    page = cost_page({"machine": "a CPU", "cost": rows})
    assert all(f"| {t} | 512 | 0.10 | 9 | 8 | ok |" in page for t in FIELDS)


def test_every_tool_of_ours_has_a_field_to_be_timed_on() -> None:
    from assistant.tools.registry import BUILTIN

    assert {origin.split(":")[1] for origin in BUILTIN} == set(FIELDS)
