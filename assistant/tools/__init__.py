"""Sub-models as tools: functions with a card and a schema, run where they cannot take the chat down with them."""

from __future__ import annotations

from assistant.tools.base import Card, Context, Measured, Tool, ToolResult, tool
from assistant.tools.registry import Registry, find_tools
from assistant.tools.run import ToolCall, ToolState, run_call
from assistant.tools.schema import check_arguments, json_schema, openai_schema, parse_call

__all__ = [
    "Card",
    "Context",
    "Measured",
    "Registry",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolState",
    "check_arguments",
    "find_tools",
    "json_schema",
    "openai_schema",
    "parse_call",
    "run_call",
    "tool",
]
