"""Put a standard LLaVA together from pretrained parts: tower, connector, language model and tokenizer.

The big parts are moved into an empty shell, so memory holds each weight once. The result is a plain
``LlavaForConditionalGeneration`` with a ``LlavaProcessor``; quantisation happens when the saved folder is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from assistant.errors import BadInput, NotAvailable
from assistant.model.connectors import GRIDS, ScaleInvariantConnector, TiledImageProcessor, TiledTower, TiledTowerConfig
from assistant.model.convert import Preprocess, load_open_clip_vision, read_state
from assistant.model.towers import TimmTower, TimmTowerConfig

if TYPE_CHECKING:
    from assistant.model.preset import Preset, Vision

IMAGE_TOKEN = "<image>"  # noqa: S105 (a word of the vocabulary)
TEMPLATES = Path(__file__).parent / "templates"
#: Chat template → the token that ends a turn; None is the tokenizer's own end of sequence.
END_OF_TURN = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "vicuna": None}

#: What the names of a pathclip file's image tower begin with.
_ENCODER = "visual.backbone."

ConnectorKind = Literal["mlp", "linear", "scale_invariant"]


def build_llava(
    vision: Any,
    language: Any,
    tokenizer: Any,
    *,
    connector: ConnectorKind = "mlp",
    chat_template: str = "chatml",
    preprocess: Preprocess | None = None,
    layers: int = 6,
    heads: int = 12,
    max_tiles: int = 8,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Assemble a model; only the connector is new, drawn from torch's global generator.

    The parts become parts of the result: ``vision`` is cast to the dtype of ``language``, the tokenizer gets
    ``<image>`` and the embedding a row for it where it has none to spare.

    Args:
        vision: ``CLIPVisionModel`` (second-last layer, class token dropped) or
            :class:`~assistant.model.towers.TimmTower` (all tokens).
        language: Any ``PreTrainedModel`` that is a causal language model with a separate head module, not quantised.
        tokenizer: Its fast tokenizer.
        connector: ``"mlp"``, LLaVA-1.5's two layers; ``"linear"``, PathAsst's single layer;
            ``"scale_invariant"``, PA-LLaVA's tiles and cross-attention followed by a single linear layer.
        chat_template: A key of :data:`END_OF_TURN`.
        preprocess: How pixels are prepared; by default the whole image is squashed to the tower's size, with OpenAI
            CLIP's mean and deviation for CLIP and 0.5 for timm towers.
        layers: Layers of the scale-invariant connector.
        heads: Attention heads of the scale-invariant connector.
        max_tiles: Most tiles of the scale-invariant connector.

    Returns:
        (model in evaluation mode, processor).

    Raises:
        BadInput: Unknown connector or template, or a template that does not fit the tokenizer.
    """
    if connector not in ("mlp", "linear", "scale_invariant"):
        raise BadInput(f"unknown connector {connector!r}; choose one of: mlp, linear, scale_invariant")
    end = _end_of_turn(tokenizer, chat_template)
    image_id = _add_image_token(tokenizer, language)
    dtype = language.dtype
    pixels = preprocess or _default_preprocess(vision)
    if connector == "scale_invariant":
        vision = _tiled(vision, layers, heads)
    vision.to(dtype)
    class_token = _has_class_token(vision)
    tokens = (vision.config.image_size // vision.config.patch_size) ** 2
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=image_id,
        image_seq_length=tokens,
        projector_hidden_act="gelu" if connector == "mlp" else "linear",
        vision_feature_layer=-2 if class_token else -1,
        vision_feature_select_strategy="default" if class_token else "full",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = vision
    model.model.language_model = language.base_model
    model.lm_head = language.get_output_embeddings()
    model.model.multi_modal_projector = _projector(config).to(dtype)
    model.generation_config = _generation_config(language, tokenizer, end, image_id)
    freeze_identity(model)
    template = (TEMPLATES / f"{chat_template}.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template  # saved in the same file as the processor's
    processor = LlavaProcessor(
        image_processor=image_processor(pixels, max_tiles if connector == "scale_invariant" else 0),
        tokenizer=tokenizer,
        patch_size=vision.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(class_token),
        chat_template=template,
        image_token=IMAGE_TOKEN,
    )
    return model.eval(), processor


def build_from_preset(
    preset: Preset, vision_path: Path, language_path: Path
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Assemble a preset from files as the hub has them.

    Args:
        preset: One with local parts.
        vision_path: Folder or checkpoint of the tower, in the format of ``preset.vision.kind``.
        language_path: Folder of a causal language model with its tokenizer.

    Raises:
        BadInput: The files do not fit the preset.
        NotAvailable: A file is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if preset.vision is None or preset.connector is None or preset.language is None or preset.generation is None:
        raise BadInput(f"the preset {preset.name} has no local parts to build; choose one with vision and language")
    vision = _load_vision(preset.vision, vision_path)
    found = (vision.config.hidden_size, (vision.config.image_size // vision.config.patch_size) ** 2)
    if found != (preset.vision.hidden_size, preset.vision.tokens):
        raise BadInput(
            f"{vision_path} gives {found[1]} tokens of width {found[0]}, but the preset {preset.name} says "
            f"{preset.vision.tokens} of width {preset.vision.hidden_size}; correct hidden_size and tokens"
        )
    language = AutoModelForCausalLM.from_pretrained(language_path, dtype=getattr(torch, preset.generation.dtype))
    return build_llava(
        vision,
        language,
        AutoTokenizer.from_pretrained(language_path),
        connector=preset.connector.kind,
        chat_template=preset.language.chat_template,
        preprocess=Preprocess(preset.vision.image_size, preset.vision.mean, preset.vision.std, crop=False),
        layers=preset.connector.layers,
        heads=preset.connector.heads,
        max_tiles=preset.connector.max_tiles,
    )


def image_processor(preprocess: Preprocess, max_tiles: int = 0) -> CLIPImageProcessorPil:
    """The image processor for a tower; with ``max_tiles`` it cuts tiles instead of showing the image whole."""
    side = {"height": preprocess.image_size, "width": preprocess.image_size}
    common: dict[str, Any] = {
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": Image.Resampling[preprocess.interpolation.upper()],
        "crop_size": side,
    }
    if max_tiles:
        grids = [list(grid) for grid in GRIDS if grid[0] * grid[1] <= max_tiles]
        if not grids:
            raise BadInput(f"max_tiles is {max_tiles}; the scale-invariant connector needs at least 4")
        return TiledImageProcessor(size=side, grids=grids, **common)
    size = {"shortest_edge": preprocess.image_size} if preprocess.crop else side
    return CLIPImageProcessorPil(size=size, do_center_crop=preprocess.crop, **common)


def load_processor(folder: Path) -> LlavaProcessor:
    """The processor of a saved model with its image processor pinned to PIL.

    ``AutoProcessor`` alone picks torchvision where it is installed, whose pixels differ by a grey level; passing
    ``backend="pil"`` to it would reach the tokenizer too and break ``return_assistant_tokens_mask``.
    """
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor  # type: ignore[no-any-return]


def freeze_identity(model: LlavaForConditionalGeneration) -> None:
    """Keep the second projector layer of ``linear`` and ``scale_invariant`` out of training.

    LLaVA always has two layers. With a linear activation and the identity as second layer they are exactly one linear
    layer, in a checkpoint that plain transformers loads. Call again after ``from_pretrained``, which thaws all weights.
    """
    if model.config.projector_hidden_act == "linear":
        model.model.multi_modal_projector.linear_2.requires_grad_(False)


def quantization_config(kind: str | None) -> BitsAndBytesConfig | None:
    """For ``from_pretrained(quantization_config=…)``; tower, connector and head keep their precision.

    Args:
        kind: ``"4bit"`` (NF4 with double quantisation, bfloat16 arithmetic), ``"8bit"``, or None for none.

    Raises:
        BadInput: Another kind.
        NotAvailable: No CUDA device, or bitsandbytes is not installed.
    """
    if kind is None:
        return None
    if kind not in ("4bit", "8bit"):
        raise BadInput(f"unknown quantization {kind!r}; choose 4bit or 8bit, or leave it out")
    if not torch.cuda.is_available():
        raise NotAvailable(
            f"quantization {kind!r} needs an NVIDIA GPU with CUDA and PyTorch sees none; leave --quantization out, "
            "use the preset embedded, which runs on any CPU, or run `pathassist doctor`"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise NotAvailable(
            f"quantization {kind!r} needs bitsandbytes, which is not installed; run `pip install bitsandbytes`"
        ) from error
    skipped = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )


def inner_tower(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A timm tower's weights; of an image–text encoder of ours (pathclip-small) those of its image tower."""
    return {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)} or state


def _load_vision(vision: Vision, path: Path) -> Any:
    from transformers import CLIPVisionModel

    if vision.kind == "clip":
        return CLIPVisionModel.from_pretrained(path)
    if vision.kind == "open_clip":
        has_config = (path / "open_clip_config.json").is_file()
        return load_open_clip_vision(path, None if has_config else vision.architecture)[0]
    state = read_state(path / "model.safetensors" if path.is_dir() else path)
    state = inner_tower(state)
    try:
        config = TimmTowerConfig(
            architecture=vision.architecture,
            hidden_size=vision.hidden_size,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
        )
        tower = TimmTower(config)
        wrong = tower.backbone.load_state_dict(state, strict=False)
    except (ValueError, RuntimeError) as error:  # unknown to timm, another width, tensors of other shapes
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} does not load as timm {vision.architecture}: {reason}") from error
    if wrong.missing_keys:  # what is too much is the classifier
        raise BadInput(f"{path} is no {vision.architecture}: it lacks {', '.join(wrong.missing_keys[:3])}")
    return tower


def _has_class_token(vision: Any) -> bool:
    return bool(vision.config.model_type == "clip_vision_model")


def _default_preprocess(vision: Any) -> Preprocess:
    size = int(vision.config.image_size)
    if _has_class_token(vision):
        return Preprocess(size, crop=False)
    return Preprocess(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=False)


def _end_of_turn(tokenizer: Any, template: str) -> int:
    """Id of the token that ends a turn; it must be one token, else control words would be spelled out as text."""
    if template not in END_OF_TURN:
        raise BadInput(f"unknown chat template {template!r}; choose one of: {', '.join(END_OF_TURN)}")
    word = END_OF_TURN[template] or tokenizer.eos_token
    if word not in tokenizer.get_vocab():
        raise BadInput(f"the chat template {template} ends turns with {word!r}, which the tokenizer does not know")
    return int(tokenizer.convert_tokens_to_ids(word))


def _add_image_token(tokenizer: Any, language: Any) -> int:
    """Make ``<image>`` one special token; grow the embeddings (and keep a tied head tied) when they are full."""
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = language.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            # Never read as input, and as output an average word: no random row may win against real ones.
            for module in (language.get_input_embeddings(), language.get_output_embeddings()):
                module.weight[rows:] = module.weight[:rows].float().mean(0).to(module.weight.dtype)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def _tiled(vision: Any, layers: int, heads: int) -> TiledTower:
    class_token = _has_class_token(vision)
    config = TiledTowerConfig(
        inner_config=vision.config,
        feature_layer=-2 if class_token else -1,
        select_strategy="default" if class_token else "full",
        num_layers=layers,
        num_heads=heads,
    )
    with torch.device("meta"):
        tower = TiledTower(config)
    tower.inner = vision
    tower.connector = ScaleInvariantConnector(config.hidden_size, layers, heads, config.dropout)
    return tower


def _projector(config: LlavaConfig) -> LlavaMultiModalProjector:
    projector = LlavaMultiModalProjector(config)
    if config.projector_hidden_act == "linear":
        nn.init.eye_(projector.linear_2.weight)
        nn.init.zeros_(projector.linear_2.bias)
    return projector


def _generation_config(language: Any, tokenizer: Any, end: int, image_id: int) -> GenerationConfig:
    """Greedy decoding with every end token that is known; sampling settings of the language model are left behind."""
    known = language.generation_config.eos_token_id if language.generation_config else None
    ends = {end, tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[image_id],
    )
