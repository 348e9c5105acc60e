"""``classify_tissue`` and ``classify_cervical_cell``: logistic heads on PathCLIP-small."""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image

from assistant.errors import BadInput
from assistant.tools import fields
from assistant.tools.base import Card, Context, ToolResult, tool

Site = Literal["auto", "colorectal", "lung", "oral", "lymph node"]

NORMAL_CERVICAL = ("normal superficial", "normal intermediate", "normal columnar")
_SURE = 0.5


@tool(
    Card(
        task="Name the tissue class of a colorectal, lung, oral or lymph-node field, or say that it is none of these.",
        training_data=(
            "LC25000 lung, oral OSCC, PCam (open); colorectal polyps (no licence stated: research only); "
            "atlas, BCCD and Herlev as 'other'"
        ),
        licence="research-only for colorectal, Apache-2.0 for the rest",
        stains=("H&E",),
        magnifications="tiles as in the sets: 96 to 768 px at 10x to 40x",
        limits="knows the classes of four sets only; whole slides and other organs are 'other' at best",
    ),
    timeout=60,
)
def classify_tissue(image: Image.Image, context: Context, site: Site = "auto") -> ToolResult:
    """Classify an H&E field: colorectal polyp type, lung tumour type, oral carcinoma or lymph-node metastasis.

    The answer may be "other": none of the classes it knows.

    Args:
        image: Field to classify.
        site: Where it was taken, if known; auto lets the tool decide.
    """
    from assistant.tools.features import pooled_features
    from assistant.tools.heads import load_head

    fields.require_field(image)
    stain, _ = fields.guess_stain(image)
    if stain == "DAB immunostain":
        raise BadInput("the field looks like a DAB immunostain, and this tool reads H&E; use score_ihc")
    if site == "colorectal" and not context.research:
        raise BadInput("the colorectal classes are for research only and switched off here; allow research tools")
    features = pooled_features([image])
    where = load_head("site" if context.research else "site-open")
    shares = dict(zip(where.classes, where.probabilities(features)[0].tolist(), strict=True))
    best = max(shares, key=lambda name: shares[name])
    numbers: dict[str, Any] = {"site_probabilities": {name: round(p, 4) for name, p in shares.items()}}
    likely_other = best == "other" or shares[best] < where.threshold
    if site == "auto" and likely_other:
        return ToolResult("Other: none of the tissues this tool knows.", numbers | {"site": "other", "label": "other"})
    chosen = best if site == "auto" else site
    head = load_head(chosen.replace(" ", "-"))
    classes = dict(zip(head.classes, head.probabilities(features)[0].tolist(), strict=True))
    label = max(classes, key=lambda name: classes[name])
    numbers |= {"site": chosen, "label": label, "probability": round(classes[label], 4)}
    numbers["probabilities"] = {name: round(p, 4) for name, p in classes.items()}
    warnings = []
    if site != "auto" and (likely_other or best != site):
        warnings.append(f"the field does not look like {site} (looks like: {'other' if likely_other else best})")
    if classes[label] < _SURE:
        warnings.append("no class is likelier than one half")
    if chosen == "colorectal":
        warnings.append("colorectal classes were learned from data without a stated licence: research only")
    return ToolResult(f"{label} ({chosen}), probability {classes[label]:.2f}.", numbers, warnings=tuple(warnings))


@tool(
    Card(
        task="Name the class of one Pap-stained cervical cell (7 Herlev classes) and whether it is normal or abnormal.",
        training_data="Herlev Pap smear images (no licence stated)",
        licence="research-only",
        stains=("Papanicolaou",),
        magnifications="one cell that fills the image, about 0.2 µm per pixel",
        research_only=True,
        limits="one cell at a time, cut out by hand; neighbouring grades of dysplasia are often confused",
    ),
    timeout=60,
)
def classify_cervical_cell(image: Image.Image) -> ToolResult:
    """Classify one Pap-stained cervical cell into the seven Herlev classes, with normal against abnormal.

    Args:
        image: One cell, filling the image.
    """
    from assistant.tools.features import pooled_features
    from assistant.tools.heads import load_head

    fields.require_field(image)
    stain, _ = fields.guess_stain(image)
    head = load_head("cervical")
    shares = dict(zip(head.classes, head.probabilities(pooled_features([image]))[0].tolist(), strict=True))
    label = max(shares, key=lambda name: shares[name])
    abnormal = sum(p for name, p in shares.items() if name not in NORMAL_CERVICAL)
    numbers = {
        "label": label,
        "probability": round(shares[label], 4),
        "probabilities": {name: round(p, 4) for name, p in shares.items()},
        "abnormal_probability": round(abnormal, 4),
        "summary": "abnormal" if abnormal >= _SURE else "normal",
    }
    warnings = ["learned from data without a stated licence: research only"]
    if stain == "DAB immunostain" or max(image.size) > 4 * min(image.size):
        warnings.append("this does not look like one Pap-stained cell")
    return ToolResult(
        f"{label}, probability {shares[label]:.2f}; {numbers['summary']} (abnormal {abnormal:.2f}).",
        numbers,
        warnings=tuple(warnings),
    )
