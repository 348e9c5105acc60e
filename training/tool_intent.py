"""Fit the classifier that tells which tools a question asks for (:mod:`assistant.chat.intent`), on generated requests.

    python -m training.tool_intent --out runs/tool-intent

One logistic output a tool on hashed words and the sentence vector of MiniLM, whose upper layers get low-rank changes;
trained together by AdamW. How clauses and the whole are weighed and the threshold are chosen on ``val``, ``FRESH`` to
``FRESH5``, never on ``FRESH6``; ``--choose`` prints what settings get there and keeps the best. With ``--part fit`` a
quarter of the training wordings is kept out and they are chosen by those. ``--start`` goes on from a trained
classifier, in fewer steps; ``--average`` takes the mean of several such. ``--seed`` fixes the requests. Some minutes on
one core.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from assistant.chat.intent import (
    DIMENSIONS,
    FILE,
    MAX_TOKENS,
    SENTENCE,
    Intent,
    load_intent,
    minilm,
    mixed,
    own_words,
    pooled,
    vector,
)  # fmt: skip
from assistant.chat.planner import SUMMARIES, neutral, stem
from assistant.files import whole
from training.data.natural_requests import natural_requests
from training.data.tool_calls import Part, Request, Requests, fresh_requests

NAMES = tuple(SUMMARIES)
#: Weight of the sentence vector beside the hashed words.
SCALE = 8.0
#: MiniLM layers with low-rank changes, their rank, and what in a layer is changed.
LAYERS, RANK = (3, 4, 5), 16
#: The layers below are read once for every text.
BELOW = min(LAYERS)
PLACES = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
          "intermediate.dense", "output.dense")  # fmt: skip
BATCH = 48
#: Share of the training requests that were written one by one.
NATURAL = 0.4
#: Shares of hashed words, and of sentence vectors' numbers, left out in training.
WORDS_OUT, NUMBERS_OUT = 0.4, 0.1
#: Shares of requests with slips of the pen, without articles, in the short words of messages, and without points.
MISTYPED, NO_ARTICLES, SHORTENED, NO_POINTS = 0.12, 0.06, 0.06, 0.1
_ARTICLES = re.compile(r"\b(?:the|a|an)\s+", re.IGNORECASE)
_POINTS = re.compile(r"(?<=\w)[.,?!](?=\s|$)")
_SHORT = {
    "please": "pls", "you": "u", "are": "r", "what is": "whats", "where is": "wheres", "and": "&", "percent": "%",
    "image": "img", "picture": "pic", "thanks": "thx", "number": "no", "with": "w/", "do not": "dont", "because": "bc",
}  # fmt: skip


def requests_of(split: str, count: int, seed: int, part: Part = "all") -> list[Request]:
    """Requests of a split, without those for other programs' tools, which are not chosen by this classifier.

    Of ``train``, a share of ``NATURAL`` were written one by one; the others are drawn from patterns.
    """
    drawn = Requests(split, seed, part)  # type: ignore[arg-type]
    out = [r for i in range(count) if not (r := drawn.draw(i)).extra]
    if split == "train" and part != "dev" and (written := natural_requests()):
        times = round(NATURAL / (1 - NATURAL) * len(out) / len(written))
        out += written * max(1, times)
    return out


def text_of(request: Request) -> str:
    """What the classifier reads of a request."""
    return own_words(stem(neutral(request.question)))


def mistyped(text: str, rng: random.Random) -> str:
    """A text with a letter left out, doubled or in the wrong place in one or two of its longer words."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    for i in rng.sample(long, min(len(long), rng.randint(1, 2))):
        word, at = words[i], rng.randrange(1, len(words[i]) - 1)
        words[i] = rng.choice(
            (
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            )
        )
    return " ".join(words)


def restyled(text: str, rng: random.Random) -> str:
    """A text as somebody in a hurry, or somebody whose language has no articles, may have written it."""
    if rng.random() < NO_ARTICLES:
        text = _ARTICLES.sub("", text)
    if rng.random() < SHORTENED:
        for long, short in _SHORT.items():
            text = re.sub(rf"\b{long}\b", short, text, flags=re.IGNORECASE)
    if rng.random() < NO_POINTS:
        text = _POINTS.sub("", text)
    return mistyped(text, rng) if rng.random() < MISTYPED else text


def wanted_of(requests: list[Request]) -> NDArray[np.float32]:
    """Wanted tools [N, tools]."""
    return np.array([[name in {c.name for c in r.calls} for name in NAMES] for r in requests], dtype=np.float32)


def hashed_words(text: str) -> tuple[list[int], list[float]]:
    """Places and weights of a text's hashed words; the same as :func:`assistant.chat.intent.vector`."""
    full = vector(text)
    places = np.flatnonzero(full)
    return places.tolist(), full[places].tolist()


class LowRank(nn.Module):
    """A linear layer with a low-rank change."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        out: Tensor = self.base(x) + (x @ self.a.T) @ self.b.T
        return out


class Model(nn.Module):
    """Texts → log-odds [N, tools]."""

    def __init__(self) -> None:
        super().__init__()
        import copy

        bert, self.tokenizer = minilm()
        self.bert = copy.deepcopy(bert).requires_grad_(False)
        self.changed: dict[str, LowRank] = {}
        for layer in LAYERS:
            for place in PLACES:
                name = f"encoder.layer.{layer}.{place}"
                owner = self.bert.get_submodule(name.rpartition(".")[0])
                low = LowRank(self.bert.get_submodule(name), RANK)
                setattr(owner, name.rpartition(".")[2], low)
                self.changed[name] = low
        self.words = nn.EmbeddingBag(DIMENSIONS, len(NAMES), mode="sum")
        nn.init.zeros_(self.words.weight)
        self.head = nn.Linear(SENTENCE, len(NAMES))
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -2.0)

    def below(self, texts: list[str], batch_size: int = 32) -> list[Tensor]:
        """States [T, 384] of each text under the layers that are changed."""
        out: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            mask = batch["attention_mask"]
            with torch.no_grad():
                states = self._layers(self.bert.embeddings(input_ids=batch["input_ids"]), mask, range(BELOW))
            for i, one, length in zip(rows, states, mask.sum(1).tolist(), strict=True):
                out[i] = one[:length].clone()
        return [out[i] for i in range(len(texts))]

    def _layers(self, states: Tensor, mask: Tensor, numbers: range) -> Tensor:
        shown = torch.where(mask[:, None, None, :] > 0, 0.0, torch.finfo(torch.float32).min)
        for number in numbers:
            found = self.bert.encoder.layer[number](states, shown)
            states = found[0] if isinstance(found, tuple) else found
        return states

    def forward(self, words: list[tuple[list[int], list[float]]], states: list[Tensor]) -> Tensor:
        """Log-odds from hashed words and :meth:`below`; words are left out at random in training."""
        starts = np.cumsum([0, *(len(ids) for ids, _ in words)])[:-1]
        weights = F.dropout(torch.tensor([w for _, ws in words for w in ws]), WORDS_OUT, self.training)
        ids = torch.tensor([i for each, _ in words for i in each])
        hashed = self.words(ids, torch.from_numpy(starts), per_sample_weights=weights)
        padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
        mask = torch.zeros(padded.shape[:2])
        for row, one in enumerate(states):
            mask[row, : len(one)] = 1
        upper = self._layers(padded, mask, range(BELOW, len(self.bert.encoder.layer)))
        vectors = F.dropout(pooled(upper, mask), NUMBERS_OUT, self.training)
        out: Tensor = hashed + self.head(SCALE * vectors)
        return out

    def take(self, intent: Intent) -> None:
        """Begin where a stored classifier ended."""

        def put(to: nn.Parameter, values: NDArray[np.float32]) -> None:
            with torch.no_grad():
                to.copy_(torch.from_numpy(np.ascontiguousarray(values)))

        put(self.words.weight, intent.weights[:, :DIMENSIONS].T)
        put(self.head.weight, intent.weights[:, DIMENSIONS:])
        put(self.head.bias, intent.bias)
        for name, one in self.changed.items():
            put(one.a, intent.low_rank[f"{name}.a"])
            put(one.b, intent.low_rank[f"{name}.b"])

    def intent(self, threshold: float = 0.5, mix: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> Intent:
        """The classifier as it is shipped, rounded as it is stored."""

        def stored(t: Tensor) -> NDArray[np.float32]:
            return t.detach().half().float().numpy()

        low = {f"{name}.a": stored(one.a) for name, one in self.changed.items()}
        low |= {f"{name}.b": stored(one.b) for name, one in self.changed.items()}
        weights = np.concatenate([stored(self.words.weight).T, stored(self.head.weight)], axis=1)
        return Intent(NAMES, weights, stored(self.head.bias), threshold, SCALE, low, mix)


def fit(requests: list[Request], steps: int, seed: int = 0, lr: float = 1.5e-3, start: Intent | None = None) -> Model:
    """Train on requests; batches of like length. ``start``: a classifier to go on from."""
    torch.manual_seed(seed)
    model = Model()
    if start is not None:
        model.take(start)
    pick = random.Random(seed)  # noqa: S311 - reproducible, not secret
    texts = [restyled(text_of(r), pick) for r in requests]
    wanted = torch.from_numpy(wanted_of(requests))
    states, words = model.below(texts), [hashed_words(t) for t in texts]
    low = [p for one in model.changed.values() for p in (one.a, one.b)]
    groups: list[dict[str, Any]] = [
        {"params": low, "lr": lr, "weight_decay": 0.01},
        {"params": [*model.head.parameters()], "lr": 10 * lr, "weight_decay": 0.01},
        {"params": [*model.words.parameters()], "lr": 20 * lr, "weight_decay": 0.02},
    ]
    optimizer = torch.optim.AdamW(groups)
    peaks = [g["lr"] for g in groups]
    rng = np.random.default_rng(seed)
    order: list[NDArray[np.int64]] = []
    began = time.time()
    model.train()
    for module in model.bert.modules():  # the language model's own dropout is off
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for step in range(steps):
        if not order:
            shuffled = rng.permutation(len(texts))
            blocks = [sorted(b, key=lambda i: len(texts[i])) for b in np.array_split(shuffled, len(texts) // 960 + 1)]
            order = [np.array(b[i : i + BATCH]) for b in blocks for i in range(0, len(b), BATCH)]
            rng.shuffle(order)  # type: ignore[arg-type]
        rows = order.pop()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 20, (steps - step) / (0.8 * steps))
        odds = model([words[i] for i in rows], [states[i] for i in rows])
        loss = F.binary_cross_entropy_with_logits(odds, wanted[torch.from_numpy(rows)], reduction="none").sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(low, 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}, {time.time() - began:.0f} s", flush=True)
    return model.eval()


def right(got: NDArray[np.bool_], wanted: NDArray[np.float32]) -> tuple[float, float]:
    """Share of requests whose set of tools is right, and of those without any for which one is named."""
    none = wanted.sum(axis=1) == 0
    return float((got == (wanted > 0)).all(axis=1).mean()), float(got[none].any(axis=1).mean())


def table(intent: Intent, requests: list[Request]) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Readings of requests (the whole and its clauses), and the wanted tools."""
    return intent.read([stem(neutral(r.question)) for r in requests]), wanted_of(requests)


def fit_mix(rows: list[NDArray[np.float32]], wanted: NDArray[np.float32]) -> tuple[float, float, float]:
    """How the whole and its clauses are weighed: logistic regression over texts of several clauses, if any."""
    several = [i for i, r in enumerate(rows) if len(r) > 1]
    if not several:
        return 1.0, 0.0, 0.0
    whole = torch.from_numpy(np.stack([rows[i][0] for i in several]))
    part = torch.from_numpy(np.stack([rows[i][1:].max(axis=0) for i in several]))
    y = torch.from_numpy(wanted[several])
    mix = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([mix], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        odds = mix[0] * whole + mix[1] * part + mix[2]
        loss = F.binary_cross_entropy_with_logits(odds, y) + 1e-4 * (mix**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    a, b, c = (round(float(v), 3) for v in mix.detach())
    return a, b, c


def save(intent: Intent, out: Path) -> None:
    """Weights in fp16, whole or not at all."""
    from safetensors.numpy import save_file

    tensors = {"weights": intent.weights, "bias": intent.bias, **intent.low_rank}
    metadata = {
        "names": ",".join(intent.names),
        "threshold": f"{intent.threshold:g}",
        "scale": f"{intent.scale:g}",
        "mix": ",".join(f"{v:g}" for v in intent.mix),
    }
    with whole(out / FILE) as partial:
        save_file({k: np.ascontiguousarray(v.astype(np.float16)) for k, v in tensors.items()}, partial, metadata)


def averaged(intents: list[Intent]) -> Intent:
    """The mean of classifiers that went on from the same one (Wortsman et al. 2022), with the settings of the first."""
    first = intents[0]
    return replace(
        first,
        weights=np.mean([i.weights for i in intents], axis=0),
        bias=np.mean([i.bias for i in intents], axis=0),
        low_rank={key: np.mean([i.low_rank[key] for i in intents], axis=0) for key in first.low_rank},
    )


def chosen(intent: Intent, sets: dict[str, list[Request]]) -> Intent:
    """With the mix and threshold of the best mean over sets of right tools less over-calls; prints what each gets."""
    tables = {name: table(intent, requests) for name, requests in sets.items()}
    mixes = (intent.mix, fit_mix([r for rows, _ in tables.values() for r in rows],
                                 np.concatenate([wanted for _, wanted in tables.values()])))  # fmt: skip
    scored = []
    for mix in mixes:
        for threshold in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            odds = np.log(threshold / (1 - threshold))
            got = {n: right(np.stack([mixed(r, mix) for r in rows]) >= odds, w) for n, (rows, w) in tables.items()}
            said = "; ".join(f"{name} right {hit:.3f}, over-call {over:.3f}" for name, (hit, over) in got.items())
            print(f"mix {mix}, threshold {threshold:g}: {said}", flush=True)
            scored.append((float(np.mean([hit - over for hit, over in got.values()])), mix, threshold))
    _, mix, threshold = max(scored)
    return replace(intent, mix=mix, threshold=threshold)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tool-intent"))
    parser.add_argument("--part", choices=("all", "fit"), default="all")
    parser.add_argument("--count", type=int, default=7000)
    parser.add_argument("--steps", type=int, default=260)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--mix", type=float, nargs=3, default=(1.204, 0.71, -0.05), help="whole, greatest clause, constant"
    )
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.add_argument("--choose", action="store_true", help="choose mix and threshold on val and FRESH to FRESH5")
    parser.add_argument("--start", type=Path, help="folder of a classifier to go on from")
    parser.add_argument("--average", type=Path, nargs="+", help="folders of classifiers to average instead of training")
    args = parser.parse_args()
    if args.average:
        intent = averaged([load_intent(folder) for folder in args.average])
        intent = replace(intent, threshold=args.threshold, mix=tuple(args.mix))
    else:
        drawn = requests_of("train", args.count, args.seed, args.part)
        model = fit(drawn, args.steps, args.seed, args.lr, load_intent(args.start) if args.start else None)
        intent = model.intent(args.threshold, tuple(args.mix))
    if args.part == "fit":
        intent = chosen(intent, {"dev": requests_of("train", 1500, 100, "dev")})
    elif args.choose:
        intent = chosen(intent, {"val": requests_of("val", 600, 0), "fresh": fresh_requests()})
    save(intent, args.out)


if __name__ == "__main__":
    main()
