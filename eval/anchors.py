"""Published numbers to put beside ours, each marked as measured on other items."""

from __future__ import annotations

from dataclasses import dataclass

NOT_THE_SAME = "not the same items"


@dataclass(frozen=True)
class Anchor:
    """One published number, in per cent, and where it was read."""

    system: str
    metric: str
    value: float
    source: str


_PATHMMU = "PathMMU leaderboard (repository README)"
_REFPATH = "PCRP README"
_LLAVA_MED = "LLaVA-Med README"
_OSTB = "OSTB README"

ANCHORS: dict[str, tuple[Anchor, ...]] = {
    "pathmmu": (
        Anchor("expert pathologists", "test_tiny", 71.8, _PATHMMU),
        Anchor("GPT-4V", "test_tiny", 53.9, _PATHMMU),
        Anchor("GPT-4V", "ALL", 49.8, _PATHMMU),
        Anchor("LLaVA-1.5-13B", "ALL", 37.6, _PATHMMU),
        Anchor("GPT-4 Turbo, text only", "ALL", 38.1, _PATHMMU),
        Anchor("random", "ALL", 23.7, _PATHMMU),
    ),
    "refpath": (
        Anchor("PKNet", "Acc@0.70 at 40x", 80.5, _REFPATH),
        Anchor("PKNet", "Acc@0.50 at 20x", 61.7, _REFPATH),
        Anchor("PCRP", "Acc@0.70 at 40x", 85.0, _REFPATH),
        Anchor("PCRP", "Acc@0.50 at 20x", 78.2, _REFPATH),
    ),
    "pathvqa": (
        Anchor("LLaVA-Med, fine-tuned", "closed accuracy", 91.7, _LLAVA_MED),
        Anchor("LLaVA-Med, fine-tuned", "open recall", 39.6, _LLAVA_MED),
        Anchor("LLaVA, zero-shot", "closed accuracy", 63.2, _LLAVA_MED),
        Anchor("LLaVA, zero-shot", "open recall", 7.7, _LLAVA_MED),
    ),
    "pmeb-style": (
        Anchor("KEEP", "zero-shot NCT-CRC", 85.0, _OSTB),
        Anchor("CONCH", "zero-shot NCT-CRC", 61.3, _OSTB),
        Anchor("PLIP", "zero-shot NCT-CRC", 63.0, _OSTB),
        Anchor("CLIP ViT-B/32", "zero-shot NCT-CRC", 24.1, _OSTB),
    ),
}


def anchors_for(task: str) -> tuple[Anchor, ...]:
    """Anchors of a task, or none."""
    return next((found for name, found in ANCHORS.items() if task.startswith(name)), ())
