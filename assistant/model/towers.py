"""A timm network as the vision tower of a standard Hugging Face LLaVA.

Importing this module registers the model type ``pathassist_timm``, so ``AutoModel`` and
``AutoModelForImageTextToText`` can then load it. The network's last feature map is averaged onto a square grid and
each cell is one token; LLaVA takes them with ``vision_feature_layer=-1``, ``vision_feature_select_strategy="full"``.
"""

# No ``from __future__ import annotations`` here: ``@strict`` checks values only against evaluated annotations.

from typing import Any, Self

import timm
import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling


@strict
class TimmTowerConfig(PreTrainedConfig):
    """Configuration of :class:`TimmTower`.

    Attributes:
        architecture: Name known to ``timm.create_model``.
        hidden_size: Channels of the feature map (1280 for EfficientNet-Lite0).
        image_size: Side of the square input in pixels.
        patch_size: Pixels one token stands for; ``(image_size // patch_size) ** 2`` tokens come out.
        token_norm: Layer-normalise each token (no learned scale), so the connector sees one range of values whatever
            the network. ``pooler_output`` is not touched.
        model_args: More keywords for ``timm.create_model``.
    """

    model_type = "pathassist_timm"

    architecture: str = "tf_efficientnet_lite0"
    hidden_size: int = 1280
    image_size: int = 224
    patch_size: int = 56
    token_norm: bool = True
    model_args: dict[str, Any] | None = None

    def validate_grid(self) -> None:
        """Called by ``@strict``: the grid of tokens must tile the image."""
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.image_size // self.patch_size


class TimmTower(PreTrainedModel):
    """Wraps one timm network without its classifier; ``self.backbone`` has timm's own key names.

    Batch-norm layers stay in evaluation mode even in ``train()``: training batches mix few sources and would spoil the
    statistics.
    """

    config_class = TimmTowerConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = "image"
    _no_split_modules = ["TimmTower"]  # noqa: RUF012 (the base class's own way)

    def __init__(self, config: TimmTowerConfig) -> None:
        super().__init__(config)
        self.backbone: Any = timm.create_model(
            config.architecture, pretrained=False, num_classes=0, **(config.model_args or {})
        )
        if self.backbone.num_features != config.hidden_size:
            raise ValueError(
                f"{config.architecture} gives {self.backbone.num_features} channels but hidden_size is "
                f"{config.hidden_size}; set hidden_size={self.backbone.num_features}"
            )
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Keep activations alive through deep convolutional stacks; the base class would draw all from N(0, 0.02²)."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        # timm's name for filling buffers that are in no checkpoint
        getattr(module, "init_non_persistent_buffers", lambda: None)()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def feature_map(self, features: torch.Tensor) -> torch.Tensor:
        """Timm features as [B, C, H, W]; transformer tokens lose their prefix (class, registers) and are laid out."""
        if features.ndim == 3:
            features = features[:, self.backbone.num_prefix_tokens :].transpose(1, 2)  # [B, C, N]
            rows, columns = self.backbone.patch_embed.grid_size
            return features.reshape(*features.shape[:2], rows, columns)
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode images.

        Args:
            pixel_values: [B, 3, image_size, image_size], normalised as the network was trained.
            return_dict: False gives a tuple.
            **kwargs: Accepted and ignored, as LLaVA passes flags meant for transformers (``output_hidden_states``).

        Returns:
            ``last_hidden_state`` [B, grid², C]; ``pooler_output`` [B, C], what timm returns for ``num_classes=0``;
            ``hidden_states`` a tuple whose last (and only) entry is ``last_hidden_state``.
        """
        features = self.backbone.forward_features(pixel_values.to(self.dtype))
        cells = F.adaptive_avg_pool2d(self.feature_map(features), self.config.grid)  # [B, C, grid, grid]
        tokens = cells.flatten(2).transpose(1, 2)  # [B, grid², C]
        if self.config.token_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=self.backbone.forward_head(features),
            hidden_states=(tokens,),
        )
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(TimmTowerConfig.model_type, TimmTowerConfig, exist_ok=True)
AutoModel.register(TimmTowerConfig, TimmTower, exist_ok=True)
