"""Every preset's layout, built from tiny checkpoints in the hub's own formats, answers and survives a round trip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)

from assistant.errors import BadInput, NotAvailable
from assistant.model.build import (
    build_from_preset,
    build_llava,
    freeze_identity,
    image_processor,
    load_processor,
    quantization_config,
)
from assistant.model.connectors import TiledImageProcessor, TiledTower
from assistant.model.convert import Preprocess, clip_vision_from_open_clip
from assistant.model.preset import Preset, load_preset
from tests.checkpoints import (
    LLAMA3_TEMPLATE,
    QWEN2_TEMPLATE,
    realigned,
    tiny_vit,
    tiny_vit_config,
    write_llama3,
    write_open_clip,
    write_qwen2,
    write_vicuna,
)

WRITERS = {"pathasst-13b": write_vicuna, "pa-llava-8b": write_llama3, "qwen-7b": write_qwen2}
TEXT_ONLY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which organ?"},
    {"role": "assistant", "content": "lung"},
    {"role": "user", "content": "Sure?"},
]


def tiny_preset(name: str) -> Preset:
    """The shipped preset with only the sizes of its parts changed."""
    preset = load_preset(name)
    assert preset.vision is not None
    assert preset.connector is not None
    vision = replace(preset.vision, architecture="tiny-build-vit", image_size=32, hidden_size=32, tokens=16)
    heads = 4 if preset.connector.heads else 0
    return replace(preset, vision=vision, connector=replace(preset.connector, heads=heads))


def write_vision(name: str, folder: Path) -> Path:
    """PathCLIP is one checkpoint file without a configuration, QuiltNet a folder in open_clip's layout."""
    quick = name != "pa-llava-8b"
    config = tiny_vit_config(quick_gelu=quick)
    model = tiny_vit(config)
    if not quick:
        return write_open_clip(folder, config, model, safetensors=False)
    folder.mkdir(parents=True)
    (folder.parent / "tiny-build-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder.parent / "tiny-build-vit.json")
    torch.save(model.state_dict(), folder / "pathclip-base.pt")
    return folder


@pytest.fixture(scope="module", params=list(WRITERS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, Path]:
    """(preset name, model, processor, folder of the language model) of one preset."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp(request.param)
    language = WRITERS[request.param](root / "language")
    model, processor = build_from_preset(tiny_preset(request.param), write_vision(request.param, root / "v"), language)
    return request.param, model, processor, language


def inputs_for(processor: Any, image: Image.Image, **options: Any) -> Any:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Which organ?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        **options,
    ).to(torch.bfloat16)


def test_answers_and_survives_the_round_trip(built: Any, tmp_path: Path, field: Image.Image) -> None:
    name, model, processor, _ = built
    assert type(model) is LlavaForConditionalGeneration
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    inputs = inputs_for(processor, field)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == model.config.image_seq_length == 16
    with torch.no_grad():
        logits = model(**inputs).logits
        tokens = model.generate(**inputs, min_new_tokens=3, max_new_tokens=3)
    assert tokens.shape[1] == inputs["input_ids"].shape[1] + 3
    assert torch.isfinite(logits).all()
    tower = model.config.vision_config
    act = getattr(tower, "inner_config", tower).hidden_act
    assert act == ("gelu" if name == "pa-llava-8b" else "quick_gelu")

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = realigned(AutoModelForImageTextToText.from_pretrained(tmp_path).eval())
    again = load_processor(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(again)
    repeated = inputs_for(again, field)
    assert all(torch.equal(repeated[key], inputs[key]) for key in inputs)
    with torch.no_grad():
        assert torch.equal(realigned(model)(**inputs).logits, loaded(**repeated).logits)
        assert torch.equal(loaded.generate(**repeated, min_new_tokens=3, max_new_tokens=3), tokens)


def test_the_image_changes_the_answer(built: Any, field: Image.Image) -> None:
    _, model, processor, _ = built
    with torch.no_grad():
        seen = model(**inputs_for(processor, field)).logits[0, -1]
        other = model(**inputs_for(processor, field.transpose(Image.Transpose.ROTATE_90))).logits[0, -1]
    assert not torch.equal(seen, other)


def test_text_alone_gives_the_language_models_own_logits(built: Any) -> None:
    _, model, processor, folder = built
    language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = torch.tensor([processor.tokenizer("Which organ?")["input_ids"]])
    with torch.no_grad():
        expected = realigned(language)(ids).logits
        assert torch.equal(realigned(model)(input_ids=ids).logits[..., : expected.shape[-1]], expected)


def test_image_token_is_one_special_token_with_a_row(built: Any) -> None:
    name, model, processor, folder = built
    image_id = processor.image_token_id
    original = AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert image_id == model.config.image_token_id == len(original)
    assert processor.tokenizer.encode("<image>", add_special_tokens=False) == [image_id]
    assert processor.tokenizer.decode([image_id], skip_special_tokens=True) == ""
    grown = model.get_input_embeddings().weight
    assert grown.shape[0] == model.lm_head.weight.shape[0] == model.config.text_config.vocab_size
    assert grown.shape[0] == (rows if name == "qwen-7b" else rows + 1)


def test_generation_stops_at_every_end_token_and_never_writes_an_image(built: Any) -> None:
    name, model, processor, _ = built
    config = model.generation_config
    ends = {"pathasst-13b": ["</s>"], "pa-llava-8b": ["<|end_of_text|>", "<|eot_id|>"],
            "qwen-7b": ["<|endoftext|>", "<|im_end|>"]}[name]  # fmt: skip
    assert processor.tokenizer.convert_ids_to_tokens(config.eos_token_id) == ends
    assert config.suppress_tokens == [processor.image_token_id]
    assert not config.do_sample
    assert config.pad_token_id is not None


def test_mask_covers_answers_and_their_ends(built: Any, field: Image.Image) -> None:
    name, _, processor, _ = built
    messages = [
        {"role": "user", "content": [{"type": "image", "image": field}, {"type": "text", "text": "Which organ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "lung"}]},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "yes"},
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    answers = inputs["input_ids"][0][inputs["assistant_masks"][0].bool()]
    end = {"pathasst-13b": "</s>", "pa-llava-8b": "<|eot_id|>", "qwen-7b": "<|im_end|>"}[name]
    assert processor.tokenizer.decode(answers).replace(" ", "") == f"lung{end}yes{end}"
    prompt = inputs_for(processor, field)["input_ids"][0]
    assert torch.equal(inputs["input_ids"][0][: len(prompt)], prompt), "training and asking see different prompts"
    bos = processor.tokenizer.bos_token_id
    assert bos is None or (prompt == bos).sum() == 1


def test_templates_equal_the_models_own_on_text(built: Any) -> None:
    name, _, processor, _ = built
    ours = processor.apply_chat_template(TEXT_ONLY, add_generation_prompt=True)
    if name == "pathasst-13b":  # FastChat's vicuna_v1.1; the hub has no template
        assert ours == "<s>Be brief. USER: Which organ? ASSISTANT: lung</s>USER: Sure? ASSISTANT:"
        default = processor.apply_chat_template(TEXT_ONLY[1:2], add_generation_prompt=True)
        assert default == (
            "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: Which organ? ASSISTANT:"
        )
        return
    own = LLAMA3_TEMPLATE if name == "pa-llava-8b" else QWEN2_TEMPLATE
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    expected = environment.from_string(own).render(
        messages=TEXT_ONLY, add_generation_prompt=True, bos_token="<|begin_of_text|>"
    )
    assert ours == expected


def test_linear_connectors_are_one_linear_layer(built: Any) -> None:
    name, model, _, _ = built
    projector = model.model.multi_modal_projector
    features = torch.randn(2, 5, 32, dtype=torch.bfloat16)
    linear = torch.equal(projector(features), projector.linear_1(features))
    assert linear == (name != "qwen-7b")
    trainable = {n for n, p in projector.named_parameters() if p.requires_grad}
    assert ("linear_2.weight" in trainable) == (name == "qwen-7b")
    projector.requires_grad_(True)
    freeze_identity(model)
    assert {n for n, p in projector.named_parameters() if p.requires_grad} == trainable


def test_pa_llava_sees_tiles(built: Any) -> None:
    name, model, processor, _ = built
    tiled = name == "pa-llava-8b"
    assert isinstance(model.model.vision_tower, TiledTower) == tiled
    assert isinstance(processor.image_processor, TiledImageProcessor) == tiled
    if tiled:
        counts = set()
        for size in ((64, 64), (900, 60), (300, 200)):
            inputs = inputs_for(processor, Image.new("RGB", size, (180, 90, 150)))
            counts.add(inputs["pixel_values"].shape[1])
            assert (inputs["input_ids"] == processor.image_token_id).sum() == 16
            assert inputs["pixel_values"].shape[1] <= 1 + load_preset(name).connector.max_tiles  # type: ignore[union-attr]
        assert len(counts) > 1


def clip_tower() -> Any:
    config = tiny_vit_config()
    return clip_vision_from_open_clip(tiny_vit(config), config)


def test_weights_are_moved_not_copied_and_ties_kept(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(write_qwen2(tmp_path / "qwen"))
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True
    )  # fmt: skip
    language, vision = Qwen2ForCausalLM(config), clip_tower()
    kept = language.model.layers[0].mlp.up_proj.weight.data_ptr(), next(vision.parameters()).data_ptr()
    row = language.model.embed_tokens.weight[5].clone()
    model, processor = build_llava(vision, language, tokenizer)
    inner = model.model
    assert inner.language_model.layers[0].mlp.up_proj.weight.data_ptr() == kept[0]
    assert next(inner.vision_tower.parameters()).data_ptr() == kept[1]
    assert model.lm_head.weight is inner.language_model.embed_tokens.weight
    assert torch.equal(inner.language_model.embed_tokens.weight[5], row)
    mean = inner.language_model.embed_tokens.weight[:-1].mean(0)
    torch.testing.assert_close(inner.language_model.embed_tokens.weight[processor.image_token_id], mean)
    model.save_pretrained(tmp_path / "llava")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "llava")
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_hugging_face_clip_and_timm_folders_build_too(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    language = write_qwen2(tmp_path / "qwen")
    clip_tower().save_pretrained(tmp_path / "clip")
    preset = tiny_preset("qwen-7b")
    assert preset.vision is not None
    model, _ = build_from_preset(
        replace(preset, vision=replace(preset.vision, kind="clip")), tmp_path / "clip", language
    )
    assert model.config.vision_config.model_type == "clip_vision_model"

    network = timm.create_model("test_efficientnet", pretrained=False, num_classes=7)
    (tmp_path / "timm").mkdir()
    save_file(network.state_dict(), tmp_path / "timm" / "model.safetensors")
    vision = replace(
        preset.vision, kind="timm", architecture="test_efficientnet", image_size=64, hidden_size=256, tokens=4
    )
    model, _ = build_from_preset(replace(preset, vision=vision), tmp_path / "timm", language)
    weight = model.model.vision_tower.backbone.conv_stem.weight
    torch.testing.assert_close(weight.float(), network.conv_stem.weight, atol=1e-2, rtol=1e-2)
    inside = {f"visual.backbone.{k}": v for k, v in network.state_dict().items()} | {"logit_scale": torch.ones(())}
    save_file(inside, tmp_path / "pathclip.safetensors")
    same, _ = build_from_preset(replace(preset, vision=vision), tmp_path / "pathclip.safetensors", language)
    assert torch.equal(same.model.vision_tower.backbone.conv_stem.weight, weight)
    for architecture, width, reason in (
        ("test_vit", 64, "is no test_vit: it lacks"),
        ("test_resnet", 256, "set hidden_size=96"),
        ("no_such_net", 256, "Unknown model"),
    ):
        wrong = replace(vision, architecture=architecture, hidden_size=width)
        with pytest.raises(BadInput, match=reason):
            build_from_preset(replace(preset, vision=wrong), tmp_path / "timm", language)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    language = write_qwen2(tmp_path / "qwen")
    tokenizer = AutoTokenizer.from_pretrained(language)
    model = AutoModelForCausalLM.from_pretrained(language)
    with pytest.raises(BadInput, match=r"ends turns with '<\|eot_id\|>'"):
        build_llava(clip_tower(), model, tokenizer, chat_template="llama3")
    with pytest.raises(BadInput, match="unknown chat template 'alpaca'; choose one of: chatml, llama3, vicuna"):
        build_llava(clip_tower(), model, tokenizer, chat_template="alpaca")
    with pytest.raises(BadInput, match="unknown connector 'qformer'"):
        build_llava(clip_tower(), model, tokenizer, connector="qformer")  # type: ignore[arg-type]
    assert "<image>" not in tokenizer.get_vocab(), "a refused build must not have changed the tokenizer"
    preset = tiny_preset("qwen-7b")
    assert preset.vision is not None
    with pytest.raises(BadInput, match="gives 16 tokens of width 32, but the preset qwen-7b says 4 of width 32"):
        build_from_preset(
            replace(preset, vision=replace(preset.vision, tokens=4)), write_vision("qwen-7b", tmp_path / "v"), language
        )
    with pytest.raises(BadInput, match="remote has no local parts"):
        build_from_preset(load_preset("remote"), tmp_path, language)
    with pytest.raises(BadInput, match="max_tiles is 3"):
        image_processor(Preprocess(), max_tiles=3)


def test_crop_is_an_option_of_the_image_processor() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (0, 0, 90, 100))  # outside the centre square
    cropped = image_processor(Preprocess(32, crop=True))(image, return_tensors="np")["pixel_values"]
    squashed = image_processor(Preprocess(32, crop=False))(image, return_tensors="np")["pixel_values"]
    assert cropped.shape == squashed.shape == (1, 3, 32, 32)
    assert cropped.max() < 0 < squashed.max()


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantization_without_cuda_says_what_to_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotAvailable, match=f"{kind}.* needs an NVIDIA GPU.*embedded.*pathassist doctor"):
        quantization_config(kind)


def test_quantization_with_cuda_spares_tower_and_connector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    four, eight = quantization_config("4bit"), quantization_config("8bit")
    assert four is not None
    assert eight is not None
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)
    assert eight.load_in_8bit
    assert {"model.vision_tower", "model.multi_modal_projector"} <= set(four.llm_int8_skip_modules)
    assert quantization_config(None) is None
    with pytest.raises(BadInput, match="unknown quantization '2bit'; choose 4bit or 8bit"):
        quantization_config("2bit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantized_model_answers(built: Any, tmp_path: Path, field: Image.Image, kind: str) -> None:
    _, model, processor, _ = built
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(
        tmp_path, quantization_config=quantization_config(kind), device_map="cuda"
    )
    assert type(loaded.model.vision_tower) is type(model.model.vision_tower)
    assert type(loaded.model.multi_modal_projector.linear_1) is torch.nn.Linear
    assert type(loaded.model.language_model.layers[0].mlp.up_proj) is not torch.nn.Linear
    tokens = loaded.generate(**inputs_for(processor, field).to("cuda"), min_new_tokens=3, max_new_tokens=3)
    assert tokens.shape[0] == 1
