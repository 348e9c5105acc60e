"""Stage ``duo``: one linear map that lets the untouched ImageNet tower move the vectors of pathclip-small.

    pathassist train duo --recipe training/recipes/pathclip-duo.yaml

In: labelled records of the open sets. Both towers look once at every image and once at it turned and mirrored; from
then on they are not needed, so the map is learned in a minute. Out: ``model.safetensors`` (fp16), ``recipe.json``,
``log.jsonl``; ``features-….pt`` keeps what the towers saw (``--resume`` uses it if towers and images are the same).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from assistant.chat.second_look import PROMPT
from assistant.files import whole
from assistant.images.intake import load_image
from assistant.model.encoders.duo import DuoModel, joined
from assistant.model.encoders.load import load_encoder
from assistant.model.encoders.pathclip import WEIGHTS
from assistant.model.encoders.pixels import Pixels
from assistant.model.encoders.preset import encoder_preset
from assistant.model.encoders.torch_encoder import TorchEncoder
from training.data.captions import subject_of
from training.data.records import OPEN_SETS, DataError, Record, balanced_weights, load_records
from training.features import key_of
from training.loop import cosine_schedule, log_step, write_recipe

#: Facts whose names the vectors are pulled to.
FACTS = ("organ", "stain", "stain_class", "lung", "oral", "node", "diagnosis", "subject")
#: Of each fact its values and the vectors of their names, [K, D].
Names = dict[str, tuple[list[str], torch.Tensor]]


@dataclass(frozen=True)
class DuoRecipe:
    """Settings.

    Attributes:
        runs: Maps learned from different batches; their mean is kept.
        drop: Share of the ImageNet tower's features that are left out of a step.
        shrink: Weight of the sum of squares of the map.
        scale: Factor on cosines before the softmax.
    """

    datasets: tuple[str, ...] = OPEN_SETS
    runs: int = 3
    steps: int = 700
    batch_size: int = 256
    lr: float = 4e-3
    warmup: float = 0.1
    drop: float = 0.3
    shrink: float = 3e-4
    scale: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Seen:
    """What both towers saw: ``vectors`` [N, D] and ``features`` [N, F] of the records ``rows`` [N]."""

    rows: torch.Tensor
    vectors: torch.Tensor
    features: torch.Tensor


def run(recipe: DuoRecipe, out: Path, *, resume: bool = False) -> float:
    """Learn the map; returns the last loss.

    Raises:
        DataError: No record states a fact.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = [r for r in load_records(recipe.datasets, "train") if any(_value(r, k) for k in FACTS)]
    if not records:
        raise DataError(f"no record of {', '.join(recipe.datasets)} states one of: {', '.join(FACTS)}")
    encoder = load_encoder()
    if not isinstance(encoder, TorchEncoder):
        raise DataError(f"the encoder {encoder.info.name} is not one of PyTorch; allowed: pathclip-small")
    prepared = replace(encoder_preset("pathclip-duo").image, size=encoder.pixels.size)
    seen = _seen(joined(encoder), prepared, records, out, resume)
    weight, bias, loss = learn(seen, records, _names(encoder, records), recipe, out)
    save(weight, bias, encoder.id, out)
    write_recipe(out, recipe)
    return loss


def _seen(model: DuoModel, prepared: Pixels, records: Sequence[Record], out: Path, resume: bool) -> Seen:
    kept = out / f"features-{key_of(model, [[str(r.image) for r in records], prepared.size])}.pt"
    if resume and kept.is_file():
        return Seen(**torch.load(kept, weights_only=True))
    rows, vectors, features = [], [], []
    for start in tqdm(range(0, len(records), 16), desc="two towers", unit="batch"):
        part = list(range(start, min(start + 16, len(records))))
        squares = [prepared.square(load_image(records[i].image)) for i in part]
        for turned in (False, True):
            # Some other orientation of eight, fixed by the record.
            views = [s.rot90(1 + i % 3, (1, 2)).flip(2) if turned else s for i, s in zip(part, squares, strict=True)]
            with torch.inference_mode():
                pixels = prepared.normalise(torch.stack(views))
                rows.append(torch.tensor(part))
                vectors.append(model.first.encode_image(pixels))
                features.append(model.features(pixels))
    seen = Seen(torch.cat(rows), torch.cat(vectors), torch.cat(features))
    with whole(kept) as partial:
        torch.save(vars(seen), partial)
    return seen


def _value(record: Record, fact: str) -> str | None:
    """What a record states; "subject" is what is shown, whichever set names it, so that sets rival each other."""
    if fact == "subject":
        return record.facts.get(subject_of(record) or "")
    return record.facts.get(fact)


def _names(encoder: TorchEncoder, records: Sequence[Record]) -> Names:
    """The names, asked for as :mod:`assistant.chat.second_look` does."""
    found = {}
    for fact in FACTS:
        values = sorted({value for r in records if (value := _value(r, fact))})
        if len(values) > 1:
            found[fact] = values, torch.from_numpy(encoder.embed_texts([PROMPT.format(v) for v in values]))
    return found


def learn(
    seen: Seen,
    records: Sequence[Record],
    names: Names,
    recipe: DuoRecipe,
    out: Path,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weight [D, F], bias [D] and the last loss. Cross-entropy of each image's facts among all values of the fact."""
    mean, deviation = seen.features.mean(0), seen.features.std(0) + 1e-2
    root = (seen.features.shape[1] / 2) ** 0.5
    standard = (seen.features - mean) / deviation / root
    labels = {
        fact: torch.tensor([values.index(value) if (value := _value(r, fact)) else -1 for r in records])
        for fact, (values, _) in names.items()
    }
    chances = torch.tensor(balanced_weights(records, {}))[seen.rows]
    total, began, loss = torch.zeros(seen.vectors.shape[1], standard.shape[1]), time.time(), torch.zeros(())
    for attempt in range(recipe.runs):
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + attempt)
        weight = torch.zeros_like(total, requires_grad=True)
        optimizer = torch.optim.Adam([weight], lr=recipe.lr)
        scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
        for step in range(recipe.steps):
            drawn = torch.multinomial(chances, recipe.batch_size, replacement=True, generator=generator)
            keep = torch.rand(len(drawn), standard.shape[1], generator=generator) >= recipe.drop
            moved = (standard[drawn] * keep / (1 - recipe.drop)) @ weight.T
            loss = _loss(F.normalize(seen.vectors[drawn] + moved, dim=1), seen.rows[drawn], labels, names, recipe.scale)
            loss = loss + recipe.shrink * weight.square().sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
                log_step(out, attempt * recipe.steps + step + 1, [float(loss.detach())], began)
        total += weight.detach() / recipe.runs
    folded = total / deviation / root
    return folded, -(folded @ mean), float(loss.detach())


def _loss(
    vectors: torch.Tensor,
    rows: torch.Tensor,
    labels: dict[str, torch.Tensor],
    names: Names,
    scale: float,
) -> torch.Tensor:
    parts = [torch.zeros(())]
    for fact, (_, texts) in names.items():
        wanted = labels[fact][rows]
        known = wanted >= 0
        if known.any():
            # A fact that few images state counts more than its share, less than one that all state.
            parts.append(F.cross_entropy(scale * vectors[known] @ texts.T, wanted[known]) * known.float().mean().sqrt())
    return torch.stack(parts).sum()


def save(weight: torch.Tensor, bias: torch.Tensor, first: str, out: Path) -> None:
    """``model.safetensors`` in fp16, whole or not at all; ``first`` is the encoder it was learned for."""
    from safetensors.torch import save_file

    tensors = {"moved.weight": weight.half().contiguous(), "moved.bias": bias.half().contiguous()}
    with whole(out / WEIGHTS) as partial:
        save_file(tensors, partial, metadata={"format": "pt", "first": first})
