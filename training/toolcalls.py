"""Stage ``toolcalls``: the packaged language model learns to plan tool calls (LoRA of its own, loss on the calls only).

In: generated requests (``training.data.tool_calls``), text only. A batch shares one list of tools, so the list is read
once (without gradients) and its keys and values are used by every row. In most of the batches the list is whole and in
its usual order; in the others it is shuffled and shortened, so that the list is read and not learned by heart: a
request whose tool is missing becomes "none". Out: a PEFT adapter; the chat model's own adapter is not touched.

    pathassist train toolcalls --recipe training/recipes/toolcalls.yaml
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from assistant.chat.grammar import FunctionTool
from assistant.chat.planner import Codec
from training.data.tool_calls import Request, Requests, gold_arguments, planned_tools
from training.loop import cosine_schedule, load_checkpoint, log_step, save_adapter, save_checkpoint, write_recipe
from training.stages import precision

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: Weight of pieces that the grammar forces, beside 1 for decisions.
_FORCED = 0.05
#: Share of requests read on to the turn in which nothing more is called.
_TO_END = 0.35
#: Steps whose requests are sorted by length together.
_BLOCK = 4


@dataclass(frozen=True)
class ToolcallsRecipe:
    """Settings; ``varied`` is the share of batches whose list of tools is not the usual one."""

    steps: int = 240
    batch_size: int = 16
    lr: float = 8e-4
    lora_r: int = 8
    varied: float = 0.4
    warmup: float = 0.06
    seed: int = 0
    mixed_precision: str = "auto"
    checkpoint_every: int = 25
    log_every: int = 5


def row(
    codec: Codec, request: Request, tools: Sequence[FunctionTool], *, to_end: bool = True
) -> tuple[list[int], list[float]]:
    """A request with the turns that answer it, and the weight of each token as a target.

    Args:
        to_end: Also the turn after the last call, in which nothing more is called.
    """
    named = {tool.name: tool for tool in tools}
    ids = codec.question(request.question, request.facts)
    weights = [0.0] * len(ids)

    def add(piece: list[int], weight: float) -> None:
        ids.extend(piece)
        weights.extend([weight] * len(piece))

    for call in request.calls:
        if call.name not in named:
            break
        tool = named[call.name]
        for piece, chosen in codec.call(tool, gold_arguments(tool, call)):
            add(piece, 1.0 if chosen else _FORCED)
        if call is request.calls[-1] and call.ok and not to_end:
            return ids, weights
        add(codec.outcome(call.ok), 0.0)
    add(codec.none(), 1.0)
    return ids, weights


def tool_list(rng: random.Random, requests: Sequence[Request], varied: float) -> list[FunctionTool]:
    """The tools of one batch, those that came with a request among them."""
    tools = list(planned_tools())
    extra = {tool.name: tool for request in requests for tool in request.extra}
    if rng.random() < varied:
        tools = rng.sample(tools, rng.randint(4, len(tools)))
        if rng.random() < 0.25:
            tools = [t for t in tools if t.name not in {c.name for r in requests[:3] for c in r.calls}]
    out = [*tools, *extra.values()]
    if extra:
        rng.shuffle(out)
    return out


def loss_of(model: Any, prefix: list[int], rows: Sequence[tuple[list[int], list[float]]], pad: int) -> torch.Tensor:
    """Weighted cross-entropy of the targets; the prefix is read once, without gradients."""
    lm = model.get_base_model()
    length = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
    weights = torch.tensor([w + [0.0] * (length - len(w)) for _, w in rows])
    with torch.no_grad():
        cache = lm.model(input_ids=torch.tensor([prefix]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(rows))
    # Padding stands on the right, where causality hides it from everything that counts.
    states = lm.model(input_ids=inputs, past_key_values=cache, use_cache=True).last_hidden_state  # [B, L, H]
    place = weights[:, 1:] > 0
    logits = lm.lm_head(states[:, :-1][place]).float()
    losses = F.cross_entropy(logits, inputs[:, 1:][place], reduction="none")
    picked = weights[:, 1:][place]
    return (losses * picked).sum() / picked.sum()


def train(model: Any, tokenizer: Any, recipe: ToolcallsRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """Run the stage and write ``out/adapter``.

    Args:
        model: A Llama language model; it gets an adapter.

    Returns:
        The loss of every step run in this call.
    """
    from accelerate.utils import set_seed
    from peft import LoraConfig, get_peft_model

    set_seed(recipe.seed)
    model.requires_grad_(False)
    lora = LoraConfig(
        r=recipe.lora_r, lora_alpha=2 * recipe.lora_r, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model, lora).train()
    trained = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.lr, weight_decay=0.0)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first = load_checkpoint(checkpoint, trained, optimizer, scheduler) if resume else 0
    codec, requests = Codec(tokenizer), Requests("train", recipe.seed)
    bf16 = precision(recipe.mixed_precision) == "bf16"
    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        rng = random.Random(f"{recipe.seed}:toolcalls:{step}")  # noqa: S311 - reproducible, not secret
        drawn = _batch(requests, codec, step, recipe)
        tools = tool_list(rng, drawn, recipe.varied)
        rows = [row(codec, request, tools, to_end=rng.random() < _TO_END) for request in drawn]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = loss_of(wrapped, codec.prefix(tools), rows, codec.end)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
        done = step + 1
        if done % recipe.log_every == 0 or done == recipe.steps:
            log_step(out, done, losses[-recipe.log_every :], began)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save_checkpoint(checkpoint, trained, optimizer, scheduler, done)
            save_adapter(wrapped, out / "adapter", "HuggingFaceTB/SmolLM2-135M-Instruct")
            write_recipe(out, recipe)
    return losses


def _batch(requests: Requests, codec: Codec, step: int, recipe: ToolcallsRecipe) -> list[Request]:
    """The requests of one step: of those of ``_BLOCK`` steps, ones of like length, which keeps padding small."""
    block, turn = divmod(step, _BLOCK)
    size = _BLOCK * recipe.batch_size
    drawn = [requests.draw(block * size + i) for i in range(size)]
    drawn.sort(key=lambda r: (40 * len(r.calls)) + len(codec.question(r.question, r.facts)))
    order = list(range(_BLOCK))
    random.Random(f"{recipe.seed}:block:{block}").shuffle(order)  # noqa: S311 - reproducible, not secret
    start = order[turn] * recipe.batch_size
    return drawn[start : start + recipe.batch_size]


def run(recipe: ToolcallsRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """The stage on the packaged language model."""
    from assistant.chat.planner import language_model

    model, tokenizer = language_model()
    return train(model, tokenizer, recipe, out, resume=resume)


def main() -> None:
    """``python -m training.toolcalls --recipe FILE [--out DIR] [--resume]``."""
    import argparse

    from training.run import read_recipe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/toolcalls"))
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    run(read_recipe(args.recipe, ToolcallsRecipe), args.out, resume=args.resume)


if __name__ == "__main__":
    main()
