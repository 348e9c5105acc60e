"""Fit the classifier that tells which tools a question asks for (:mod:`assistant.chat.intent`), on generated requests.

    python -m training.tool_intent --out runs/tool-intent

Multi-label logistic regression by full-batch gradient descent (Adam) on hashed words; a minute on one core. ``--seed``
fixes the requests. The threshold is chosen on ``val``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.chat.intent import DIMENSIONS, FILE, SENTENCE, Intent, features
from assistant.chat.planner import SUMMARIES, neutral, stem
from training.data.tool_calls import Request, Requests

NAMES = tuple(SUMMARIES)
#: Weight of the sentence vector beside the hashed words.
SCALE = 1.0


def requests_of(split: str, count: int, seed: int) -> list[Request]:
    """Requests of a split, without those for other programs' tools, which are not chosen by this classifier."""
    drawn = Requests(split, seed)  # type: ignore[arg-type]
    return [r for i in range(count) if not (r := drawn.draw(i)).extra]


def table(requests: list[Request]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features [N, DIMENSIONS + 384] and wanted tools [N, tools]."""
    inputs = features([stem(neutral(r.question)) for r in requests], SCALE)
    wanted = np.array([[name in {c.name for c in r.calls} for name in NAMES] for r in requests], dtype=np.float32)
    return inputs, wanted


def fit(
    inputs: NDArray[np.float32], wanted: NDArray[np.float32], *, decay: float = 2e-4, steps: int = 120
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [tools, D] and bias [tools]."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    x, y = torch.from_numpy(inputs), torch.from_numpy(wanted)
    keep = (x != 0).sum(0) >= 4  # hashed places that hardly any text has
    x = x[:, keep]
    w = torch.zeros(x.shape[1], wanted.shape[1], requires_grad=True)
    b = torch.full((wanted.shape[1],), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)
        loss = F.binary_cross_entropy_with_logits(x @ w + b, y, reduction="none").sum(1).mean() + decay * (w**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    full = torch.zeros(inputs.shape[1], wanted.shape[1])
    full[keep] = w.detach()
    return full.numpy().T.copy(), b.detach().numpy()


def right(intent: Intent, inputs: NDArray[np.float32], wanted: NDArray[np.float32]) -> tuple[float, float]:
    """Share of requests whose set of tools is right, and of those without any for which one is named."""
    got = inputs @ intent.weights.T + intent.bias >= np.log(intent.threshold / (1 - intent.threshold))
    none = wanted.sum(axis=1) == 0
    return float((got == (wanted > 0)).all(axis=1).mean()), float(got[none].any(axis=1).mean())


def save(intent: Intent, out: Path) -> None:
    """Weights in fp16, whole or not at all."""
    from safetensors.numpy import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {"weights": intent.weights.astype(np.float16), "bias": intent.bias.astype(np.float16)}
    save_file(
        tensors,
        out / "intent.tmp",
        metadata={
            "names": ",".join(intent.names),
            "threshold": f"{intent.threshold:g}",
            "scale": f"{intent.scale:g}",
        },
    )
    os.replace(out / "intent.tmp", out / FILE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tool-intent"))
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    weights, bias = fit(*table(requests_of("train", args.count, args.seed)))
    assert weights.shape == (len(NAMES), DIMENSIONS + SENTENCE)  # noqa: S101
    intents = [Intent(NAMES, weights, bias, threshold, SCALE) for threshold in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    val = table(requests_of("val", 600, args.seed + 100))
    scored = [(right(intent, *val), intent) for intent in intents]
    for (hit, over), intent in scored:
        print(f"threshold {intent.threshold:g}: right {hit:.3f}, over-call {over:.3f} on val", flush=True)
    save(max(scored, key=lambda pair: pair[0][0] - pair[0][1])[1], args.out)


if __name__ == "__main__":
    main()
