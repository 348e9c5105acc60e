"""Stage ``grounding``: the matcher of ``assistant/grounding`` on proposals of the detector, kept on disk.

    pathassist train grounding --recipe training/recipes/grounding.yaml

The detector does not change, so every field is seen once; training then costs minutes. Knowledge is left out of some
phrases and replaced by that of another now and then, so that the matcher neither needs it nor believes it blindly. Out:
``model.safetensors`` (fp16, averaged weights), ``log.jsonl``, ``checkpoint.pt``.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from assistant.grounding.detector import CLASSES, Detector, Proposals
from assistant.grounding.ground import refined
from assistant.grounding.knowledge import expand
from assistant.grounding.matcher import GEOMETRY, Matcher, MatcherConfig, geometry_of
from assistant.grounding.program import OPS, PLACES
from assistant.grounding.text import padded, tokens
from training.data.objects import OPEN, SETS, Field, load_regions
from training.data.proposals import iou, keep_proposals
from training.data.referring import Phrase, phrases
from training.loop import cosine_schedule, follow, load_checkpoint, log_step, save_checkpoint, write_recipe

NONE = -100
#: Words that mean nothing.
WORDS = tuple(
    a + b + c
    for a in ("ba", "mo", "ti", "lu", "ve", "kra", "pho")
    for b in ("lo", "ri", "ne")
    for c in ("cyte", "dum", "sen")
)


@dataclass(frozen=True)
class GroundingRecipe:
    """Settings of the stage.

    Attributes:
        forget, confuse: Shares of phrases without knowledge, and with that of another.
        unknown: Share in which the class is called by a made-up word, so that only its knowledge tells what is meant:
            names that training never saw have to be understood in the same way.
    """

    sets: tuple[str, ...] = SETS
    per_field: int = 12
    steps: int = 1300
    batch_size: int = 20
    lr: float = 6e-4
    weight_decay: float = 0.02
    warmup: float = 0.05
    ema: float = 0.998
    forget: float = 0.15
    confuse: float = 0.03
    unknown: float = 0.45
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 100


@dataclass(frozen=True)
class Batch:
    """Inputs of the matcher in order, and the targets.

    Attributes:
        positive: [B, N] boxes that are meant; wanted: [B, N, 4] where those should lie; single: [B] one is meant.
        answer: [B, 2] something is meant; one box around all is.
        subject: [B, N] boxes of the class that is named; anchor: [B, N] of what a relation is to.
        op, place: [B] of ``OPS`` and ``PLACES``, ``NONE`` where that is not stated.
    """

    inputs: tuple[torch.Tensor, ...]
    positive: torch.Tensor
    wanted: torch.Tensor
    answer: torch.Tensor
    single: torch.Tensor
    subject: torch.Tensor
    anchor: torch.Tensor
    op: torch.Tensor
    place: torch.Tensor


def collate(found: list[Proposals], said: list[Phrase], known: list[str]) -> Batch:
    """Phrases about images as a batch; ``known`` is the knowledge shown with each."""
    b, n = len(said), max(1, *(len(p.boxes) for p in found))
    boxes, wanted = torch.zeros(b, n, 4), torch.zeros(b, n, 4)
    features = torch.zeros(b, n, Detector.feature_size + len(CLASSES))
    geometry, there, positive = torch.zeros(b, n, GEOMETRY), torch.zeros(b, n).bool(), torch.zeros(b, n)
    answer, single = torch.zeros(b, 2), torch.zeros(b).bool()
    subject, anchor = torch.zeros(b, n), torch.zeros(b, n)
    op = torch.tensor([OPS.index(s.op) if s.op else NONE for s in said])
    place = torch.tensor([PLACES.index(s.place) if s.place else NONE for s in said])
    for i, (p, phrase) in enumerate(zip(found, said, strict=True)):
        count, scale = len(p.boxes), np.array([*p.size, *p.size], np.float32)
        there[i, :count] = True
        boxes[i, :count] = torch.from_numpy(p.boxes / scale)
        features[i, :count] = torch.from_numpy(np.concatenate([p.features, p.scores], axis=1))
        geometry[i, :count] = torch.from_numpy(geometry_of(p))
        answer[i] = torch.tensor([float(bool(phrase.boxes)), float(phrase.grouped)])
        if phrase.subjects and count:
            subject[i, :count] = torch.from_numpy(_fitting(p.boxes, np.array(phrase.subjects, np.float32))[0])
        if phrase.anchor and count:
            anchor[i, :count] = torch.from_numpy(_fitting(p.boxes, np.array([phrase.anchor], np.float32))[0])
        if phrase.members and count:
            right, true = _fitting(p.boxes, np.array(phrase.members, np.float32))
            positive[i, :count] = torch.from_numpy(right)
            wanted[i, :count] = torch.from_numpy((true / scale).astype(np.float32))
            single[i] = len(phrase.members) == 1 and bool(right.any())
    context = torch.from_numpy(np.stack([p.context for p in found]))
    text, parts, blind = padded(tokens([s.text for s in said], known))
    inputs = (boxes, features, geometry, context, there, text, parts, blind)
    return Batch(inputs, positive, wanted, answer, single, subject, anchor, op, place)


def _fitting(boxes: NDArray[np.float32], true: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Which boxes [N, 4] fit one of the true ones, as 0 or 1, and the true one nearest to each, [N, 4].

    The best box of each object does, and any other that fits it as well as detections are asked to.
    """
    shares = iou(boxes, true)
    right = shares.max(axis=1) >= 0.6
    right[shares.argmax(axis=0)[shares.max(axis=0) >= 0.4]] = True
    return right.astype(np.float32), true[shares.argmax(axis=1)]


def loss_of(matcher: Matcher, batch: Batch) -> torch.Tensor:
    """Match of every box, which box of a single one, the answer, the corrected boxes (L1 and GIoU), and the parts of
    the program: class, anchor, operation, place."""
    from torchvision.ops import generalized_box_iou_loss

    read = matcher(*batch.inputs)
    match, delta, answer = read.match, read.delta, read.answer
    there = batch.inputs[4]
    meant = batch.answer[:, 0] > 0
    each = F.binary_cross_entropy_with_logits(match, batch.positive, reduction="none")
    weight = there * (1 + 3 * batch.positive)
    loss = (each * weight).sum() / weight.sum() * 4
    loss = loss + F.binary_cross_entropy_with_logits(answer[:, 0], batch.answer[:, 0])
    if meant.any():
        loss = loss + 0.5 * F.binary_cross_entropy_with_logits(answer[meant, 1], batch.answer[meant, 1])
    if batch.single.any():
        chances = match.masked_fill(~there, -1e4)[batch.single].log_softmax(dim=1)
        right = batch.positive[batch.single]
        loss = loss - (torch.logsumexp(chances + (right + 1e-12).log(), dim=1)).mean()
    at = (batch.positive > 0) & there
    if at.any():
        made, true = refined(batch.inputs[0], delta)[at], batch.wanted[at]
        loss = loss + 5 * F.l1_loss(made, true) + generalized_box_iou_loss(made, true, reduction="mean")
    loss = loss + F.cross_entropy(read.op, batch.op, ignore_index=NONE)
    if (batch.place != NONE).any():
        loss = loss + 0.5 * F.cross_entropy(read.place, batch.place, ignore_index=NONE)
    named = F.binary_cross_entropy_with_logits(read.subject, batch.subject, reduction="none")
    loss = loss + 3 * (named * there).sum() / there.sum().clamp(min=1)
    related = batch.anchor.sum(dim=1) > 0
    if related.any():
        chances = read.anchor.masked_fill(~there, -1e4)[related].log_softmax(dim=1)
        loss = loss - 0.5 * torch.logsumexp(chances + (batch.anchor[related] + 1e-12).log(), dim=1).mean()
    return loss


def run(recipe: GroundingRecipe, out: Path, *, detector: Detector, resume: bool = False) -> list[float]:
    """Train on the train split; returns the loss of every step."""
    fields = load_regions("train", sets=recipe.sets)
    found = keep_proposals(detector, fields, out.parent / "grounding-cache")
    said = phrases(fields, "train", recipe.per_field, recipe.seed)
    open_only = set(recipe.sets) <= set(OPEN)
    return train(fields, found, said, recipe, out, research=not open_only, resume=resume)


def train(
    fields: list[Field],
    found: list[Proposals],
    said: list[tuple[int, Phrase]],
    recipe: GroundingRecipe,
    out: Path,
    *,
    research: bool = True,
    resume: bool = False,
) -> list[float]:
    """The loop; the batch of a step depends on the seed and the step alone."""
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    matcher = Matcher(MatcherConfig(research=research))
    everything = np.concatenate([np.concatenate([p.features, p.scores], axis=1) for p in found])
    matcher.mean.copy_(torch.from_numpy(everything.mean(axis=0)))
    matcher.spread.copy_(torch.from_numpy(everything.std(axis=0) + 0.05))
    weights = balanced(fields, said)
    trained = dict(matcher.named_parameters())
    optimizer = torch.optim.AdamW(list(trained.values()), lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    average = {n: p.detach().clone() for n, p in trained.items()}
    kept = trained | {f"average {n}": t for n, t in average.items()}
    first = load_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler) if resume else 0
    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        rng = random.Random(f"{recipe.seed}:{step}")  # noqa: S311 - reproducible, not secret
        rows = rng.choices(range(len(said)), weights, k=recipe.batch_size)
        shown = [_shown(said, row, recipe, rng) for row in rows]
        batch = collate([found[said[r][0]] for r in rows], [p for p, _ in shown], [k for _, k in shown])
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # of dropout: a run that goes on draws the same
        loss = loss_of(matcher.train(), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        scheduler.step()
        follow(average, trained, recipe.ema, step)
        losses.append(float(loss.detach()))
        done = step + 1
        if done % recipe.log_every == 0 or done == recipe.steps:
            log_step(out, done, losses[-recipe.log_every :], began)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler, done)
            smooth = Matcher(matcher.config)
            smooth.load_state_dict(matcher.state_dict() | average)
            smooth.save(out / "model.safetensors")
            write_recipe(out, recipe)
    return losses


def _shown(said: list[tuple[int, Phrase]], row: int, recipe: GroundingRecipe, rng: random.Random) -> tuple[Phrase, str]:
    """A phrase and its knowledge as training shows them."""
    phrase, chance = said[row][1], rng.random()
    if chance < recipe.unknown and phrase.nouns:
        text = phrase.text
        for noun in sorted(phrase.nouns, key=len, reverse=True):
            text = text.replace(noun, rng.choice(WORDS))
        return replace(phrase, text=text), expand(phrase.text)
    if chance < recipe.unknown + recipe.forget:
        return phrase, ""
    if chance < recipe.unknown + recipe.forget + recipe.confuse:
        return phrase, expand(said[rng.randrange(len(said))][1].text)
    return phrase, expand(phrase.text)


def balanced(fields: list[Field], said: list[tuple[int, Phrase]]) -> list[float]:
    """Weights by which rare kinds and small sets are drawn more often: one over the root of their count."""
    kinds: dict[str, int] = {}
    sets: dict[str, int] = {}
    for number, phrase in said:
        kinds[phrase.kind] = kinds.get(phrase.kind, 0) + 1
        sets[fields[number].dataset] = sets.get(fields[number].dataset, 0) + 1
    return [(kinds[p.kind] * sets[fields[n].dataset]) ** -0.5 for n, p in said]
