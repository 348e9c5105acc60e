"""PiToMe (Tran et al. 2024): merge tokens of a vision transformer that say the same, spare those that stand out.

Each token gets an energy, its mean similarity to all others with those below a margin counting against it. Tokens of
high energy lie in large groups of look-alikes (stroma, empty glass); the 2r highest are split by turns into two halves
and every token of the first half joins its most similar one in the second. Merged tokens count by their size: in means,
and in attention, where a token of size s draws as much as s equal ones would ("proportional attention").

    with merged_tower(tower, keep=0.9):      # each layer keeps 90 % of its patch tokens
        tower(pixels)
    tokens, sizes = reduce_tokens(tokens, 64)  # before a connector
    undo = merge_before_connector(model, processor, 64)  # the same inside a LLaVA; off unless a preset says merge_to
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from assistant.errors import BadInput

MARGIN = 0.9  # of the first layer; it falls to 0 with depth
_ALPHA = 1.0  # how much unlike tokens take off
#: What decides which tokens become one: as :func:`assign`.
Assign = Callable[[torch.Tensor, int, float], torch.Tensor]
#: What leaves fewer tokens: as :func:`reduce_tokens`.
Reduce = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


def energy(keys: torch.Tensor, margin: float) -> torch.Tensor:
    """How many look-alikes each token has.

    Args:
        keys: [B, N, D].
        margin: Cosine from which two tokens count as alike.

    Returns:
        [B, N], at most 1.
    """
    return _energy(_similarity(keys), margin)


def assign(keys: torch.Tensor, merges: int, margin: float) -> torch.Tensor:
    """Which tokens become one.

    Args:
        keys: [B, N, D], what likeness is judged by.
        merges: Tokens that disappear, at most N // 2.
        margin: See :func:`energy`.

    Returns:
        New position of every token [B, N], 0 … N − merges − 1; those that stay keep their order.
    """
    similarity = _similarity(keys.detach())
    order = _energy(similarity, margin).argsort(dim=-1, descending=True, stable=True)[:, : 2 * merges]
    leaving, staying = order[:, ::2], order[:, 1::2]  # [B, r] each
    rows = torch.arange(len(keys), device=keys.device)[:, None]
    between = similarity[rows[..., None], leaving[:, :, None], staying[:, None, :]]  # [B, r, r]
    return positions(leaving, staying[rows, between.argmax(dim=-1)], keys.shape[1])


def positions(leaving: torch.Tensor, target: torch.Tensor, tokens: int) -> torch.Tensor:
    """New position of every token [B, ``tokens``] when each token ``leaving`` [B, r] joins its ``target`` [B, r]."""
    rows = torch.arange(len(leaving), device=leaving.device)[:, None]
    stays = torch.ones(len(leaving), tokens, dtype=torch.long, device=leaving.device)
    stays[rows, leaving] = 0
    position = stays.cumsum(dim=1) - 1
    position[rows, leaving] = position[rows, target]
    return position


def merge(
    tokens: torch.Tensor, sizes: torch.Tensor, position: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the tokens [B, N, C] that share a position, weighted by their sizes [B, N]; the new tokens and sizes."""
    weights = sizes.new_zeros(len(tokens), count).scatter_add(1, position, sizes)
    sums = tokens.new_zeros(len(tokens), count, tokens.shape[-1])
    index = position.unsqueeze(-1).expand_as(tokens)
    sums = sums.scatter_add(1, index, tokens * sizes.unsqueeze(-1).to(tokens.dtype))
    return sums / weights.unsqueeze(-1).to(tokens.dtype), weights


def reduce_tokens(tokens: torch.Tensor, count: int, margin: float = MARGIN) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge down to ``count`` tokens, as before a connector; each step at most halves.

    Args:
        tokens: [B, N, C] without class token.
        count: Tokens wanted, 1 … N.
        margin: See :func:`energy`.

    Returns:
        Tokens [B, count, C] and how many each stands for [B, count].

    Raises:
        BadInput: ``count`` is out of range.
    """
    if not 1 <= count <= tokens.shape[1]:
        raise BadInput(f"{count} tokens are wanted of {tokens.shape[1]}; choose 1 to {tokens.shape[1]}")
    sizes = torch.ones(tokens.shape[:2], device=tokens.device)
    while (here := tokens.shape[1]) > count:
        fewer = max(count, here - here // 2)
        tokens, sizes = merge(tokens, sizes, assign(tokens, here - fewer, margin), fewer)
    return tokens, sizes


def merge_before_connector(
    model: Any, processor: Any, count: int, reduce: Reduce = reduce_tokens
) -> Callable[[], None]:
    """Let a LLaVA's connector see only ``count`` tokens of an image, so that the language model reads fewer.

    Nothing is trained. Undo before the model or the processor is saved: the merging itself is no part of a checkpoint.

    Args:
        model: ``LlavaForConditionalGeneration``, in place.
        processor: Its processor, which then writes as many placeholders, or None.
        count: Tokens of an image, 1 … as many as there are.
        reduce: How; another one serves as a control.

    Returns:
        Call it to undo all.

    Raises:
        BadInput: ``count`` is out of range.
    """
    config = model.config
    before = int(config.image_seq_length)
    if not 1 <= count <= before:
        raise BadInput(f"{count} tokens are wanted of {before}; choose 1 to {before}")

    def fewer(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (reduce(args[0], count)[0], *args[1:])

    handle = model.model.multi_modal_projector.register_forward_pre_hook(fewer)
    config.image_seq_length = count
    was = None
    if processor is not None:
        was = processor.patch_size, processor.num_additional_image_tokens
        # It counts patches, adds the additional ones and, for "default", takes the class token off.
        processor.patch_size = int(config.vision_config.image_size)  # one patch
        processor.num_additional_image_tokens = count - 1 + int(processor.vision_feature_select_strategy == "default")

    def undo() -> None:
        handle.remove()
        config.image_seq_length = before
        if was is not None:
            processor.patch_size, processor.num_additional_image_tokens = was

    return undo


def token_counts(patches: int, depth: int, keep: float) -> list[int]:
    """Patch tokens before the first layer and after each, ``depth + 1`` numbers.

    Raises:
        BadInput: ``keep`` is not in [0.5, 1].
    """
    _check_keep(keep)
    counts = [patches]
    for _ in range(depth):
        counts.append(counts[-1] - _merges(counts[-1], keep))
    return counts


def vit_flops(
    counts: Sequence[int], width: int, hidden: int, prefix: int = 1, patch_size: int = 16, heads: int | None = None
) -> int:
    """Floating-point operations (two a multiply-add) of a vision transformer for one image, merging included.

    Norms, activations and softmax are left out, as in the usual counts.

    Args:
        counts: From :func:`token_counts`.
        width: Channels of a token.
        hidden: Channels inside the MLP.
        prefix: Class and register tokens.
        patch_size: Side of a patch in pixels, of three channels.
        heads: Attention heads, over which keys are averaged for merging; None leaves the cost of merging out.
    """
    total = counts[0] * width * 3 * patch_size**2
    for before, after in itertools.pairwise(counts):
        n = before + prefix
        total += 4 * n * width**2 + 2 * n * n * width  # projections, and scores and mixing
        total += 2 * (after + prefix) * width * hidden
        if heads and after < before:
            total += before * before * (width // heads)  # similarity of keys
    return 2 * total


@dataclass
class _State:
    """What the layers of one tower share during a forward pass."""

    keep: float
    prefix: int
    depth: int
    assign: Assign
    sizes: torch.Tensor | None = None  # [B, prefix + N]; None while every token is one
    keys: torch.Tensor | None = None  # [B, prefix + N, D] of the current layer
    undo: list[Callable[[], None]] = field(default_factory=list)

    def bias(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Additive attention mask [B, 1, N, N] that makes attention proportional to sizes."""
        if self.sizes is None:
            return None
        count = tokens.shape[1]
        return self.sizes.log().to(tokens.dtype)[:, None, None, :].expand(-1, 1, count, -1)

    def merged(self, tokens: torch.Tensor, layer: int) -> torch.Tensor:
        """The tokens after this layer's merges; class and register tokens always stay."""
        here = tokens.shape[1] - self.prefix
        fewer = _merges(here, self.keep)
        if not fewer or self.keys is None:
            return tokens
        margin = MARGIN * (1 - layer / self.depth)
        position = self.assign(self.keys[:, self.prefix :].float(), fewer, margin) + self.prefix
        fixed = torch.arange(self.prefix, device=tokens.device).expand(len(tokens), -1)
        sizes = torch.ones(tokens.shape[:2], device=tokens.device) if self.sizes is None else self.sizes
        position = torch.cat([fixed, position], dim=1)
        tokens, self.sizes = merge(tokens, sizes, position, tokens.shape[1] - fewer)
        return tokens


@contextmanager
def merged_tower(tower: Any, keep: float, choose: Assign = assign) -> Iterator[Any]:
    """Merge tokens inside a timm ``VisionTransformer`` or a Hugging Face CLIP vision tower while the block runs.

    Weights are untouched, and afterwards the tower is as before; with ``keep=1`` it is never changed.

    Args:
        tower: The network, or a wrapper that holds one as ``backbone``, ``vision_model`` or ``trunk``.
        keep: Share of the patch tokens that each layer passes on, 0.5 … 1.
        choose: Which tokens become one; another rule than PiToMe's serves as a control.

    Raises:
        BadInput: Another kind of network, or ``keep`` out of range.
    """
    _check_keep(keep)
    network = _network(tower)
    if keep == 1:
        yield tower
        return
    is_timm = hasattr(network, "blocks")
    layers = network.blocks if is_timm else network.encoder.layers
    state = _State(keep, int(network.num_prefix_tokens) if is_timm else 1, len(layers), choose)
    try:
        for index, layer in enumerate(layers):
            (_patch_timm if is_timm else _patch_clip)(layer, index, state)
        yield tower
    finally:
        for undo in state.undo:
            undo()


def _patch_timm(block: Any, index: int, state: _State) -> None:
    heads = block.attn.num_heads

    def note_keys(module: Any, args: Any, output: torch.Tensor) -> None:
        keys = output.chunk(3, dim=-1)[1]
        state.keys = keys.unflatten(-1, (heads, -1)).mean(dim=2)

    def forward(tokens: torch.Tensor, attn_mask: Any = None, is_causal: bool = False) -> torch.Tensor:
        if index == 0:
            state.sizes = None
        attended = block.attn(block.norm1(tokens), attn_mask=state.bias(tokens))
        tokens = state.merged(tokens + block.drop_path1(block.ls1(attended)), index)
        passed: torch.Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return passed

    _replace(block, forward, state)
    state.undo.append(block.attn.qkv.register_forward_hook(note_keys).remove)


def _patch_clip(layer: Any, index: int, state: _State) -> None:
    heads = layer.self_attn.num_heads

    def note_keys(module: Any, args: Any, output: torch.Tensor) -> None:
        state.keys = output.unflatten(-1, (heads, -1)).mean(dim=2)

    def forward(hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        if index == 0:
            state.sizes = None
        normed = layer.layer_norm1(hidden_states)
        attended, _ = layer.self_attn(hidden_states=normed, attention_mask=state.bias(hidden_states), **kwargs)
        tokens = state.merged(hidden_states + attended, index)
        passed: torch.Tensor = tokens + layer.mlp(layer.layer_norm2(tokens))
        return passed

    _replace(layer, forward, state)
    state.undo.append(layer.self_attn.k_proj.register_forward_hook(note_keys).remove)


def _replace(module: Any, forward: Callable[..., torch.Tensor], state: _State) -> None:
    module.forward = forward
    state.undo.append(lambda: module.__dict__.pop("forward", None))


def _network(tower: Any) -> Any:
    """The transformer inside a tower."""
    seen = tower
    for _ in range(3):
        blocks = getattr(seen, "blocks", None)
        if blocks is not None and hasattr(blocks[0], "attn") and hasattr(blocks[0].attn, "qkv"):
            return seen
        layers = getattr(getattr(seen, "encoder", None), "layers", None)
        if layers is not None and hasattr(layers[0], "layer_norm1"):
            return seen
        inner = next((getattr(seen, n) for n in ("backbone", "vision_model", "trunk") if hasattr(seen, n)), None)
        if inner is None:
            break
        seen = inner
    raise BadInput(
        f"tokens of a {type(tower).__name__} cannot be merged; give a timm VisionTransformer or a CLIPVisionModel"
    )


def _similarity(keys: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(keys, dim=-1)
    return unit @ unit.transpose(-1, -2)


def _energy(similarity: torch.Tensor, margin: float) -> torch.Tensor:
    against = _ALPHA * ((similarity - margin).clamp(max=0).exp() - 1)
    return torch.where(similarity >= margin, similarity, against).mean(dim=-1)


def _merges(tokens: int, keep: float) -> int:
    """Tokens that disappear of so many; the small term undoes rounding, as of 10 − 10 · 0.9."""
    return min(math.floor(tokens - tokens * keep + 1e-9), tokens // 2)


def _check_keep(keep: float) -> None:
    if not 0.5 <= keep <= 1:
        raise BadInput(f"keep is {keep:g}; each layer may keep between 0.5 and 1 of its tokens")
