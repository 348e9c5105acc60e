"""All tools by name: our own, adapters, and those of other packages (entry-point group ``pathassist.tools``).

    [project.entry-points."pathassist.tools"]
    count_dots = "their_package.dots:count_dots"

An entry point names a :class:`~assistant.tools.base.Tool`. One that cannot be imported, or takes a name of ours, is
listed as broken with the reason and does not stop the rest.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata

from assistant.errors import BadInput, NotAvailable
from assistant.tools.adapters import FOLDERS, missing
from assistant.tools.base import Tool

GROUP = "pathassist.tools"

BUILTIN = (
    "assistant.tools.quality:check_quality",
    "assistant.tools.nuclei:segment_nuclei",
    "assistant.tools.glands:segment_glands",
    "assistant.tools.tissue:segment_tissue",
    "assistant.tools.blood:detect_blood_cells",
    "assistant.tools.ground:ground_phrase",
    "assistant.tools.ihc:score_ihc",
    "assistant.tools.classify:classify_tissue",
    "assistant.tools.classify:classify_cervical_cell",
    "assistant.tools.normalise:normalise_stain",
    "assistant.tools.similar:find_similar_cases",
)


@dataclass(frozen=True)
class Registry:
    """Tools by name, and why others could not be had.

    Attributes:
        tools: What can be called.
        broken: Other packages' tools that cannot be imported → reason.
        waiting: Adapters whose weights are not included and were not given → what to do.
    """

    tools: dict[str, Tool] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tool:
        """The tool of that name.

        Raises:
            BadInput: No such tool; the message lists those there are.
            NotAvailable: Another package's tool that could not be imported.
        """
        if name in self.tools:
            return self.tools[name]
        if name in self.waiting:
            raise NotAvailable(f"the tool {name} cannot be used yet: {self.waiting[name]}")
        if name in self.broken:
            raise NotAvailable(f"the tool {name!r} cannot be used: {self.broken[name]}; reinstall its package")
        raise BadInput(f"there is no tool {name[:60]!r}; there are: {', '.join(self.tools)}")


def resolve(origin: str) -> Tool:
    """The tool at ``module:attribute``.

    Raises:
        NotAvailable: It cannot be imported, or is something else.
    """
    module, _, attribute = origin.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # another package's module may raise anything
        raise NotAvailable(f"{origin} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tool):
        raise NotAvailable(f"{origin} is a {type(found).__name__}, not a tool; decorate it with assistant.tools.tool")
    return found


@lru_cache(maxsize=1)
def find_tools() -> Registry:
    """Our tools, adapters with weights, then tools of other packages; read once per process."""
    tools = {found.name: found for found in map(resolve, BUILTIN)}
    broken: dict[str, str] = {}
    waiting: dict[str, str] = {}
    for name in FOLDERS:
        reason = missing(name)
        if reason is None:
            tools[name] = resolve(f"assistant.tools.adapters:{name}")
        else:
            waiting[name] = reason
    for entry in metadata.entry_points(group=GROUP):
        if entry.name in tools or entry.name in waiting:
            broken[f"{entry.name} ({entry.value})"] = "its name is taken"
            continue
        try:
            found = resolve(entry.value)
        except NotAvailable as error:
            broken[entry.name] = str(error)
        else:
            if found.name == entry.name:
                tools[entry.name] = found
            else:
                broken[entry.name] = f"{entry.value} calls itself {found.name!r}"
    return Registry(tools, broken, waiting)
