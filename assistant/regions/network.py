"""One encoder, one decoder, four heads: nuclei, glands, tissue regions and blood cells.

In the manner of Cerberus (Graham et al. 2023): the trunk is shared and every source trains only the heads that it has
labels for. A network may have some of the heads only: nuclei lose most by sharing (``eval/results/regions-joint.md``)
and are read by one of their own; glands have a decoder of their own over the shared encoder. The encoder is the image
tower of pathclip-small; the decoder is a U-Net of depthwise separable convolutions down to a quarter, then half, of the
resolution. Outlines of nuclei and glands have a decoder of their own at half of the resolution, which sees the pixels
too (:class:`Outlines`).

===========  ==================================================================================================
``nuclei``   [B, 8, H, W]: foreground logit, normalised distance to the outline (0…1 by a sigmoid), four kinds as
             logits, then how far right of and below its nucleus' centre a pixel lies, -1…1 (HoVer-Net, Graham et al.
             2019); fields at about 40x. Four values a channel at half the resolution, laid out as 2 × 2 pixels
             (sub-pixel convolution, Shi et al. 2016): touching nuclei are a pixel or two apart
``glands``   [B, 2, H/2, W/2]: foreground logit and distance as above; fields at about 10x
``tissue``   [B, 4, H/4, W/4]: logits of tumour, stroma, normal, background; fields at about 10x
``blood``    [B, 7, H/4, W/4]: centre logits of red cell, white cell and platelet, then log width and height in
             cells of the map and the offset of the centre in 0…1 (CenterNet, Zhou et al. 2019)
===========  ==================================================================================================
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import nn

HEADS = {"nuclei": 8, "glands": 2, "tissue": 4, "blood": 7}
#: Pixels of the input for one of a head's output.
STRIDES = {"nuclei": 1, "glands": 2, "tissue": 4, "blood": 4}
#: Channels of the nuclei head after foreground and distance.
KINDS, OFFSETS = slice(2, 6), slice(6, 8)
OUTLINED = ("nuclei", "glands")
NUCLEUS_KINDS = ("other", "inflammatory", "epithelial", "spindle")
TISSUES = ("tumour", "stroma", "normal", "background")
BLOOD_CELLS = ("red blood cell", "white blood cell", "platelet")
WIDTHS = (32, 48, 64, 96, 128)  # of the decoder, from half the resolution down
FEATURES = WIDTHS[1]
ARCHITECTURE = "tf_efficientnet_lite0"


class Separable(nn.Sequential):
    """Depthwise 3×3, pointwise 1×1, group norm, ReLU."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False),
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.GroupNorm(8, outside),
            nn.ReLU(inplace=True),
        )


class Outlines(nn.Module):
    """Decoder of one head: the maps at half the resolution beside the pixels, through full 3×3 convolutions.

    What it finds is added to the maps; it starts as nothing. Full convolutions take less time on a processor than their
    number of products lets expect: memory bounds the depthwise ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(WIDTHS[0] + 12, 64), *_convolved(64, 64, 2), *_convolved(64, 64), nn.Conv2d(64, WIDTHS[0], 1)
        )
        nn.init.zeros_(cast("Any", self.body[-1].weight))
        nn.init.zeros_(cast("Any", self.body[-1].bias))

    def forward(self, half: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """``half`` [B, 32, H/2, W/2] and ``pixels`` [B, 3, H, W] to maps like ``half``."""
        seen = torch.cat([half, F.pixel_unshuffle(pixels, 2).to(half.dtype)], dim=1)
        return half + cast(torch.Tensor, self.body(seen))


def _convolved(inside: int, outside: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation, bias=False)
    return convolution, nn.GroupNorm(8, outside), nn.ReLU(inplace=True)


class Trunk(nn.Module):
    """Pixels [B, 3, H, W] in -1…1, H and W multiples of 32, to the maps of the heads asked for.

    Args:
        outlined: Heads with :class:`Outlines`.
    """

    def __init__(self, heads: tuple[str, ...] = tuple(HEADS), outlined: tuple[str, ...] = OUTLINED) -> None:
        super().__init__()
        import timm

        self.encoder: Any = cast(
            "Any", timm.create_model(ARCHITECTURE, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4))
        )
        channels = [int(c) for c in self.encoder.feature_info.channels()]
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1, bias=False) for c, w in zip(channels, WIDTHS, strict=True))
        pairs = zip(WIDTHS[1:], WIDTHS[:-1], strict=True)
        self.up = nn.ModuleList(nn.Sequential(Separable(a + b, b), Separable(b, b)) for a, b in pairs)
        self.heads = nn.ModuleDict()
        for name in heads:
            width = WIDTHS[0] if STRIDES[name] <= 2 else WIDTHS[1]
            if STRIDES[name] == 1:
                last: list[nn.Module] = [nn.Conv2d(64, 4 * HEADS[name], 1), nn.PixelShuffle(2)]
            else:
                last = [nn.Conv2d(64, HEADS[name], 1)]
            self.heads[name] = nn.Sequential(Separable(width, 64), *last)
        self.outlines = nn.ModuleDict({name: Outlines() for name in heads if name in outlined})
        if "blood" in heads:  # rare centres: start from a chance of one in a hundred (focal loss, Lin et al. 2017)
            nn.init.constant_(self.heads["blood"][1].bias[:3], -4.6)  # type: ignore[index]

    def train(self, mode: bool = True) -> Self:
        """As usual, but the encoder's batch-norm statistics stay what they are: batches mix sources."""
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def features(
        self, pixels: torch.Tensor, fine: bool = True, stages: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoder maps at half [B, 32, H/2, W/2] and a quarter [B, 48, H/4, W/4] of the resolution.

        Args:
            fine: Without it the first is the second: enough for heads at a quarter of the resolution.
            stages: What the encoder makes of the pixels, where that is known.
        """
        stages = self.encoder(pixels) if stages is None else stages
        maps = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        out, quarter = maps[-1], maps[-1]
        for level in range(len(self.up) - 1, -1 if fine else 0, -1):
            raised = F.interpolate(out, scale_factor=2.0, mode="nearest")
            out = self.up[level](torch.cat([raised, maps[level]], dim=1))
            if level == 1:
                quarter = out
        return out, quarter

    def head(self, name: str, pixels: torch.Tensor, half: torch.Tensor, quarter: torch.Tensor) -> torch.Tensor:
        """The map of one head from ``pixels`` and their :meth:`features`."""
        if name in self.outlines:
            half = self.outlines[name](half, pixels)
        return cast(torch.Tensor, self.heads[name](half if STRIDES[name] <= 2 else quarter))

    def forward(self, pixels: torch.Tensor, heads: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
        half, quarter = self.features(pixels)
        return {name: self.head(name, pixels, half, quarter) for name in (heads or tuple(self.heads))}


def start_encoder(trunk: Trunk, tower: dict[str, torch.Tensor], prefix: str = "visual.backbone.") -> None:
    """Copy the encoder's weights from a tower with timm's names; parts that a feature network lacks are left out."""
    mine = trunk.encoder.state_dict()
    found = {k: tower[prefix + k].to(v.dtype) for k, v in mine.items() if prefix + k in tower}
    missing = [k for k in mine if k not in found]
    if missing:
        raise ValueError(f"the tower lacks {len(missing)} tensors of the encoder, for example {missing[0]}")
    trunk.encoder.load_state_dict(found)
