"""Comparison of open answers, exactly as the published PathVQA numbers were computed, and stricter beside it.

LLaVA-Med: ``normalize_word`` (``llava/eval/eval_metrics/glossary.py``), ``calculate_exactmatch`` and
``calculate_f1score`` (``llava/eval/eval_metrics/evaluate_metrics.py``) and NLTK's ``sentence_bleu`` as called in
``llava/eval/run_eval.py`` of microsoft/LLaVA-Med. PA-LLaVA: ``pre_answer`` and equality
(``xtuner_add/tool_add/VQAEval.py`` of ddw2AIGROUP2CQUPT/PA-LLaVA).
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter

_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(_DIGITS)}
#: Words that lost their apostrophe. The published table also has keys with a capital I, which never match lower case.
_ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't"
    " it'd it'll ma'am mightn't might've mustn't must've needn't o'clock oughtn't shan't should've shouldn't"
    " somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's"
    " they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd"
    " where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're"
    " you've"
)
#: Words that lost one of two apostrophes.
_TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've someone'd've something'd've there'd've"
    " they'd've we'd've who'd've wouldn't've y'all'll you'd've"
)


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _TWO_APOSTROPHES.split():
        first, second, third = word.split("'")
        table[f"{first}'{second}{third}"] = table[f"{first}{second}'{third}"] = word
    table |= {"somebody'd": "somebodyd", "somebodyd've": "somebody'd've", "somebody'dve": "somebody'd've"}
    table |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    table |= {"yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've"}
    return table


_CONTRACTIONS = _contractions()
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
#: The published code passes ``re.UNICODE`` (32) where ``sub`` expects how many to replace.
_PERIODS_REPLACED = 32
_PRE_ANSWER = re.compile(r"([,.'!?\"()*#:;~])")


def llava_med_normalise(text: str) -> str:
    """The VQA normalisation of LLaVA-Med: punctuation, number words, articles, lost apostrophes."""
    joined = bool(_COMMA_IN_NUMBER.search(text))
    out = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space or joined else " ")
    out = _PERIOD.sub("", out, _PERIODS_REPLACED)
    words = [_NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES).replace(",", "")


def llava_med_scores(said: str, wanted: str) -> dict[str, float]:
    """All open-question scores of LLaVA-Med's ``run_eval.py`` for one answer.

    Its "exact match" is no exact match: it is the number of distinct words shared, over the words said.

    Returns:
        ``exact`` (as published), ``f1``, ``precision``, ``recall``, ``bleu``, ``bleu_1``, ``bleu_2``, ``bleu_3``.
    """
    said, wanted = llava_med_normalise(said.lower()), llava_med_normalise(wanted.lower())
    bleus = {
        "bleu": sentence_bleu(said, wanted),
        "bleu_1": sentence_bleu(said, wanted, (1.0,)),
        "bleu_2": sentence_bleu(said, wanted, (0.0, 1.0)),
        "bleu_3": sentence_bleu(said, wanted, (0.0, 0.0, 1.0)),
    }
    said, wanted = llava_med_normalise(said), llava_med_normalise(wanted)  # as published: all but BLEU normalise twice
    words, right = Counter(said.split()), Counter(wanted.split())
    total = words.total()
    exact = sum(word in words for word in right) / total if total else 0.0
    # As published: a shared word counts as often as it was *said*.
    tp = sum(count for word, count in words.items() if word in right)
    fn = sum(count for word, count in right.items() if word not in words)
    precision = tp / total if total else 0.0
    recall = tp / (tp + fn) if right and total else 0.0
    f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
    if not tp:
        precision = recall = 0.0
    return {"exact": exact, "f1": f1, "precision": precision, "recall": recall} | bleus


def llava_med_closed(said: str, wanted: str) -> float | None:
    """LLaVA-Med's yes/no score: 1, 0, or None where the published code counts the item nowhere.

    An answer that holds "yes" or "no" (also inside a word, as in "normal") but not the right one is left out of the
    denominator, which flatters the accuracy; see :func:`yes_no` for the strict one.
    """
    said, wanted = llava_med_normalise(said.lower()), llava_med_normalise(wanted.lower())
    if "yes" in said or "no" in said:
        return 1.0 if wanted in said else None
    return 0.0


def pa_llava_normalise(text: str) -> str:
    """``pre_answer`` of PA-LLaVA."""
    out = _PRE_ANSWER.sub("", text.lower()).replace(" \t", " ")
    return out.replace("x ray", "xray").replace("x-ray", "xray").replace(" - ", "-")


def pa_llava_exact(said: str, wanted: str) -> bool:
    """Equality after ``pre_answer``, for closed and open questions alike."""
    return pa_llava_normalise(said) == pa_llava_normalise(wanted)


def yes_no(text: str) -> str | None:
    """The strict reading of a closed answer: its first word is yes or no; None for anything else."""
    first = re.match(r"\W*(yes|no)\b", text.lower())
    return first.group(1) if first else None


def token_f1(said: str, wanted: str) -> float:
    """Harmonic mean of token precision and recall with multiplicity (SQuAD), on lower-case words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (said, wanted))
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else float(a == b)


def sentence_bleu(said: str, wanted: str, weights: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)) -> float:
    """BLEU of one sentence against one reference, as NLTK computes it without smoothing.

    A precision of zero stands for the smallest positive float (so BLEU-4 of a short answer is nearly 0, not NaN), and
    no shared word at all is 0.
    """
    a, b = said.split(), wanted.split()
    total = 0.0
    for n, weight in enumerate(weights, 1):
        grams, reference = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (a, b))
        shared = (grams & reference).total()
        if n == 1 and not shared:
            return 0.0
        precision = shared / max(1, grams.total()) if shared else sys.float_info.min
        total += weight * math.log(precision)
    penalty = 1.0 if len(a) > len(b) else math.exp(1 - len(b) / len(a))
    return penalty * math.exp(total)
