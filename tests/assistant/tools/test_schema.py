"""Signatures as JSON schema, calls as checked arguments, and the registry."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from assistant.errors import BadInput, NotAvailable
from assistant.tools import find_tools, json_schema, openai_schema, parse_call, registry
from tests.assistant.tools import sample_tools as samples


def test_schema_comes_from_signature_and_docstring() -> None:
    schema = json_schema(samples.brightness)
    assert set(schema["properties"]) == {"image", "factor", "mode"}  # the context is not a model's business
    assert schema["properties"]["image"]["type"] == "integer"
    assert schema["properties"]["factor"] == {"default": 1.0, "description": "Times this.", "type": "number"}
    assert schema["properties"]["mode"]["enum"] == ["mean", "max"]
    assert schema["additionalProperties"] is False
    function = openai_schema(samples.brightness)["function"]
    assert (function["name"], function["description"]) == ("brightness", "Measure brightness.")


def test_every_tool_has_a_card_and_a_schema() -> None:
    found = find_tools().tools
    assert {"check_quality", "segment_nuclei", "score_ihc", "normalise_stain"} <= set(found)
    for one in found.values():
        assert one.card.task
        assert one.card.licence
        assert one.card.training_data
        for name, field in json_schema(one)["properties"].items():
            assert field.get("description"), f"{one.name}.{name} is not described"
        json.dumps(openai_schema(one))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "check_quality", "arguments": {"image": 1}}',
        '{"name": "check_quality", "arguments": "{\\"image\\": 1}"}',
        '{"id": "1", "type": "function", "function": {"name": "check_quality", "arguments": "{\\"image\\": 1}"}}',
    ],
)
def test_calls_are_read(text: str) -> None:
    assert parse_call(text) == ("check_quality", {"image": 1})


@pytest.mark.parametrize(
    "text", ["", "check_quality(1)", '{"arguments": {}}', '{"name": "a", "arguments": 3}', "[" * 5000, '{"name": 1}']
)
def test_other_text_is_a_clear_error(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_call(text)
    assert "\n" not in str(caught.value)


def test_third_party_tools_and_broken_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        metadata.EntryPoint("brightness", "tests.assistant.tools.sample_tools:brightness", registry.GROUP),
        metadata.EntryPoint("gone", "no_such_package:tool", registry.GROUP),
        metadata.EntryPoint("check_quality", "tests.assistant.tools.sample_tools:fail", registry.GROUP),
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: entries if group == registry.GROUP else [])
    found = find_tools.__wrapped__()
    assert found["brightness"] is samples.brightness
    assert "no_such_package" in found.broken["gone"]
    assert any("taken" in why for why in found.broken.values())
    with pytest.raises(NotAvailable):
        found["gone"]
