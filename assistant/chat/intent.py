"""Which tools a question is about: a small classifier over its words and its meaning.

Hashed words, word pairs and letter groups (Weinberger et al. 2009) beside the sentence vector of the packaged MiniLM,
whose upper layers carry low-rank changes (Hu et al. 2021) learned for this; one logistic output a tool, trained by
``training.tool_intent`` on generated requests. A question is read as a whole and clause by clause ("count the nuclei
and then score the Ki-67" has two), and both readings are weighed. Most questions need no tool; for them no language
model is read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.errors import NotAvailable

DIMENSIONS = 1 << 14
SENTENCE = 384
FILE = "intent.safetensors"
MAX_CLAUSES = 12
MAX_TOKENS = 96
_REMEMBERED = 8
_WORD = re.compile(r"[a-z0-9µ+-]+")
_IMAGE = re.compile(r"\b(?:image|picture|photo|field|view|tile|slide|micrograph|section|patch)\b")
_CLAUSE = re.compile(
    r"(?<=[.?!:;\n])\s+|\s*;\s*|\s+[+&]\s+|,\s+"
    r"|\s+(?:and|then|plus|also|as well as|besides|along with|but also|before|after|once)\b,?\s+"
)
#: What somebody else wrote, which is no request of the user: quoted after "says", "wrote" and the like, or marked up.
_QUOTED = re.compile(
    r"\b(?:says?|said|reads?|wrote|writes|states?|typed|scribbled|commented|written|printed|tells me)\b"
    r"[^\"'\u201c\u2018.?!]{0,30}"
    r"(?:\"[^\"]{1,200}\"|\u201c[^\u201d]{1,200}\u201d|\u2018[^\u2019]{1,200}\u2019|'[^']{1,200}')"
    r"|<(?:system|note|admin|tool)>.{0,300}?</(?:system|note|admin|tool)>",
    re.IGNORECASE | re.DOTALL,
)


def tokens(text: str) -> list[str]:
    """Features of a text by name: words, neighbouring words, and groups of 4 letters within words."""
    words = _WORD.findall(_IMAGE.sub("image", text.casefold()))
    pairs = [f"{a}_{b}" for a, b in zip(["^", *words], [*words, "$"], strict=True)]
    letters = [f"#{w[i : i + 4]}" for word in words if len(w := f"<{word}>") > 4 for i in range(len(w) - 3)]
    return [*words, *pairs, *letters]


def vector(text: str) -> NDArray[np.float32]:
    """Unit vector [DIMENSIONS] of a text."""
    out = np.zeros(DIMENSIONS, dtype=np.float32)
    for token in tokens(text):
        value = zlib.crc32(token.encode())
        out[value % DIMENSIONS] += 1.0 if value & (1 << 31) else -1.0
    length = float(np.linalg.norm(out))
    return out / length if length else out


def sentence_vectors(texts: Sequence[str], model: Any = None, batch_size: int = 32) -> NDArray[np.float32]:
    """Unit vectors [N, 384] of texts, mean-pooled; ``model`` is a changed MiniLM."""
    import torch

    bert, tokenizer = minilm()
    bert = bert if model is None else model
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), SENTENCE), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = bert(**batch).last_hidden_state
            out[rows] = pooled(states, batch["attention_mask"]).numpy()
    return out


def pooled(states: Any, mask: Any) -> Any:
    """Unit means [N, 384] of states [N, T, 384] where ``mask`` [N, T] is 1."""
    import torch

    weights = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


@lru_cache(maxsize=1)
def minilm() -> tuple[Any, Any]:
    """The packaged MiniLM and its tokenizer."""
    from transformers import AutoTokenizer

    from assistant.model.encoders.pathclip import minilm as packaged
    from assistant.model.store import minilm_folder

    return packaged().eval(), AutoTokenizer.from_pretrained(minilm_folder())


def clauses(text: str) -> list[str]:
    """A text in clauses; a text of one is that text."""
    parts = [part.strip() for part in _CLAUSE.split(text) if re.search(r"[A-Za-z]{2}", part)]
    return parts[:MAX_CLAUSES] or [text]


def own_words(text: str) -> str:
    """The text without what it quotes from others; all of it where nothing else is there."""
    left = _QUOTED.sub(" ", text).strip()
    return left if re.search(r"[A-Za-z]{2}", left) else text


@dataclass(frozen=True, eq=False)
class Intent:
    """The classifier.

    Attributes:
        weights, bias: [tools, DIMENSIONS + 384] and [tools]. scale: Of the sentence vector beside the hashed words.
        low_rank: Changes of MiniLM's weights by name: ``name.a`` [r, in] and ``name.b`` [out, r].
        mix: How the whole text's log-odds, the greatest of its clauses' and a constant are weighed where it has
            several.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    threshold: float = 0.5
    scale: float = 1.0
    low_rank: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0)

    @cached_property
    def _model(self) -> Any:
        """MiniLM with the changes; None where there are none."""
        if not self.low_rank:
            return None
        import copy

        import torch

        changed = copy.deepcopy(minilm()[0])
        names = {key.removesuffix(".a") for key in self.low_rank if key.endswith(".a")}
        with torch.no_grad():
            for name in names:
                delta = self.low_rank[f"{name}.b"] @ self.low_rank[f"{name}.a"]
                changed.get_parameter(f"{name}.weight").add_(torch.from_numpy(delta))
        return changed

    def log_odds(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, tools], each text read as a whole."""
        hashed = np.stack([vector(t) for t in texts])
        odds = (
            hashed @ self.weights[:, :DIMENSIONS].T
            + self.scale * sentence_vectors(texts, self._model) @ self.weights[:, DIMENSIONS:].T
            + self.bias
        )
        return np.asarray(odds, np.float32)

    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text, the probability of each tool that the text asks for it."""
        return [
            dict(zip(self.names, _sigmoid(mixed(rows, self.mix)).tolist(), strict=True)) for rows in self.read(texts)
        ]

    def read(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """For each text the log-odds [1 + clauses, tools] of the whole and, where there are several, of its clauses."""
        parts = [[t, *split] if len(split := clauses(t)) > 1 else [t] for t in map(own_words, texts)]
        odds = self.log_odds([p for ps in parts for p in ps])
        ends = np.cumsum([len(ps) for ps in parts])[:-1]
        return list(np.split(odds, ends))

    @cached_property
    def _recent(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def _reading(self, text: str) -> NDArray[np.float32]:
        """As :meth:`read` for one text; the last few are remembered, since every step of a plan asks again."""
        if text not in self._recent:
            rows = self.read([text])[0]
            while len(self._recent) >= _REMEMBERED:
                self._recent.pop(next(iter(self._recent)), None)
            self._recent[text] = rows
            return rows
        return self._recent[text]

    def wanted(self, text: str) -> list[tuple[str, float]]:
        """Tools the text asks for with their probability, in the order in which its clauses do."""
        rows = self._reading(text)
        chance = _sigmoid(mixed(rows, self.mix))
        first = rows[1:].argmax(axis=0) if len(rows) > 1 else np.zeros(len(self.names))
        found = [i for i in range(len(self.names)) if chance[i] >= self.threshold]
        return [(self.names[i], float(chance[i])) for i in sorted(found, key=lambda i: (first[i], -chance[i]))]

    def clause_of(self, text: str, name: str) -> str:
        """The clause of the text that asks most for a tool."""
        split = clauses(own_words(text))
        if len(split) < 2 or name not in self.names:
            return text
        return split[int(self._reading(text)[1:, self.names.index(name)].argmax())]


def mixed(rows: NDArray[np.float32], mix: tuple[float, float, float]) -> NDArray[np.float32]:
    """Log-odds [tools] from those of the whole and its clauses [1 + clauses, tools]."""
    if len(rows) == 1:
        return np.asarray(rows[0])
    return np.asarray(mix[0] * rows[0] + mix[1] * rows[1:].max(axis=0) + mix[2], np.float32)


def _sigmoid(odds: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float32)


@lru_cache(maxsize=2)
def load_intent(folder: Path) -> Intent:
    """The trained classifier.

    Raises:
        NotAvailable: It is missing.
    """
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        raise NotAvailable(
            f"no trained {FILE} in {folder.name}; train it with `python -m training.tool_intent`, "
            "or ask without tools (--tools none)"
        )
    with safe_open(path, framework="numpy") as file:
        meta = file.metadata()
        tensors = {k: np.asarray(file.get_tensor(k), dtype=np.float32) for k in file.keys()}  # noqa: SIM118
    whole, part, constant = (float(v) for v in meta.get("mix", "1,0,0").split(","))
    weights, bias = tensors.pop("weights"), tensors.pop("bias")
    return Intent(
        tuple(meta["names"].split(",")), weights, bias, float(meta["threshold"]), float(meta["scale"]), tensors,
        (whole, part, constant),
    )  # fmt: skip
