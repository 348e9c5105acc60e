"""The two towers a recipe asks for, behind one small interface for the training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from training.data.records import DataError

if TYPE_CHECKING:
    from assistant.model.encoders.pathclip import PathClipModel
    from training.clip.train import ClipRecipe

#: Every linear layer of a BERT's attention and feed-forward part.
TEXT_LORA = r".*\.(query|key|value|dense)"


class Towers(nn.Module):
    """What the loop needs of any image–text model.

    Attributes:
        logit_scale: Natural logarithm of the factor on cosines.
        logit_bias: Of the sigmoid loss; None for InfoNCE.
        text_frozen: The text tower's output before its projection never changes and may be cached.
        mean, std: Normalisation of pixels, [1, 3, 1, 1].
    """

    logit_scale: nn.Parameter
    text_frozen: bool = False
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("logit_bias", None)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the image projection sees, [B, F], of pixels [B, 3, S, S] in 0…1."""
        raise NotImplementedError

    def image(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D] of what :meth:`features` returned."""
        raise NotImplementedError

    def standardise(self, pixels: Iterable[torch.Tensor]) -> None:
        """Fit whatever brings features to one range, before training; ``pixels`` are batches [B, 3, S, S] in 0…1."""

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [B, D]."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trained model into ``folder``, whole or not at all."""
        raise NotImplementedError

    def _sigmoid(self, recipe: ClipRecipe) -> None:
        """Starting scale and bias of the sigmoid loss as Zhai et al. 2023 set them."""
        if recipe.loss == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
            with torch.no_grad():
                self.logit_scale.fill_(math.log(10))

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Pretrained weights, which learn slowly; the rest learn at the head's rate."""
        raise NotImplementedError


class PathClipTowers(Towers):
    """Our own artefact: timm image tower and MiniLM (frozen, LoRA or full).

    Args:
        trained: A model to go on from, instead of one of the recipe's sizes with ``backbone``.
    """

    def __init__(
        self,
        recipe: ClipRecipe,
        backbone: dict[str, torch.Tensor] | None,
        bert: nn.Module | None = None,
        trained: PathClipModel | None = None,
    ) -> None:
        super().__init__()
        from assistant.model.encoders.pathclip import PathClipConfig, PathClipModel, minilm_state, minilm_tokenizer

        config = PathClipConfig(
            architecture=recipe.image_tower,
            image_size=recipe.size,
            dimension=recipe.dimension,
            centre=recipe.centre,
            taps=recipe.taps,
        )
        self.model = trained or PathClipModel(config, text=bert, backbone=backbone)
        self.tokenizer = minilm_tokenizer()
        self.origin = {k: v.clone() for k, v in bert.state_dict().items()} if bert is not None else minilm_state()
        self.logit_scale = self.model.logit_scale
        self._sigmoid(recipe)
        self.text_frozen = recipe.text == "frozen"
        self.model.text.model.requires_grad_(recipe.text == "full")
        if recipe.text == "lora":
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(
                r=recipe.lora_r, lora_alpha=2 * recipe.lora_r, lora_dropout=0.05, target_modules=TEXT_LORA
            )
            self.model.text.model = get_peft_model(self.model.text.model, lora)
        half = torch.full((1, 3, 1, 1), 0.5)
        self.register_buffer("mean", half, persistent=False)
        self.register_buffer("std", half.clone(), persistent=False)
        self._cache: dict[str, torch.Tensor] = {}

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        scaled = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.model.visual.features(scaled)

    @torch.no_grad()
    def standardise(self, pixels: Iterable[torch.Tensor]) -> None:
        visual = self.model.visual
        found = torch.cat([self.features(batch.to(self.mean.device)) for batch in pixels])
        visual.shift.copy_(found.mean(0))
        visual.spread.copy_(found.std(0).clamp(min=1e-3))

    def image(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model.visual.proj(features).float(), dim=-1)

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        if not self.text_frozen:
            return self.model.encode_text(**self._tokens(texts))
        new = sorted(set(texts) - self._cache.keys())
        if new:
            with torch.no_grad():
                self._cache |= dict(zip(new, self.model.text.pooled(**self._tokens(new)), strict=True))
        known = torch.stack([self._cache[t] for t in texts])
        return F.normalize(self.model.text.proj(known).float(), dim=-1)

    def _tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        from assistant.model.encoders.pathclip import MAX_TOKENS

        found = self.tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return {k: found[k].to(self.mean.device) for k in ("input_ids", "attention_mask")}

    def save(self, folder: Path) -> None:
        self.model.save(folder, text_origin=self.origin)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return [*self.model.visual.backbone.parameters(), *self.model.text.model.parameters()]


class OpenClipTowers(Towers):
    """Any model of open_clip, with its own text tower, from scratch or from a checkpoint file."""

    def __init__(self, recipe: ClipRecipe) -> None:
        super().__init__()
        import open_clip

        name = recipe.image_tower.removeprefix("open_clip:")
        if name not in open_clip.list_models():
            raise DataError(f"image_tower {recipe.image_tower!r} is no model of open_clip; see open_clip.list_models()")
        size = {} if recipe.size == 0 else {"force_image_size": recipe.size}
        self.model: Any = open_clip.create_model(name, pretrained=recipe.pretrained or None, **size)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.logit_scale = self.model.logit_scale
        self._sigmoid(recipe)
        config = self.model.visual.preprocess_cfg if hasattr(self.model.visual, "preprocess_cfg") else {}
        mean = config.get("mean", open_clip.OPENAI_DATASET_MEAN)
        std = config.get("std", open_clip.OPENAI_DATASET_STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image((pixels - self.mean) / self.std)

    def image(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(features.float(), dim=-1)

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        ids = self.tokenizer(list(texts)).to(self.mean.device)
        return F.normalize(self.model.encode_text(ids).float(), dim=-1)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        from assistant.model.cache import atomic_folder

        state = {k: v.detach().cpu().half().contiguous().clone() for k, v in self.model.state_dict().items()}
        with atomic_folder(folder) as partial:
            save_file(state, partial / "open_clip_model.safetensors")

    def backbone_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p is not self.logit_scale]


class Anchor:
    """How far the image features have drifted from those of the weights it was made with (mean 1 − cosine).

    Holding them back keeps what ImageNet knew of tissues and stains that the training sets do not show (learning
    without forgetting, Li & Hoiem 2016, on features).
    """

    def __init__(self, towers: Towers) -> None:
        self.origin = copy.deepcopy(towers).eval().requires_grad_(False)

    def __call__(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.origin.features(pixels)
        return (1 - F.cosine_similarity(features.float(), wanted.float())).mean()


def build_towers(recipe: ClipRecipe) -> Towers:
    """Towers of a recipe: ``image_tower`` is ``open_clip:NAME`` or a packaged timm network."""
    if recipe.image_tower.startswith("open_clip:"):
        return OpenClipTowers(recipe)
    from safetensors.torch import load_file

    from assistant.model.parts import part_named
    from assistant.model.store import efficientnet_state

    if recipe.start:
        if not Path(recipe.start).is_file():
            raise DataError(f"no weights at {recipe.start!r} (start in the recipe); run `pathassist train tower` first")
        backbone = {k: v.float() if v.is_floating_point() else v for k, v in load_file(recipe.start).items()}
    else:
        backbone = efficientnet_state(part_named(recipe.image_tower.removeprefix("tf_").replace("_", "-")))
    return PathClipTowers(recipe, backbone)
