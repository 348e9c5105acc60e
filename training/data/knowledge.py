"""Synonyms of organs and diseases from MONDO and UBERON, for captions that do not always use the same word.

The vocabulary comes with the optional package ``cellxgene-ontology-guide`` (extra ``[knowledge]``, MIT; the ontologies
are CC BY 4.0). Without it every term is its own only synonym and training goes on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

#: Which ontology holds the terms of a kind of fact.
ONTOLOGY = {"organ": "UBERON", "diagnosis": "MONDO", "lung": "MONDO", "oral": "MONDO"}
_SPELLING = (("tumour", "tumor"), ("necrotising", "necrotizing"), ("metaplasia, dysplasia and carcinoma", ""))
#: Words that mark a synonym as a code or a database's own name rather than what one would write.
_CLUTTER = ("(disease)", "(morphologic", " nos", "malignant neoplasm of", "obsolete")


@lru_cache(maxsize=1)
def _parser() -> Any | None:
    try:
        from cellxgene_ontology_guide.ontology_parser import OntologyParser
    except ModuleNotFoundError:
        return None
    return OntologyParser()


@lru_cache(maxsize=4)
def _labels(ontology: str) -> dict[str, str]:
    """Lower-case label → term id of one ontology."""
    parser = _parser()
    return {} if parser is None else {k.lower(): v for k, v in parser.get_term_label_to_id_map(ontology).items()}


def available() -> bool:
    """True when the vocabulary is installed."""
    return _parser() is not None


@lru_cache(maxsize=4096)
def synonyms(kind: str, term: str) -> tuple[str, ...]:
    """Other words for ``term``, without ``term`` itself; empty for kinds and terms the ontologies do not have.

    Args:
        kind: Name of a fact, for example ``"organ"``.
        term: Its value.
    """
    parser, ontology = _parser(), ONTOLOGY.get(kind)
    if parser is None or ontology is None:
        return ()
    plain = term.lower()
    for ours, theirs in _SPELLING:
        plain = plain.replace(ours, theirs)
    found = _labels(ontology).get(plain)
    if found is None:
        return ()
    names = parser.get_term_synonyms(found)
    kept = {n for n in names if n.lower() not in (term.lower(), plain) and not any(c in n.lower() for c in _CLUTTER)}
    return tuple(sorted(n for n in kept if 3 < len(n) <= 60))
