r"""Stages ``connector`` and ``instruct``: loss on answer tokens only, the tower frozen and its features cached.

``connector`` trains the connector with the language model frozen; ``instruct`` trains connector and LoRA together.
Loop: ``accelerate`` (one or several processes, any device), deterministic batches keyed by (seed, step) so that
``--resume`` continues the same sequence, a JSONL log, a loss plot, and a checkpoint that appears whole or not at all.

    accelerate launch --multi_gpu --num_processes 2 -m training.run instruct \
        --recipe training/recipes/embedded-instruct.yaml
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from assistant.files import whole
from assistant.model.engine import fast_bfloat16
from training.data.conversation import Conversation
from training.data.records import DataError
from training.features import Features
from training.loop import (
    cosine_schedule,
    finish,
    load_checkpoint,
    log_step,
    save_adapter,
    save_checkpoint,
    write_recipe,
)

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class StageRecipe:
    """Settings of one stage; files under ``training/recipes`` hold them.

    ``build`` conversations are drawn from the open sets where ``data`` names no files, with ``virtual`` immunostains
    made from H&E fields among them. ``tower``, ``connector`` and ``adapter`` name files and a folder to start from (for
    the tower the shipped one is the default, the others start afresh). ``mixed_precision`` ``auto`` takes bf16 where
    the processor has bf16 instructions and fp32 elsewhere.
    """

    stage: str = "instruct"
    preset: str = "embedded"
    tower: str | None = None
    connector: str | None = None
    adapter: str | None = None
    data: tuple[str, ...] = ()
    image_root: str | None = None
    build: int = 20_000
    virtual: int = 0
    steps: int = 1_500
    batch_size: int = 16
    connector_lr: float = 1e-3
    lora_lr: float = 3e-4
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    weight_decay: float = 0.0
    warmup: float = 0.05
    views: int = 6
    max_length: int = 384
    seed: int = 0
    mixed_precision: str = "auto"
    checkpoint_every: int = 100
    log_every: int = 10


@dataclass(frozen=True)
class Sample:
    """One tokenised conversation: ids, the weight of each token as a target, and its images."""

    ids: list[int]
    weights: list[float]
    images: tuple[Path, ...]


def tokenise(processor: Any, conversations: Sequence[Conversation], tokens: int, max_length: int) -> list[Sample]:
    """Chat template → ids with ``<image>`` expanded; each assistant turn weighs the same whatever its length.

    Args:
        tokens: Language-model tokens an image.
        max_length: Longer conversations are dropped (their answers would be cut).
    """
    tokenizer = processor.tokenizer
    image_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    samples = []
    for conversation in conversations:
        encoded = tokenizer.apply_chat_template(
            conversation.messages,
            chat_template=processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids: list[int] = []
        mask: list[int] = []
        for token, answer in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
            repeat = tokens if token == image_id else 1
            ids += [token] * repeat
            mask += [answer] * repeat
        if len(ids) <= max_length:
            samples.append(Sample(ids, _turn_weights(mask), conversation.images))
    return samples


def _turn_weights(mask: list[int]) -> list[float]:
    """1 / length of its run for each token of an assistant turn, 0 elsewhere."""
    weights = [0.0] * len(mask)
    start = None
    for i, answer in enumerate([*mask, 0]):
        if answer and start is None:
            start = i
        elif not answer and start is not None:
            weights[start:i] = [1 / (i - start)] * (i - start)
            start = None
    return weights


class Batches:
    """Endless deterministic batches, grouped by length to keep padding small."""

    def __init__(self, samples: list[Sample], store: Features | None, recipe: StageRecipe, pad: int) -> None:
        if len(samples) < recipe.batch_size:
            raise DataError(
                f"{len(samples)} usable conversations, fewer than one batch of {recipe.batch_size}; "
                "add data, or lower batch_size or raise max_length in the recipe"
            )
        self.samples, self.store, self.recipe, self.pad = samples, store, recipe, pad
        self.per_epoch = len(samples) // recipe.batch_size
        self._epoch = -1
        self._order: list[list[int]] = []

    def _rows(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = random.Random(f"{self.recipe.seed}:{epoch}")  # noqa: S311 - reproducible, not secret
            order = list(range(len(self.samples)))
            rng.shuffle(order)
            size, chunk = self.recipe.batch_size, self.recipe.batch_size * 16
            batches = []
            for start in range(0, self.per_epoch * size, chunk):
                part = sorted(order[start : start + chunk], key=lambda i: len(self.samples[i].ids))
                batches += [part[i : i + size] for i in range(0, len(part) - size + 1, size)]
            rng.shuffle(batches)
            self._epoch, self._order = epoch, batches
        return self._order[place % len(self._order)]

    def get(self, step: int, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
        """Batch number ``step``, the part of process ``rank`` of ``world``.

        Returns ``input_ids`` [B, L], ``attention_mask`` [B, L], ``weights`` [B, L] and ``features`` [I, T, D].
        """
        picked = [self.samples[i] for i in self._rows(step)][rank::world]
        length = max(len(s.ids) for s in picked)
        rng = random.Random(f"{self.recipe.seed}:{step}:{rank}")  # noqa: S311
        features = [
            self.store.get(path, rng.randrange(self.store.views))
            for s in picked
            for path in s.images
            if self.store is not None
        ]
        return {
            "input_ids": torch.tensor([s.ids + [self.pad] * (length - len(s.ids)) for s in picked]),
            "attention_mask": torch.tensor([[1] * len(s.ids) + [0] * (length - len(s.ids)) for s in picked]),
            "weights": torch.tensor([s.weights + [0.0] * (length - len(s.ids)) for s in picked]),
            "features": torch.stack(features) if features else torch.zeros(0, 1, 1),
        }


class AnswerLoss(nn.Module):
    """Weighted cross-entropy of the answer tokens; logits are computed at those places only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, weights: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        llava = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        image_id = llava.config.image_token_id
        embeds = llava.get_input_embeddings()(input_ids)  # [B, L, H]
        if len(features):
            visual = llava.model.multi_modal_projector(features).to(embeds.dtype)  # [I, T, H]
            place = (input_ids == image_id).unsqueeze(-1).expand_as(embeds)
            embeds = embeds.masked_scatter(place, visual)
        hidden = llava.model.language_model(
            inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        target = weights[:, 1:] > 0
        logits = llava.lm_head(hidden[:, :-1][target]).float()  # [answer tokens, V]
        losses = F.cross_entropy(logits, input_ids[:, 1:][target], reduction="none")
        w = weights[:, 1:][target]
        return (losses * w).sum() / w.sum()


def add_lora(model: Any, recipe: StageRecipe) -> Any:
    """LoRA on every linear layer of the language model (PEFT); the base stays frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def precision(setting: str) -> str:
    """Resolve ``auto``: bf16 on a GPU or a processor with bf16 instructions, else no mixed precision."""
    if setting != "auto":
        return setting
    return "bf16" if torch.cuda.is_available() or fast_bfloat16() else "no"


def train_stage(
    model: Any, processor: Any, samples: list[Sample], store: Features | None, recipe: StageRecipe, out: Path,
    *, resume: bool = False,
) -> list[float]:  # fmt: skip
    """Run a stage and write ``out`` (``connector.safetensors``, for instruct also ``adapter/``).

    Args:
        model: A LLaVA model; its projector is trained in place.
        samples: From :func:`tokenise`.
        store: Features of every image in ``samples``; None when there are no images at all.

    Returns:
        The loss of every step run in this call.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import set_seed
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    batches = Batches(samples, store, recipe, pad=processor.tokenizer.pad_token_id)
    accelerator = Accelerator(
        mixed_precision=precision(recipe.mixed_precision),
        cpu=not torch.cuda.is_available(),
        # A batch without an image leaves the connector unused.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(recipe.seed)
    model.requires_grad_(False)
    if recipe.stage == "instruct":
        model = add_lora(model, recipe)
        if recipe.adapter:
            state = load_file(Path(recipe.adapter) / "adapter_model.safetensors")
            set_peft_model_state_dict(model, {k: v.float() for k, v in state.items()})
    base = model.get_base_model() if recipe.stage == "instruct" else model
    projector = base.model.multi_modal_projector
    projector.requires_grad_(True)
    model.train()
    base.model.vision_tower.eval()
    lora = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    groups = [{"params": list(projector.parameters()), "lr": recipe.connector_lr}]
    if lora:
        groups.append({"params": lora, "lr": recipe.lora_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    # The scheduler stays outside of prepare(): accelerate would step it once per process, the schedule counts batches.
    wrapped, optimizer = accelerator.prepare(AnswerLoss(model), optimizer)
    out.mkdir(parents=True, exist_ok=True)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    first = load_checkpoint(out / "checkpoint.pt", trainable, optimizer, scheduler) if resume else 0
    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        # The generator of dropout is keyed by the step, so a resumed run draws the same masks.
        torch.manual_seed(recipe.seed * 1_000_003 + step * 17 + accelerator.process_index)
        batch = batches.get(step, accelerator.process_index, accelerator.num_processes)
        with accelerator.autocast():
            loss = wrapped(**{k: v.to(accelerator.device) for k, v in batch.items()})
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(list(trainable.values()), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(accelerator.gather(loss.detach()).mean()))
        done = step + 1
        if accelerator.is_main_process:
            if done % recipe.log_every == 0 or done == recipe.steps:
                log_step(out, done, losses[-recipe.log_every :], began)
            if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                save_checkpoint(out / "checkpoint.pt", trainable, optimizer, scheduler, done)
                save_trained(model, projector, out, recipe)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        plot_loss(out / "log.jsonl", out / "loss.png", recipe.stage)
    finish(accelerator)
    return losses


def save_trained(model: Any, projector: nn.Module, out: Path, recipe: StageRecipe) -> None:
    """Write connector and adapter in fp16, each whole or not at all, and the recipe beside them."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().half().contiguous() for k, v in projector.state_dict().items()}
    with whole(out / "connector.safetensors") as partial:
        save_file(tensors, partial)
    if recipe.stage == "instruct":
        save_adapter(model, out / "adapter")
    write_recipe(out, recipe)


def plot_loss(log: Path, out: Path, title: str) -> None:
    """Draw the logged loss against the step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.plot([r["step"] for r in rows], [r["loss"] for r in rows])
    axis.set(xlabel="step", ylabel="answer loss", title=title)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
