"""Errors that a user can cause or must know of.

PathAssistError            base: one clear line, and the exit code and HTTP status it maps to
├── BadInput               the image, question or option is not acceptable (exit 2, HTTP 400)
├── TooLarge               the input is over a cap (exit 2, HTTP 413)
└── NotAvailable           weights, hardware or an optional package is missing (exit 1, HTTP 503)
"""

from __future__ import annotations


class PathAssistError(Exception):
    """Base of all errors shown to users.

    Attributes:
        exit_code: Process exit code of the command line.
        status: HTTP status of the API.
        code: Short machine-readable name, as in OpenAI's error objects.
    """

    exit_code = 1
    status = 500
    code = "internal_error"


class BadInput(PathAssistError):
    """The input itself is wrong; the same call will fail again."""

    exit_code = 2
    status = 400
    code = "invalid_input"


class TooLarge(BadInput):
    """The input is over a size cap."""

    status = 413
    code = "too_large"


class NotAvailable(PathAssistError):
    """Something needed is not installed, not downloaded or not present on this machine."""

    exit_code = 1
    status = 503
    code = "not_available"
