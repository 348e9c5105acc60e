"""Engines: prefill embeddings, then decode token by token or score fixed continuations.

Two engines with one interface, chosen by :func:`make_engine`:

- :class:`HFEngine` calls the Hugging Face model with its own cache. Any causal language model or LLaVA, any device.
- :class:`Int8LlamaEngine` keeps prefill and scoring as they are, in full precision, and decodes with its own loop over
  8-bit weights. For a Llama on the CPU, where a step of the Hugging Face model spends its time on call overhead and on
  reading 32-bit weights. ``eval/results/bench.md`` has the measurements and the engines that were tried instead.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    import threading

#: Most logits held at once while scoring (256 MiB in float32).
_SCORE_LOGITS = 1 << 26
#: Rotary embeddings that depend on the position alone.
_FIXED_ROPE = {"default", "linear", "llama3"}

Step = Callable[[int], Tensor]


@dataclass(frozen=True)
class Prefix:
    """A prompt the model has read; it can be decoded from and scored against any number of times.

    Attributes:
        cache: The Hugging Face key/value cache. Never changed by an engine.
        logits: Scores of the next token, float32 on the CPU, [V].
        length: Positions in the cache.
    """

    cache: Any
    logits: Tensor
    length: int


class HFEngine:
    """The generic engine: calls ``model`` itself, so whatever transformers supports works.

    Args:
        model: A causal language model or a LLaVA in evaluation mode.
        compute: Autocast type of prefill and scoring, as in training; None computes in the model's own type.
    """

    def __init__(self, model: Any, compute: torch.dtype | None = None) -> None:
        self.model = model
        self.compute = compute

    def _precision(self) -> torch.autocast:
        device = self.model.device.type
        return torch.autocast(device, dtype=self.compute or torch.bfloat16, enabled=self.compute is not None)

    @torch.inference_mode()
    def prefill(self, inputs_embeds: Tensor) -> Prefix:
        """Read a prompt given as embeddings [1, T, D] (visual tokens in their places)."""
        with self._precision():
            out = self.model(inputs_embeds=inputs_embeds, use_cache=True, logits_to_keep=1)
        return Prefix(out.past_key_values, out.logits[0, -1].float().cpu(), inputs_embeds.shape[1])

    def generate(
        self,
        prompt: Tensor | Prefix,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        eos_ids: Collection[int] = (),
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Decode after a prompt.

        Args:
            prompt: Embeddings [1, T, D], or what :meth:`prefill` returned for them.
            max_new_tokens: Most tokens to yield.
            temperature: 0 takes the likeliest token; above it samples.
            top_p: Samples only from the likeliest tokens that together have this probability.
            generator: CPU generator that makes sampling repeatable.
            eos_ids: Tokens that end the text. The one that did is yielded too, as the last.
            stop: Looked at before every token; once set, nothing more is yielded.

        Yields:
            Token id and its log-probability under the model (at temperature 1, before ``top_p``).
        """
        prefix = prompt if isinstance(prompt, Prefix) else self.prefill(prompt)
        step, logits = self.stepper(prefix, max_new_tokens), prefix.logits
        for left in range(max_new_tokens - 1, -1, -1):
            if stop is not None and stop.is_set():
                return
            token, logprob = _choose(logits, temperature, top_p, generator)
            yield token, logprob
            if token in eos_ids or not left:
                return
            logits = step(token)

    @torch.inference_mode()
    def score(self, prompt: Tensor | Prefix, continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token of each continuation after the same prompt.

        Args:
            prompt: Embeddings [1, T, D], or what :meth:`prefill` returned for them.
            continuations: Token ids; they may differ in length.

        Returns:
            One list per continuation, as long as it.
        """
        prefix = prompt if isinstance(prompt, Prefix) else self.prefill(prompt)
        first = torch.log_softmax(prefix.logits, -1)
        scores = [[float(first[row[0]])] if row else [] for row in continuations]
        longer = [i for i, row in enumerate(continuations) if len(row) > 1]
        if not longer:
            return scores
        width = max(len(continuations[i]) for i in longer) - 1  # the last token is predicted, never read
        at_once = max(1, _SCORE_LOGITS // (width * prefix.logits.shape[0]))
        for start in range(0, len(longer), at_once):
            rows = [list(continuations[i]) for i in longer[start : start + at_once]]
            for i, values in zip(longer[start:], self._score_rows(prefix, rows, width), strict=False):
                scores[i] += values
        return scores

    def _score_rows(self, prefix: Prefix, rows: list[list[int]], width: int) -> list[list[float]]:
        """Log-probabilities from the second token on. Padding stands on the right, where causality hides it."""
        read = torch.tensor([(row[:-1] + [0] * width)[:width] for row in rows])  # [K, width]
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(rows))
        with self._precision():
            out = self.model(input_ids=read.to(self.model.device), past_key_values=cache, use_cache=True)
        logprobs = torch.log_softmax(out.logits.float(), -1).cpu()  # [K, width, V]
        return [logprobs[k, range(len(row) - 1), row[1:]].tolist() for k, row in enumerate(rows)]

    @torch.inference_mode()
    def stepper(self, prefix: Prefix, room: int) -> Step:
        """A function from the next token to the logits [V] after it (float32, CPU), for at most ``room`` tokens."""
        cache, model = copy.deepcopy(prefix.cache), self.model

        @torch.inference_mode()
        def step(token: int) -> Tensor:
            ids = torch.tensor([[token]], device=model.device)
            with self._precision():
                logits: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            return logits[0, -1].float().cpu()

        return step


def make_engine(model: Any, compute: torch.dtype | None = None) -> HFEngine:
    """The fastest engine that fits a model where it is: 8-bit decoding for a plain Llama on the CPU, else generic."""
    return (Int8LlamaEngine if Int8LlamaEngine.fits(model) else HFEngine)(model, compute)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware, so that autocast is faster than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> tuple[int, float]:
    """The next token from logits [V], and its log-probability under the untempered distribution."""
    logprobs = torch.log_softmax(logits, -1)
    if temperature <= 0:
        token = int(logprobs.argmax())
    else:
        # The best is 0 before the division: at a temperature near 0 the others become -inf, and none a NaN.
        probabilities = torch.softmax((logits - logits.max()).double() / max(temperature, 1e-30), -1)
        if top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # the likeliest token always stays
            probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered * (before < top_p))
        token = int(torch.multinomial(probabilities, 1, generator=generator))
    return token, float(logprobs[token])


# -- 8-bit decoding of a Llama -----------------------------------------------------------------------------------------

Packed = tuple[Tensor, Tensor]


def _pack(weight: Tensor) -> Packed:
    """Weight [N, K] as int8 with one bfloat16 scale per row, the layout of ``torch._weight_int8pack_mm``."""
    weight = weight.float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12).bfloat16()
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


@dataclass(frozen=True)
class _Layer:
    norm: Tensor
    qkv: Packed  # [(H + 2 KV) D, hidden]
    out: Packed
    norm_mlp: Tensor
    gate_up: Packed  # [2 I, hidden]
    down: Packed


class Int8LlamaEngine(HFEngine):
    """Decodes a Llama on the CPU with 8-bit weights (per row, symmetric) and bfloat16 products added up in float32.

    The residual stream, rotary embedding, attention and cache stay float32. The 8-bit weights are a copy, a quarter of
    the model's size; prefill and scoring use the model as it is.

    Args:
        model: A Llama language model or a LLaVA over one for which :meth:`fits` is true, adapters merged.
        compute: As for :class:`HFEngine`; decoding itself is not affected.
    """

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this engine can decode ``model``: an unquantised, adapter-free Llama on the CPU."""
        from transformers import LlamaModel

        decoder, head = model.get_decoder(), model.get_output_embeddings()
        if type(decoder) is not LlamaModel or decoder.device.type != "cpu" or type(head) is not nn.Linear:
            return False
        config = decoder.config
        # Quantised and adapted layers are other classes than nn.Linear, or hold one under another name.
        linear = {m for m in decoder.layers.modules() if isinstance(m, nn.Linear)} | {head}
        plain = all(type(m) is nn.Linear and m.bias is None for m in linear)
        return (
            plain
            and len(linear) == 7 * len(decoder.layers) + 1
            and config.hidden_act == "silu"
            and decoder.rotary_emb.rope_type in _FIXED_ROPE
        )

    def __init__(self, model: Any, compute: torch.dtype | None = None) -> None:
        super().__init__(model, compute)
        decoder = model.get_decoder()
        config = decoder.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = decoder.layers[0].self_attn.head_dim
        self.hidden, self.eps = config.hidden_size, config.rms_norm_eps
        # Rotation as one complex product needs the two halves of a head interleaved: (i, i + D/2) → (2i, 2i + 1).
        self.interleave = torch.arange(self.head_dim).view(2, -1).t().reshape(-1)
        self.embedding = decoder.embed_tokens.weight
        self.frequencies = decoder.rotary_emb.inv_freq.float()
        self.rope_scale = float(decoder.rotary_emb.attention_scaling)
        with torch.inference_mode():
            self.layers = [self._pack_layer(layer) for layer in decoder.layers]
            self.norm = decoder.norm.weight.float()
            self.head = _pack(model.get_output_embeddings().weight)

    def _pack_layer(self, layer: Any) -> _Layer:
        """One layer, with attention's 1/√D multiplied into the query rows."""
        attention, mlp = layer.self_attn, layer.mlp

        def interleaved(weight: Tensor) -> Tensor:
            return weight.view(-1, self.head_dim, self.hidden)[:, self.interleave].reshape(-1, self.hidden)

        query = interleaved(attention.q_proj.weight) * attention.scaling
        qkv = torch.cat([query, interleaved(attention.k_proj.weight), attention.v_proj.weight])
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return _Layer(
            norm=layer.input_layernorm.weight.float(),
            qkv=_pack(qkv),
            out=_pack(attention.o_proj.weight),
            norm_mlp=layer.post_attention_layernorm.weight.float(),
            gate_up=_pack(gate_up),
            down=_pack(mlp.down_proj.weight),
        )

    @torch.inference_mode()
    def stepper(self, prefix: Prefix, room: int) -> Step:
        return _Int8Steps(self, prefix, room)


class _Int8Steps:
    """One decoding in progress: its cache and the buffers of a step, allocated once since a step is ~600 small calls.

    Keys (interleaved, rotated) and values lie in one cache [layers, 2 KV, positions, D] so that one copy writes both.
    """

    def __init__(self, engine: Int8LlamaEngine, prefix: Prefix, room: int) -> None:
        self.engine, self.position = engine, prefix.length
        heads, kv, dim = engine.heads, engine.kv_heads, engine.head_dim
        rows, end = heads + 2 * kv, prefix.length + room
        cache = torch.empty(len(engine.layers), 2 * kv, end, dim)
        for mine, theirs in zip(cache, prefix.cache.layers, strict=True):
            mine[:kv, : prefix.length] = theirs.keys[0][..., engine.interleave]
            mine[kv:, : prefix.length] = theirs.values[0]
        self.layers = [(w, c[:kv].transpose(1, 2), c[kv:], c) for w, c in zip(engine.layers, cache, strict=True)]

        angles = torch.outer(torch.arange(prefix.length, end).float(), engine.frequencies)
        self.turns = torch.ones(room, rows, dim // 2, dtype=torch.complex64)  # values are turned by nothing
        self.turns[:, : heads + kv] = torch.polar(torch.full_like(angles, engine.rope_scale), angles)[:, None]

        self.normed = torch.empty(1, engine.hidden, dtype=torch.bfloat16)
        self.qkv, turned = torch.empty(rows, dim), torch.empty(rows, dim)
        self.qkv_complex, self.turned = (torch.view_as_complex(t.view(rows, dim // 2, 2)) for t in (self.qkv, turned))
        self.query = turned[:heads].view(kv, heads // kv, dim)  # query heads grouped by the key/value head they share
        self.key_value = turned[heads:]
        self.mixed = torch.empty(kv, heads // kv, dim)
        self.mixed_low = torch.empty(1, heads * dim, dtype=torch.bfloat16)
        self.turn = 0

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        multiply, normed = torch._weight_int8pack_mm, self.normed
        position, turns = self.position, self.turns[self.turn]
        end = position + 1
        x = self.engine.embedding[token].float()[None].clone()  # [1, hidden]
        for weights, keys, values, cache in self.layers:
            self._norm(x, weights.norm)
            self.qkv.copy_(multiply(normed, *weights.qkv).view_as(self.qkv))
            torch.mul(self.qkv_complex, turns, out=self.turned)
            cache[:, position].copy_(self.key_value)
            attention = torch.softmax(torch.bmm(self.query, keys[:, :, :end]), -1)  # [KV, H / KV, end]
            torch.bmm(attention, values[:, :end], out=self.mixed)
            self.mixed_low.copy_(self.mixed.view(1, -1))
            x.add_(multiply(self.mixed_low, *weights.out))
            self._norm(x, weights.norm_mlp)
            gate, up = multiply(normed, *weights.gate_up).chunk(2, -1)
            x.add_(multiply(functional.silu(gate).mul_(up), *weights.down))
        self._norm(x, self.engine.norm)
        self.position, self.turn = end, self.turn + 1
        return multiply(normed, *self.engine.head)[0].float()

    def _norm(self, x: Tensor, weight: Tensor) -> None:
        """RMS norm of x [1, hidden] into the buffer. These calls together take half the time of ``rms_norm``."""
        flat = x.view(-1)
        mean_square = torch.dot(flat, flat).item() / self.engine.hidden
        self.normed.copy_((x * (1 / math.sqrt(mean_square + self.engine.eps))).mul_(weight))
