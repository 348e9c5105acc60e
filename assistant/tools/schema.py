"""A tool's signature as JSON schema, and a model's call as checked arguments. Calls are only parsed as JSON."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from assistant.errors import BadInput
from assistant.tools.base import Context, Tool

_MAX_CALL = 20_000  # characters: a longer "call" is no call


@lru_cache(maxsize=128)
def arguments_model(tool: Tool) -> type[BaseModel]:
    """The pydantic model of a tool's arguments; unknown names are refused."""
    fields: dict[str, Any] = {}
    hints = typing.get_type_hints(tool.function, include_extras=True)
    described = _described(tool)
    for name, parameter in inspect.signature(tool.function).parameters.items():
        kind = hints[name]
        if kind is Context:
            continue
        if kind is Image:
            text = described.get(name, "Which image of the conversation")
            fields[name] = (int, Field(default=1, ge=1, description=f"{text.rstrip('.')}, counted from 1."))
            continue
        required = parameter.default is inspect.Parameter.empty
        default = ... if required else parameter.default
        fields[name] = (kind, Field(default=default, description=described.get(name)))
    return create_model(tool.name, __config__=ConfigDict(extra="forbid"), **fields)


def image_parameters(tool: Tool) -> list[str]:
    """Names of the parameters that take an image."""
    return [name for name, kind in typing.get_type_hints(tool.function).items() if kind is Image]


def context_parameter(tool: Tool) -> str | None:
    """Name of the parameter that takes the :class:`~assistant.tools.base.Context`, if there is one."""
    hints = typing.get_type_hints(tool.function)
    return next((name for name, kind in hints.items() if kind is Context), None)


def json_schema(tool: Tool) -> dict[str, Any]:
    """JSON schema of a tool's arguments, without pydantic's titles."""
    schema: dict[str, Any] = _untitled(arguments_model(tool).model_json_schema())
    schema.pop("description", None)
    schema.setdefault("properties", {})
    return schema


def openai_schema(tool: Tool) -> dict[str, Any]:
    """One entry of OpenAI's ``tools``."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": summary(tool), "parameters": json_schema(tool)},
    }


def summary(tool: Tool) -> str:
    """The docstring up to its ``Args``, as one paragraph."""
    text = re.split(r"\n\s*(?:Args|Returns|Raises):", inspect.getdoc(tool.function) or "", maxsplit=1)[0]
    return " ".join(text.split())


def check_arguments(tool: Tool, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
    """Arguments as the tool's own types.

    Args:
        arguments: A mapping, or JSON text of an object.

    Raises:
        BadInput: Not JSON, not an object, an unknown name, a missing or wrong value; all of them named.
    """
    if isinstance(arguments, str):
        arguments = _object(arguments, f"the arguments of {tool.name}")
    try:
        checked = arguments_model(tool).model_validate(dict(arguments))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']} (got {_shown(one['input'])})"
            for one in error.errors(include_url=False, include_context=False)
        )
        names = ", ".join(arguments_model(tool).model_fields) or "none"
        raise BadInput(f"wrong arguments for {tool.name}: {wrong}; it takes: {names}") from error
    return {name: getattr(checked, name) for name in type(checked).model_fields}


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and raw arguments of a call written as JSON: ``{"name": …, "arguments": {…}}``, or OpenAI's form of it.

    Raises:
        BadInput: Anything else.
    """
    call = _object(text, "a tool call")
    inner = call.get("function")
    if isinstance(inner, Mapping):
        call = dict(inner)
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str):
        raise BadInput('a tool call needs a name: {"name": "check_quality", "arguments": {"image": 1}}')
    if isinstance(arguments, str):
        arguments = _object(arguments, f"the arguments of {_shown(name)}")
    if not isinstance(arguments, Mapping):
        raise BadInput(f"the arguments of {_shown(name)} must be a JSON object, got {_shown(arguments)}")
    return name, dict(arguments)


def _object(text: str, what: str) -> dict[str, Any]:
    if len(text) > _MAX_CALL:
        raise BadInput(f"{what} has {len(text):,} characters; at most {_MAX_CALL:,} are read")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not JSON: {_shown(text)}; write one JSON object") from error
    if not isinstance(value, dict):
        raise BadInput(f"{what} must be a JSON object, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _described(tool: Tool) -> dict[str, str]:
    """Parameter descriptions of a Google-style docstring."""
    match = re.search(r"\nArgs:\n(.*?)(?:\n\S|\Z)", inspect.getdoc(tool.function) or "", re.DOTALL)
    found: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines() if match else ():
        start = re.match(r"    (\w+): (.*)", line)
        if start:
            name, found[start.group(1)] = start.group(1), start.group(2)
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def _untitled(node: Any) -> Any:
    """A schema without the titles that pydantic makes of names; a property called ``title`` stays."""
    if isinstance(node, list):
        return [_untitled(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _untitled(one) for name, one in value.items()} if key == "properties" else _untitled(value)
        for key, value in node.items()
        if key != "title"
    }
