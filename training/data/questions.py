"""Four-choice questions from records; one builder serves training (mixed wording) and evaluation (held-out wording).

Distractors are drawn per record from a seeded generator keyed by the record's id, so a question never depends on which
other records are present, and the order of options is a uniform shuffle.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.data.phrases import ASK_HELD_OUT
from training.data.records import Record

OPTIONS = 4

ORGANS = (
    "adipose tissue", "adnexa", "adrenal gland", "appendix", "bone", "brain", "breast", "colon", "duodenum", "ear",
    "esophagus", "gallbladder", "kidney", "liver", "lung", "lymph node", "meninges", "oral mucosa", "pancreas",
    "peritoneum", "pituitary", "placenta", "skin", "small intestine", "soft tissue", "spleen", "stomach", "uterus",
)  # fmt: skip
STAINS = (
    "H&E", "PAS", "PAS-diastase", "Giemsa", "Warthin-Starry", "Helicobacter pylori IHC", "chromogranin IHC",
    "synaptophysin IHC", "Masson trichrome", "Congo red", "Papanicolaou",
)  # fmt: skip
CATEGORIES = (
    "inflammatory", "malignant neoplasm", "infectious", "benign neoplasm", "degenerative", "metabolic", "heterotopia",
    "benign lesion", "vascular", "foreign body",
)  # fmt: skip
LABELS: dict[str, tuple[str, ...]] = {
    "lung": ("normal lung", "lung adenocarcinoma", "lung squamous cell carcinoma"),
    "oral": ("normal oral mucosa", "oral squamous cell carcinoma"),
    "node": ("metastasis in the centre", "no metastasis in the centre"),
    "colorectal": ("adenocarcinoma", "normal mucosa", "serrated lesion", "tubular adenoma", "villous adenoma"),
    "cervical": (
        "carcinoma in situ", "light dysplastic", "moderate dysplastic", "normal columnar", "normal intermediate",
        "normal superficial", "severe dysplastic",
    ),
    "leucocyte": ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"),
}  # fmt: skip
#: Fillers for sets with fewer than four labels: labels of other tissues, wrong for certain.
FILLERS: dict[str, tuple[str, ...]] = {
    "lung": ("normal oral mucosa", "tubular adenoma of the colon", "normal gastric mucosa", "glioblastoma"),
    "oral": ("normal lung", "lung adenocarcinoma", "tubular adenoma of the colon", "normal gastric mucosa"),
    "node": ("normal gastric mucosa", "normal oral mucosa", "normal lung", "tubular adenoma of the colon"),
}
#: Which organs look alike or overlap, so that neither is offered as a wrong answer for the other.
_OVERLAPS = (
    {"duodenum", "small intestine"}, {"adnexa", "uterus"}, {"adipose tissue", "soft tissue"},
    {"meninges", "brain", "bone"}, {"colon", "appendix"},
)  # fmt: skip
#: Kinds of question asked of each set in the four-choice benchmark.
KINDS: dict[str, tuple[str, ...]] = {
    "atlas": ("organ", "stain", "diagnosis"),
    "atlas_overviews": ("organ",),
    "lc25000_lung": ("lung",),
    "oral_oscc": ("oral",),
    "pcam_1k": ("node",),
    "crc_polyp5": ("colorectal",),
    "herlev_pap": ("cervical",),
    "wbc_seg": ("leucocyte",),
}


@dataclass(frozen=True)
class ChoiceQuestion:
    """A four-choice question about one record.

    Attributes:
        answer: Index of the right option.
        kind: Which fact is asked for.
    """

    record: Record
    kind: str
    stem: str
    options: tuple[str, ...]
    answer: int

    @property
    def id(self) -> str:
        return f"{self.record.id}#{self.kind}"


def vocabulary(kind: str, diagnoses: tuple[str, ...] = ()) -> tuple[str, ...]:
    """All labels that may stand as options of this kind."""
    match kind:
        case "organ":
            return ORGANS
        case "stain":
            return STAINS
        case "category":
            return CATEGORIES
        case "diagnosis" | "findings":
            return diagnoses
    return LABELS[kind]


def _is_immunostain(name: str) -> bool:
    """Whichever marker it names: markers cannot be told apart in a field."""
    return name.endswith("IHC") or name == "immunohistochemistry"


def draw_options(kind: str, right: str, rng: random.Random, pool: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Three wrong options beside the right one, shuffled. Returns (options, index of the right one)."""
    own = [o for o in pool if o != right]
    if kind == "organ":
        clash = set().union(*(s for s in _OVERLAPS if right in s))
        own = [o for o in own if o not in clash]
    if kind == "stain" and _is_immunostain(right):
        own = [o for o in own if not _is_immunostain(o)]
    if kind == "stain" and right.startswith("PAS"):
        own = [o for o in own if not o.startswith("PAS")]
    rng.shuffle(own)
    wrong = own[: OPTIONS - 1]
    if len(wrong) < OPTIONS - 1:
        wrong += rng.sample(FILLERS[kind], OPTIONS - 1 - len(wrong))
    options = [right, *wrong]
    rng.shuffle(options)
    return tuple(options), options.index(right)


def diagnosis_names(records: list[Record]) -> tuple[str, ...]:
    """All diagnoses of some records, sorted: the pool of wrong options."""
    return tuple(sorted({r.facts["diagnosis"] for r in records if "diagnosis" in r.facts}))


def four_choice(records: list[Record], diagnoses: tuple[str, ...], seed: int = 0) -> list[ChoiceQuestion]:
    """The benchmark: every kind in ``KINDS`` for every record that has the fact, in held-out wording.

    Args:
        records: What to ask about.
        diagnoses: Pool of diagnosis options: those of the whole collection, so that names seen in training stand
            beside names never seen.
        seed: Changes distractors, order and wording.
    """
    questions = []
    for record in records:
        for kind in KINDS.get(record.dataset, ()):
            right = record.facts.get(kind)
            pool = vocabulary(kind, diagnoses)
            if right is None or (kind == "organ" and right not in pool):
                continue
            rng = random.Random(f"{seed}:{record.id}:{kind}")  # noqa: S311 - reproducible, not secret
            options, answer = draw_options(kind, right, rng, pool)
            stem = rng.choice(ASK_HELD_OUT[kind])
            questions.append(ChoiceQuestion(record, kind, stem, options, answer))
    return questions
