"""What a phrase's words look like on a slide: the implicit knowledge that grounding in pathology needs (PathVG).

``knowledge.yaml`` holds terms with their visible features, written for this project. Words it lacks are looked up in
MONDO, UBERON and CL where the extra ``[knowledge]`` is installed; their definitions say what a thing is, if not always
how it looks.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("knowledge.yaml")
_ONTOLOGIES = ("CL", "UBERON", "MONDO")
#: Longest text handed to the matcher, in characters.
LONGEST = 320


@lru_cache(maxsize=1)
def terms() -> tuple[tuple[str, str, str], ...]:
    """(name, term, visible features) of every term and other name, longest name first."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    found = [(name.lower(), r["term"], r["looks"]) for r in rows for name in (r["term"], *r["also"])]
    return tuple(sorted(found, key=lambda row: -len(row[0])))


def expand(phrase: str, *, ontologies: bool = True) -> str:
    """What is known of the words of a phrase, one sentence a term; "" where nothing is.

    The longest name wins where names overlap, so that "red blood cell" is not also a "cell".
    """
    left = f" {phrase.lower()} "
    said: list[tuple[int, str]] = []
    for name, term, looks in terms():
        at = _word(name).search(left)
        if at is not None:
            sentence = f"{term}: {looks}"
            if sentence not in (s for _, s in said):
                said.append((at.start(), sentence))
            left = _word(name).sub(lambda m: " " * len(m.group()), left)
    if ontologies and not said:
        said = [(0, text) for text in _defined(" ".join(left.split()))]
    return "; ".join(text for _, text in sorted(said))[:LONGEST]


@lru_cache(maxsize=2048)
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?:s|es)?(?![\w-])")


@lru_cache(maxsize=1)
def _parser() -> Any | None:
    try:
        from cellxgene_ontology_guide.ontology_parser import OntologyParser
    except ModuleNotFoundError:
        return None
    return OntologyParser()


@lru_cache(maxsize=3)
def _labels(ontology: str) -> dict[str, str]:
    parser = _parser()
    return {} if parser is None else {k.lower(): v for k, v in parser.get_term_label_to_id_map(ontology).items()}


def _defined(words: str) -> list[str]:
    """The definition of the longest run of words that is an ontology's term."""
    parser, tokens = _parser(), re.findall(r"[a-z][a-z-]+", words)
    if parser is None:
        return []
    for length in range(min(5, len(tokens)), 0, -1):
        for start in range(len(tokens) - length + 1):
            name = " ".join(tokens[start : start + length])
            if length == 1 and len(name) < 5:
                continue
            for ontology in _ONTOLOGIES:
                term = _labels(ontology).get(name) or _labels(ontology).get(name.rstrip("s"))
                text = parser.get_term_description(term) if term else None
                if text:
                    return [f"{name}: {text}"]
    return []
