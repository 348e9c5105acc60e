"""From a phrase to boxes."""

from assistant.grounding.ground import Grounder, load_grounder

__all__ = ["Grounder", "load_grounder"]
