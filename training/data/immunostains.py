"""Names of immunostains, so that a text tower learns that any of them is brown on blue, whichever marker it names.

The open sets hold one immunostained slide. Chromogranin and synaptophysin, which slides of ``val`` are stained for, are
left out: they are what shows whether names that training never saw are understood.
"""

from __future__ import annotations

import random

MARKERS = (
    "adenovirus", "AFP", "ALK", "androgen receptor", "arginase", "BCL2", "BCL6", "beta-catenin", "CD3", "CD10", "CD15",
    "CD20", "CD30", "CD31", "CD34", "CD45", "CD56", "CD68", "CD117", "CD138", "CDX2", "CEA", "CK7", "CK20", "CMV",
    "calcitonin", "calretinin", "cyclin D1", "cytokeratin", "D2-40", "desmin", "DOG1", "E-cadherin", "EBV LMP1", "EMA",
    "gastrin", "GATA3", "GFAP", "glucagon", "glypican 3", "HER2", "HHV8", "HMB45", "IgG4", "inhibin", "INSM1",
    "insulin", "Ki-67", "Melan-A", "MLH1", "MSH2", "myogenin", "NSE", "oestrogen receptor", "p16", "p40", "p53", "p63",
    "PAX8", "PD-L1", "progesterone receptor", "PSA", "S100", "serotonin", "smooth muscle actin", "somatostatin",
    "SOX10", "TdT", "thyroglobulin", "TTF-1", "vimentin", "WT1",
)  # fmt: skip
_WAYS = (
    "{} IHC", "{} immunohistochemistry", "{} immunostain", "immunohistochemistry for {}", "{} antibody, DAB",
)  # fmt: skip


def immunostain(rng: random.Random, marker: str | None = None) -> str:
    """A marker, by default any, in one of the ways an immunostain is named."""
    return rng.choice(_WAYS).format(marker or rng.choice(MARKERS))
