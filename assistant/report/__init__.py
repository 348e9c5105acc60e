"""A structured draft of what an image shows, with the evidence behind every statement.

    report = draft(answer, image, questions="Which organ is this?")
    report.save("report.pdf")      # .html, .pdf, .docx or .json

Research use only: the draft is material for a reader, not a diagnosis.
"""

from __future__ import annotations

from assistant.report.draft import draft
from assistant.report.model import (
    Candidate,
    Evidence,
    Mark,
    Measurement,
    Picture,
    Provenance,
    Report,
    Similar,
    Statement,
)

__all__ = [
    "Candidate",
    "Evidence",
    "Mark",
    "Measurement",
    "Picture",
    "Provenance",
    "Report",
    "Similar",
    "Statement",
    "draft",
]
