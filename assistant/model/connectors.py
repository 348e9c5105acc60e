"""The scale-invariant connector of PA-LLaVA: any image size in, a constant number of language-model tokens out.

An image becomes one global view (squashed to a square) and a grid of square tiles at higher magnification. Both go
through the same vision tower. The tokens of the global view are queries that cross-attend to the tokens of all tiles,
so the language model always gets as many tokens as the global view has, 196 for a ViT-B/16 at 224 pixels.

Everything sits inside a registered vision tower (model type ``pathassist_tiled``), so the whole model stays a plain
``LlavaForConditionalGeneration``: LLaVA's own projector then maps to the width of the language model.

Convention: a tile whose values are all exactly zero is absent. Images of one batch can so have different numbers of
tiles; absent tiles are neither encoded nor attended to. No 8-bit pixel becomes zero under the usual means (an 8-bit
value would have to be the mean exactly).
"""

# No ``from __future__ import annotations`` here: ``@strict`` checks values only against evaluated annotations.

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from PIL import Image, ImageOps
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    BatchFeature,
    CLIPImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import ImagesKwargs

GRIDS: tuple[tuple[int, int], ...] = (
    (2, 2), (1, 4), (4, 1), (1, 5), (5, 1), (2, 3), (3, 2), (1, 6), (6, 1),
    (1, 7), (7, 1), (2, 4), (4, 2), (1, 8), (8, 1),
)  # fmt: skip
"""(columns, rows) of the grids to choose from; 2 by 2 comes first because ties go to the first."""


def select_grid(width: int, height: int, tile: int, grids: Sequence[Sequence[int]] = GRIDS) -> tuple[int, int]:
    """The grid that keeps most of the image's pixels and, among those, wastes the least area.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        tile: Side of a tile in pixels.
        grids: Grids to choose from, as (columns, rows).

    Returns:
        (columns, rows).
    """
    best = select_best_resolution((height, width), [(rows * tile, columns * tile) for columns, rows in grids])
    return best[1] // tile, best[0] // tile


def tile_image(
    image: Image.Image,
    tile: int,
    grids: Sequence[Sequence[int]] = GRIDS,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> list[Image.Image]:
    """The global view, then the tiles row by row; the image keeps its shape within the grid, on black."""
    columns, rows = select_grid(image.width, image.height, tile, grids)
    canvas = ImageOps.pad(image, (columns * tile, rows * tile), method=resample, color=(0, 0, 0))
    boxes = [(c * tile, r * tile, (c + 1) * tile, (r + 1) * tile) for r in range(rows) for c in range(columns)]
    return [image.resize((tile, tile), resample), *(canvas.crop(box) for box in boxes)]


class TiledImageKwargs(ImagesKwargs, total=False):
    """Settings of :class:`TiledImageProcessor` beside the usual ones: ``grids``, a list of (columns, rows)."""

    grids: list[list[int]]


class TiledImageProcessor(CLIPImageProcessorPil):
    """Images of any size → ``pixel_values`` [B, 1 + T, 3, S, S]: global view, tiles, zeros for absent tiles.

    T is the largest number of tiles in the batch; S is ``size["height"]``. ``LlavaProcessor`` reads only S from it, so
    the number of placeholder tokens does not depend on the image.
    """

    valid_kwargs = TiledImageKwargs
    size = {"height": 224, "width": 224}  # noqa: RUF012 (read by the base class as a default)
    do_center_crop = False
    grids = [list(grid) for grid in GRIDS]  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def _preprocess(  # type: ignore[override]
        self,
        images: list[np.ndarray],
        size: SizeDict,
        resample: Image.Resampling,
        grids: list[list[int]],
        rescale_factor: float,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        views = []
        side = int(size["height"])
        for image in images:  # [3, H, W] uint8
            parts = tile_image(Image.fromarray(np.moveaxis(image, 0, -1)), side, grids, resample)
            scaled = [self.rescale(np.moveaxis(np.asarray(part), -1, 0), rescale_factor) for part in parts]
            views.append(np.stack([self.normalize(part, image_mean, image_std) for part in scaled]))
        longest = max(len(v) for v in views)
        padded = [np.pad(v, ((0, longest - len(v)), (0, 0), (0, 0), (0, 0))) for v in views]
        return BatchFeature(data={"pixel_values": padded}, tensor_type=return_tensors)


class ScaleInvariantLayer(nn.Module):
    """Self-attention, then cross-attention to the tiles; each with residual and LayerNorm, no feed-forward part."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, tiles: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
        attended, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.self_norm(x + self.dropout(attended))
        attended, _ = self.cross_attention(x, tiles, tiles, key_padding_mask=absent, need_weights=False)
        return self.cross_norm(x + self.dropout(attended))  # type: ignore[no-any-return]


class ScaleInvariantConnector(nn.Module):
    """Global tokens gather detail from the tiles; the result has the shape of the global tokens.

    Source: PA-LLaVA's Q-Former-style projector. The published code counts the global view in its mask, which lets one
    padding tile through; here exactly the absent tiles are masked.
    """

    def __init__(self, width: int, layers: int = 6, heads: int = 12, dropout: float = 0.1) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.layers = nn.ModuleList(ScaleInvariantLayer(width, heads, dropout) for _ in range(layers))
        self.output_norm = nn.LayerNorm(width)

    def forward(self, overview: torch.Tensor, tiles: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
        """Combine both.

        Args:
            overview: Tokens of the global view, [B, N, D].
            tiles: Tokens of all tiles, [B, T·N, D].
            absent: True where a tile token is padding, [B, T·N]; every image needs at least one tile.

        Returns:
            [B, N, D].
        """
        x = self.input_norm(overview)
        for layer in self.layers:
            x = layer(x, tiles, absent)
        return self.output_norm(x + overview)  # type: ignore[no-any-return]


@strict
class TiledTowerConfig(PreTrainedConfig):
    """Configuration of :class:`TiledTower`.

    Attributes:
        inner_config: Configuration of the tower that encodes each view.
        feature_layer: Hidden state of the inner tower that is used.
        select_strategy: ``"default"`` drops the inner tower's class token, ``"full"`` keeps all tokens.
        num_layers: Layers of the connector.
        num_heads: Attention heads of the connector.
        dropout: Dropout of the connector in training.
    """

    model_type = "pathassist_tiled"
    sub_configs_defaults = {  # noqa: RUF012 (the base class's own way)
        "inner_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model")
    }

    inner_config: dict[str, Any] | PreTrainedConfig | None = None
    feature_layer: int = -2
    select_strategy: Literal["default", "full"] = "default"
    num_layers: int = 6
    num_heads: int = 12
    dropout: float = 0.1

    @property
    def hidden_size(self) -> int:
        """Width of the tokens, as LLaVA's projector reads it."""
        return int(self.inner_config.hidden_size)  # type: ignore[union-attr]

    @property
    def image_size(self) -> int:
        """Side of each view in pixels."""
        return int(self.inner_config.image_size)  # type: ignore[union-attr]

    @property
    def patch_size(self) -> int:
        """Pixels per token along one side of the global view."""
        return int(self.inner_config.patch_size)  # type: ignore[union-attr]


class TiledTower(PreTrainedModel):
    """Encodes the views of each image with ``inner`` and merges them with the scale-invariant connector."""

    config_class = TiledTowerConfig
    base_model_prefix = "tiled"
    main_input_name = "pixel_values"
    input_modalities = "image"
    _no_split_modules = ["ScaleInvariantConnector"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: TiledTowerConfig) -> None:
        super().__init__(config)
        self.inner = AutoModel.from_config(config.inner_config)
        self.connector = ScaleInvariantConnector(
            config.hidden_size, config.num_layers, config.num_heads, config.dropout
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode images.

        Args:
            pixel_values: [B, 1 + T, 3, S, S] from :class:`TiledImageProcessor`.
            return_dict: False gives a tuple.
            **kwargs: Accepted and ignored, as LLaVA passes flags meant for transformers (``output_hidden_states``).

        Returns:
            ``last_hidden_state`` [B, N, D]; ``pooler_output`` its mean [B, D]; ``hidden_states`` with it as the only
            entry, for ``vision_feature_layer=-1``, ``vision_feature_select_strategy="full"``.

        Raises:
            ValueError: Wrong rank, or an image without tiles.
        """
        if pixel_values.ndim != 5:
            raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected [B, 1 + T, 3, S, S]")
        present = pixel_values.ne(0).flatten(2).any(2)  # [B, 1 + T]
        present[:, 0] = True
        if not present[:, 1:].any(1).all():
            raise ValueError("an image has no tiles; prepare images with TiledImageProcessor")
        encoded = self.inner(pixel_values[present].to(self.dtype), output_hidden_states=True, return_dict=True)
        features = encoded.hidden_states[self.config.feature_layer]  # [views, N(+1), D]
        if self.config.select_strategy == "default":
            features = features[:, 1:]
        tokens = features.new_zeros(*present.shape, *features.shape[1:])  # [B, 1 + T, N, D]
        tokens[present] = features
        absent = (~present[:, 1:]).repeat_interleave(features.shape[1], dim=1)  # [B, T·N]
        merged = self.connector(tokens[:, 0], tokens[:, 1:].flatten(1, 2), absent)
        output = BaseModelOutputWithPooling(
            last_hidden_state=merged, pooler_output=merged.mean(1), hidden_states=(merged,)
        )
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(TiledTowerConfig.model_type, TiledTowerConfig, exist_ok=True)
AutoModel.register(TiledTowerConfig, TiledTower, exist_ok=True)
# One class under both names, else loading warns that the torchvision variant is missing.
AutoImageProcessor.register(
    TiledTowerConfig,
    image_processor_classes={"pil": TiledImageProcessor, "torchvision": TiledImageProcessor},
    exist_ok=True,
)
