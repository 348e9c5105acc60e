"""CONCH (Lu et al. 2024) as its published checkpoint has it: a timm ViT, attentional pooling, and a CoCa text tower.

The caption half of the checkpoint is left out. The text tower appends its class token and, as in the first CoCa
releases, masks the padding one place too far left; open_clip keeps that for existing weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from assistant.errors import NotAvailable
from assistant.model.cache import cache_root
from assistant.model.encoders.torch_encoder import TextSide

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER = "conch_byte_level_bpe_uncased.json"
_POOL_HEADS, _HEAD_WIDTH = 8, 64
_CAPTION = ("text_decoder.", "visual.attn_pool_caption.", "visual.ln_caption.")


class ConchModel(nn.Module):
    """Names of modules are those of the checkpoint."""

    def __init__(self, trunk: Any, text: dict[str, int], dimension: int) -> None:
        super().__init__()
        from open_clip.transformer import AttentionalPooler, TextTransformer

        self.visual: Any = nn.Module()
        self.visual.trunk = trunk
        self.visual.attn_pool_contrast = AttentionalPooler(dimension, trunk.num_features, _POOL_HEADS, n_queries=1)
        self.visual.ln_contrast = nn.LayerNorm(dimension)
        self.visual.proj_contrast = nn.Parameter(torch.empty(dimension, dimension))
        self.text = TextTransformer(**text, output_dim=dimension, embed_cls=True, pad_id=0)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @staticmethod
    def wanted(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Without the caption half, whichever parts of it a release has."""
        return {key: value for key, value in state.items() if not key.startswith(_CAPTION)}

    @classmethod
    def shaped_like(cls, state: Mapping[str, torch.Tensor], trunk: Any, context: int) -> ConchModel:
        """A model for the tensors of a checkpoint.

        Raises:
            NotAvailable: They are not a CONCH.
        """
        try:
            vocabulary, width = state["text.token_embedding.weight"].shape
            dimension = state["visual.proj_contrast"].shape[0]
            layers = len({key.split(".")[3] for key in state if key.startswith("text.transformer.resblocks.")})
        except KeyError as error:
            raise NotAvailable(
                f"the checkpoint holds no CONCH: {error} is missing; copy pytorch_model.bin again"
            ) from None
        heads = max(1, width // _HEAD_WIDTH)
        text = {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": heads, "layers": layers}
        return cls(trunk, text, dimension)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] to [B, D]."""
        tokens = self.visual.trunk.forward_features(pixels)
        pooled = self.visual.ln_contrast(self.visual.attn_pool_contrast(tokens)[:, 0])
        projected: torch.Tensor = pooled @ self.visual.proj_contrast
        return projected

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Ids [B, T], padded with 0, T at most the context, to [B, D]."""
        vectors: torch.Tensor = self.text(tokens)
        return vectors


def text_side(model: ConchModel, context: int) -> TextSide:
    """CONCH's tokenizer is a file of its code repository, not of its weights: it is read when a text comes."""
    loaded: list[Any] = []

    def tokenizer() -> Any:
        if not loaded:
            from transformers import PreTrainedTokenizerFast

            path = tokenizer_path()
            if not path.is_file():
                raise NotAvailable(
                    f"CONCH's tokenizer is not in {path.parent}; download {TOKENIZER} from "
                    "conch/open_clip_custom/tokenizers of the repository mahmoodlab/CONCH into that folder "
                    "(images work without it)"
                )
            loaded.append(PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<pad>"))  # noqa: S106
        return loaded[0]

    def tokenise(texts: list[str]) -> dict[str, torch.Tensor]:
        found = tokenizer()(texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        return {"tokens": found["input_ids"]}

    return TextSide(
        tokenise=tokenise,
        count=lambda text: len(tokenizer()(text, verbose=False)["input_ids"]),
        encode=model.encode_text,
        context=context,
    )


def tokenizer_path() -> Path:
    """Where the user puts CONCH's tokenizer."""
    return cache_root() / "encoders" / "conch" / TOKENIZER
