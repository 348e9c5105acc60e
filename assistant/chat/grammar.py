"""Tool calls that cannot be wrong in form: the model chooses among what a schema allows and writes nothing else.

A call is written ``<tool_call>{"name": "…", "arguments": {…}}</tool_call>`` in :class:`Segment` pieces. Names, argument
keys, enum values, image numbers and numbers are chosen by the likelihood of each candidate; punctuation is forced. A
number can only be one that stands in the question, and a text only a passage of it, so that no value is made up.
Training (``training.data.tool_calls``) writes its targets with :func:`call_segments`, in the same pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from assistant.errors import BadInput
from assistant.tools.base import Tool

Kind = Literal["image", "integer", "number", "boolean", "string", "enum"]

NONE = "none"
OPEN, AFTER_NAME, CLOSE = '<tool_call>{"name": "', ', "arguments": {', "}}</tool_call>"
MAX_TEXT = 160  # characters of a text argument
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z]-)\d{1,6}(?:\.\d{1,4})?(?![\w]*\d)")


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool: its kind, and what it may be.

    Attributes:
        values: Allowed values of an ``enum``; the first is used where it has to be given and nothing else decides.
        default: JSON value used where it is left out; None where there is none.
        longest: Most characters of a text.
    """

    name: str
    kind: Kind
    required: bool = False
    values: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None
    longest: int = MAX_TEXT

    def allows(self, number: float) -> bool:
        """Whether a number is within the bounds, and whole where it has to be."""
        if self.kind == "integer" and number != int(number):
            return False
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)


@dataclass(frozen=True)
class FunctionTool:
    """A tool as a planner sees it.

    Attributes:
        summary: A few words; what the model reads.
        parameters: In the order they are written.
        ours: One of the program's own tools, which it can run itself.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    ours: bool = False

    @property
    def signature(self) -> str:
        """The line of the tool in the prompt."""
        return f"{self.name}({', '.join(p.name for p in self.parameters)}): {self.summary}"


@dataclass(frozen=True)
class Segment:
    """A piece of a call; ``chosen`` pieces are decisions, the others follow from the grammar."""

    text: str
    chosen: bool


@lru_cache(maxsize=128)
def from_tool(tool: Tool, summary: str = "") -> FunctionTool:
    """A registered tool."""
    from assistant.tools.schema import image_parameters, json_schema
    from assistant.tools.schema import summary as described

    made = from_schema(tool.name, summary or described(tool), json_schema(tool), frozenset(image_parameters(tool)))
    return FunctionTool(made.name, made.summary, made.parameters, ours=True)


def from_schema(
    name: str, description: str, schema: Mapping[str, Any], images: frozenset[str] = frozenset()
) -> FunctionTool:
    """A tool from a JSON schema of its arguments.

    Args:
        images: Arguments that number an image of the conversation.

    Raises:
        BadInput: A bad name, or a required argument of a kind that cannot be written.
    """
    if not _NAME.match(name):
        raise BadInput(f"{name[:70]!r} is no tool name; allowed: 1 to 64 letters, digits, '_', '-' and '.'")
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    if not isinstance(properties, Mapping) or isinstance(required, str) or not isinstance(required, Sequence):
        raise BadInput(f"the parameters of {name} are no JSON schema of an object; give type, properties and required")
    parameters = []
    for key, rule in properties.items():
        made = _parameter(str(key), rule, key in required, key in images)
        if made is None and key in required:
            raise BadInput(
                f"the argument {str(key)[:60]!r} of {name} has a kind that cannot be written; "
                "allowed for required ones: string, integer, number, boolean, enum"
            )
        if made is not None:
            parameters.append(made)
    words = " ".join(description.split()).split(". ")[0].split(" ")
    # A word may have any length, and the model reads all of it.
    return FunctionTool(name, " ".join(words[:14])[:200].rstrip("."), tuple(parameters))


def _parameter(name: str, rule: Any, required: bool, image: bool) -> Parameter | None:
    if not isinstance(rule, Mapping) or not _NAME.match(name):
        return None
    default = rule.get("default")
    for option in rule.get("anyOf") or ():
        if isinstance(option, Mapping) and option.get("type") != "null":
            rule = option
            break
    values = rule.get("enum") or ([rule["const"]] if "const" in rule else None)
    if values:
        plain = tuple(v for v in values if isinstance(v, str | int | float | bool))
        return Parameter(name, "enum", required, plain, default=default) if plain else None
    kind = rule.get("type")
    low, high = _bound(rule, "minimum", 1), _bound(rule, "maximum", -1)
    if image:
        return Parameter(name, "image", required, minimum=1, default=default)
    if kind in ("integer", "number") and "multipleOf" not in rule and (low is None or high is None or low <= high):
        return Parameter(name, kind, required, minimum=low, maximum=high, default=default)
    if kind == "boolean":
        return Parameter(name, "boolean", required, (True, False), default=default)
    if kind == "string" and not {"pattern", "format"} & set(rule) and int(rule.get("minLength") or 0) <= 1:
        longest = min(MAX_TEXT, int(rule.get("maxLength") or MAX_TEXT))
        return Parameter(name, "string", required, default=default, longest=longest) if longest else None
    return None


def _bound(rule: Mapping[str, Any], key: str, inward: int) -> float | None:
    if isinstance(rule.get(key), int | float):
        return float(rule[key])
    strict = rule.get("exclusiveM" + key[1:])
    if not isinstance(strict, int | float):
        return None
    return strict + inward * (1 if rule.get("type") == "integer" else 1e-6)


def call_segments(tool: FunctionTool, arguments: Mapping[str, Any]) -> list[Segment]:
    """A call in pieces, arguments in the order of the schema.

    Raises:
        BadInput: An argument the tool does not have.
    """
    unknown = set(arguments) - {p.name for p in tool.parameters}
    if unknown:
        raise BadInput(f"{tool.name} has no argument {sorted(unknown)[0]!r}")
    out = [Segment(OPEN, True), Segment(f'{tool.name}"', True), Segment(AFTER_NAME, False)]
    first = True
    for parameter in tool.parameters:
        if parameter.name not in arguments:
            continue
        out.append(Segment(key_text(parameter, first), True))
        value = arguments[parameter.name]
        if parameter.kind == "string":
            out += [Segment('"', False), Segment(escaped(str(value)), True), Segment('"', True)]
        else:
            out.append(Segment(json.dumps(value), True))
        first = False
    return [*out, Segment(CLOSE, True)]


def key_text(parameter: Parameter, first: bool) -> str:
    """An argument's key, with the comma before it."""
    return f'{"" if first else ", "}"{parameter.name}": '


def escaped(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def values_for(parameter: Parameter, question: str, images: int) -> list[Any]:
    """Values the question allows for an argument that is no text; empty where it offers none."""
    match parameter.kind:
        case "image":
            return list(range(1, images + 1))
        case "enum" | "boolean":
            return list(parameter.values)
        case "integer" | "number":
            found = numbers_in(question)
            kept = [n for n in found if parameter.allows(n)]
            whole = [int(n) if n == int(n) else n for n in kept]
            return list(dict.fromkeys(whole))
    return []


def fallback(parameter: Parameter) -> Any:
    """A valid value for a required argument about which the question says nothing."""
    if parameter.default is not None:
        return parameter.default
    if parameter.kind in ("integer", "number", "image"):
        start = next((b for b in (parameter.minimum, parameter.maximum) if b is not None), 0.0)
        if parameter.minimum is None and parameter.maximum is not None and parameter.maximum >= 0:
            start = 0.0
        return int(-(-start // 1)) if parameter.kind in ("integer", "image") else start
    return parameter.values[0] if parameter.values else ""


def numbers_in(text: str) -> list[float]:
    """Numbers written in a text, small ones also as words, in their order."""
    return [float(m.group(0)) for m in _NUMBER.finditer(digits_for_words(text))]


def digits_for_words(text: str) -> str:
    """The text with small numbers in digits."""
    return re.sub(rf"\b({'|'.join(_WORDS)})\b", lambda m: str(_WORDS.index(m.group(0).lower())), text, flags=re.I)


def passages(text: str) -> str:
    """The text that text arguments may be copied from: one line, nothing that would have to be escaped."""
    return " ".join(re.sub(r'["\\\x00-\x1f]', " ", text).split())
