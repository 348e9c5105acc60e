"""Both engines against the Hugging Face model they stand for."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from assistant.model.engine import HFEngine, Int8LlamaEngine, make_engine

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,  # wide logits: the likeliest token leads clearly
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
STEPS = 24
CONTINUATIONS = [[5], [7, 8, 9], [11, 12, 13, 14, 15, 16], [7, 8]]


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**(SHAPE | changes))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # a fresh model has ones here, which would hide a norm that is left out
                weight.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return llama()


@pytest.fixture(scope="module")
def embeds() -> torch.Tensor:
    """A prompt that no token ids could give, as with visual tokens."""
    return torch.randn(1, 13, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[HFEngine, Int8LlamaEngine])
def engine(request: pytest.FixtureRequest, model: LlamaForCausalLM) -> HFEngine:
    return request.param(model)


def ids(stream: Any) -> list[int]:
    return [token for token, _ in stream]


def reference(model: Any, embeds: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities [len(tokens), V] of the tokens after a prompt, from one pass without any cache."""
    with torch.no_grad():
        whole = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([tokens]))], 1)
        logits = model(inputs_embeds=whole, use_cache=False).logits[0, embeds.shape[1] - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_and_logprobs_are_the_models(
    engine: HFEngine, model: LlamaForCausalLM, embeds: torch.Tensor, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    produced = list(engine.generate(embeds, max_new_tokens=STEPS, temperature=temperature, generator=generator))
    tokens = [token for token, _ in produced]
    assert len(tokens) == STEPS
    wanted = reference(model, embeds, tokens)
    got = torch.tensor([logprob for _, logprob in produced])
    chosen = wanted[range(STEPS), tokens]
    tolerance = 1e-3 if type(engine) is HFEngine else 1.0  # 8 bits hurt random weights far more than trained ones
    assert (got - chosen).abs().max() < tolerance
    assert (got - chosen).abs().mean() < tolerance / 6
    if temperature == 0:
        assert (wanted.max(-1).values - chosen).max() < tolerance


def test_greedy_equals_hugging_face_generate(embeds: torch.Tensor) -> None:
    for generic in (llama(), Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()):
        wanted = generic.generate(inputs_embeds=embeds, max_new_tokens=STEPS, do_sample=False)[0].tolist()
        engine = HFEngine(generic)
        assert ids(engine.generate(embeds, max_new_tokens=STEPS)) == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "head_dim": 32},
        {"tie_word_embeddings": False},
        {"dtype": torch.bfloat16},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["multi-head", "one key head", "untied head", "bfloat16", "llama3 rope"],
)
def test_eight_bit_decoding_fits_every_plain_llama(changes: dict[str, Any], embeds: torch.Tensor) -> None:
    other = llama(**changes)
    other = other.to(changes.get("dtype", torch.float32))
    engine = make_engine(other)
    assert type(engine) is Int8LlamaEngine
    prompt = embeds.to(other.dtype)
    produced = list(engine.generate(prompt, max_new_tokens=STEPS))
    tokens = [token for token, _ in produced]
    wanted = reference(other, prompt, tokens)[range(STEPS), tokens]
    assert (torch.tensor([logprob for _, logprob in produced]) - wanted).abs().mean() < 0.2


def test_scores_are_the_models(engine: HFEngine, model: LlamaForCausalLM, embeds: torch.Tensor) -> None:
    scores = engine.score(embeds, CONTINUATIONS)
    for tokens, row in zip(CONTINUATIONS, scores, strict=True):
        wanted = reference(model, embeds, tokens)[range(len(tokens)), tokens]
        assert row == pytest.approx(wanted.tolist(), abs=1e-4)


def test_scores_do_not_depend_on_the_batch(engine: HFEngine, embeds: torch.Tensor, monkeypatch: Any) -> None:
    together = engine.score(embeds, CONTINUATIONS)
    monkeypatch.setattr("assistant.model.engine._SCORE_LOGITS", 1)  # one continuation at a time
    apart = engine.score(embeds, CONTINUATIONS)
    assert apart == [pytest.approx(row, abs=1e-4) for row in together]
    assert engine.score(embeds, []) == []
    assert engine.score(embeds, [[], [5]])[0] == []


def test_a_prefix_is_read_once_and_reused(engine: HFEngine, embeds: torch.Tensor, monkeypatch: Any) -> None:
    wanted = ids(engine.generate(embeds, max_new_tokens=8)), engine.score(embeds, CONTINUATIONS)
    prefix = engine.prefill(embeds)
    monkeypatch.setattr(engine, "prefill", lambda _: pytest.fail("the prompt was read again"))
    for _ in range(2):
        abandoned = engine.generate(prefix, max_new_tokens=8)
        next(abandoned)
        assert ids(engine.generate(prefix, max_new_tokens=8)) == wanted[0]
        assert engine.score(prefix, CONTINUATIONS) == [pytest.approx(row, abs=1e-6) for row in wanted[1]]
    assert prefix.length == prefix.cache.get_seq_length() == embeds.shape[1]


def test_streams_may_interleave(engine: HFEngine, embeds: torch.Tensor) -> None:
    other = embeds.flip(1)
    apart = ids(engine.generate(embeds, max_new_tokens=6)), ids(engine.generate(other, max_new_tokens=6))
    pairs = list(zip(engine.generate(embeds, max_new_tokens=6), engine.generate(other, max_new_tokens=6), strict=True))
    assert ([a for (a, _), _ in pairs], [b for _, (b, _) in pairs]) == apart


def test_an_end_token_is_yielded_last(engine: HFEngine, embeds: torch.Tensor) -> None:
    free = ids(engine.generate(embeds, max_new_tokens=STEPS))
    end = free[4]
    cut = free[: free.index(end) + 1]
    assert ids(engine.generate(embeds, max_new_tokens=STEPS, eos_ids={end, 999})) == cut
    assert ids(engine.generate(embeds, max_new_tokens=1)) == free[:1]


def test_stop_ends_the_stream_before_the_next_token(engine: HFEngine, embeds: torch.Tensor) -> None:
    stop = threading.Event()
    stream = engine.generate(embeds, max_new_tokens=STEPS, stop=stop)
    first = ids(itertools.islice(stream, 3))
    stop.set()
    assert len(first) == 3
    assert list(stream) == []
    assert list(engine.generate(embeds, max_new_tokens=STEPS, stop=stop)) == []


def test_sampling_repeats_with_the_seed_only(engine: HFEngine, embeds: torch.Tensor) -> None:
    def sample(seed: int, **settings: Any) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return ids(engine.generate(embeds, max_new_tokens=STEPS, generator=generator, **settings))

    greedy = ids(engine.generate(embeds, max_new_tokens=STEPS))
    hot = {"temperature": 2.0}
    assert sample(1, **hot) == sample(1, **hot)
    assert len({tuple(sample(seed, **hot)) for seed in range(4)}) > 1
    assert sample(1, temperature=2.0, top_p=1e-6) == greedy  # the nucleus is the likeliest token alone


def test_top_p_never_samples_outside_the_nucleus(engine: HFEngine, embeds: torch.Tensor) -> None:
    prefix = engine.prefill(embeds)
    chances, order = torch.softmax(prefix.logits / 2, -1).sort(descending=True)
    nucleus = order[: int((chances.cumsum(-1) < 0.7).sum()) + 1].tolist()
    assert 1 < len(nucleus) < 60
    generator = torch.Generator().manual_seed(0)
    settings = {"max_new_tokens": 1, "temperature": 2.0, "generator": generator}
    narrow = {ids(engine.generate(prefix, top_p=0.7, **settings))[0] for _ in range(300)}
    wide = {ids(engine.generate(prefix, **settings))[0] for _ in range(300)}
    assert narrow <= set(nucleus)
    assert len(narrow) > 1
    assert not wide <= set(nucleus)


def test_a_llava_gets_the_fast_engine_and_a_caller_stays_outside_inference_mode(tiny_llava: tuple[Any, Any]) -> None:
    model, _ = tiny_llava
    engine = make_engine(model)
    assert type(engine) is Int8LlamaEngine
    tokens = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))
    prompt = model.get_input_embeddings()(tokens).detach()
    for _ in engine.generate(prompt, max_new_tokens=3):
        assert not torch.is_inference_mode_enabled()
    generic = HFEngine(model)
    wanted = model.generate(inputs_embeds=prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)[0].tolist()
    got = ids(generic.generate(prompt, max_new_tokens=6, eos_ids={2}))
    assert got == wanted[: len(got)]


def test_other_models_get_the_generic_engine(model: LlamaForCausalLM) -> None:
    from peft import LoraConfig, get_peft_model

    assert type(make_engine(model)) is Int8LlamaEngine
    assert type(make_engine(Qwen2ForCausalLM(Qwen2Config(**SHAPE)))) is HFEngine
    assert type(make_engine(llama(attention_bias=True))) is HFEngine
    assert type(make_engine(llama(hidden_act="gelu"))) is HFEngine
    adapted = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert type(make_engine(adapted)) is HFEngine
    assert type(make_engine(adapted.base_model.model)) is HFEngine
    assert type(make_engine(adapted.merge_and_unload())) is Int8LlamaEngine


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-6])
@pytest.mark.parametrize("top_p", [1.0, 0.5, 5e-324])
def test_a_temperature_near_zero_takes_the_likeliest_token(temperature: float, top_p: float) -> None:
    from assistant.model.engine import _choose

    logits = torch.tensor([-30.0, 12.5, 12.25, 3.0])
    token, logprob = _choose(logits, temperature, top_p, torch.Generator().manual_seed(0))
    assert token == 1
    assert logprob == pytest.approx(float(torch.log_softmax(logits, -1)[1]))
