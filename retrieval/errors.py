"""Errors of the case library. This package knows nothing of ``assistant``; ``assistant.cases`` translates them.

RetrievalError           base: one clear line
├── BadRequest           the call itself is wrong: URL, filter, vectors, a store of another encoder
│   └── StoreMismatch    the vectors of the caller and of the store do not belong together
└── StoreFailure         the store cannot do it now: disk full, server away
    └── StoreBusy        another process is writing
"""

from __future__ import annotations


class RetrievalError(Exception):
    """Base of all errors shown to users."""


class BadRequest(RetrievalError):
    """The same call will fail again."""


class StoreMismatch(BadRequest):
    """Encoder, preprocessing, dimension or metric differ from the store's."""


class StoreFailure(RetrievalError):
    """The store is damaged, full or away; what was committed before stays."""


class StoreBusy(StoreFailure):
    """Another process holds the writer's lock."""
