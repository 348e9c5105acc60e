"""Similar cases: reads what users have into a case library, and searches it with images and words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from assistant.errors import BadInput, NotAvailable
from retrieval.errors import BadRequest, RetrievalError

__all__ = ["our_errors"]


@contextmanager
def our_errors() -> Iterator[None]:
    """Errors of ``retrieval`` as errors of the assistant, with their exit code and HTTP status."""
    try:
        yield
    except BadRequest as error:
        raise BadInput(str(error)) from error
    except RetrievalError as error:
        raise NotAvailable(str(error)) from error
