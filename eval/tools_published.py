"""What papers report for tasks like our tools', and the goals the tools were built towards.

Written down without the papers at hand, and on other items than ours: compare with the papers before citing.
"""

from __future__ import annotations

#: From the papers, each on other items than ours.
_HOVER, _MILD = "HoVer-Net (Graham et al. 2019)", "MILD-Net (Graham et al. 2019)"
PUBLISHED: dict[str, tuple[tuple[str, str, str, float], ...]] = {
    "segment_nuclei": (
        (_HOVER, "PQ", "Kumar test", 0.597),
        (_HOVER, "AJI", "Kumar test", 0.618),
        (_HOVER, "Dice", "Kumar test", 0.826),
        (_HOVER, "PQ", "CoNSeP test", 0.547),
        (_HOVER, "AJI", "CoNSeP test", 0.571),
        (_HOVER, "Dice", "CoNSeP test", 0.853),
        (_HOVER, "F1 of epithelial nuclei", "CoNSeP test", 0.635),
        (_HOVER, "F1 of inflammatory nuclei", "CoNSeP test", 0.631),
        (_HOVER, "F1 of spindle nuclei", "CoNSeP test", 0.566),
        (_HOVER, "F1 of other nuclei", "CoNSeP test", 0.426),
    ),
    "segment_glands": (
        (_MILD, "object Dice", "GlaS test A", 0.913), (_MILD, "object Dice", "GlaS test B", 0.836),
        (_MILD, "object F1", "GlaS test A", 0.914), (_MILD, "object F1", "GlaS test B", 0.844),
    ),
}  # fmt: skip
#: Tool, metric, data, limit, and whether the value must be at least or at most that.
GOALS = (
    ("segment_nuclei", "PQ", "consep_patches val", 0.45, ">="),
    ("segment_nuclei", "PQ", "monuseg val", 0.50, ">="),
    ("segment_nuclei", "median relative count error", "monuseg val", 0.15, "<="),
    ("segment_nuclei", "median relative count error", "consep_patches val", 0.15, "<="),
    ("segment_nuclei", "median relative count error", "dsb2018_stained val", 0.15, "<="),
    ("segment_glands", "object Dice", "glas val", 0.85, ">="),
    ("detect_blood_cells", "mAP@0.5", "bccd val", 0.80, ">="),
    ("classify_cervical_cell", "balanced accuracy", "cervical val, 7 classes, chance 0.14", 0.60, ">="),
)
