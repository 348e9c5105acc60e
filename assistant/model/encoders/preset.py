"""The cards of all encoders, read from ``assistant/model/encoders/presets/*.yaml``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from assistant.errors import BadInput
from assistant.model.encoders.base import EncoderInfo
from assistant.model.encoders.pixels import Pixels
from assistant.model.preset import Source

PRESETS_FOLDER = Path(__file__).parent / "presets"
DEFAULT = "pathclip-small"


@dataclass(frozen=True)
class EncoderPreset:
    """One encoder a user can name.

    Attributes:
        name: Equals the file name.
        description: One sentence with the paper.
        loader: Which function of :mod:`assistant.model.encoders.load` reads its files.
        licence: Licence of the weights.
        size_mb: Megabytes to download.
        dimension: Length of a vector.
        pooling: How tokens become one vector.
        has_text: Texts can be embedded too.
        image: How images are prepared.
        research_only: The licence excludes commercial use, or nothing else is safe to assume.
        architecture: Name in open_clip or timm, where the files do not say it.
        model_args: More keywords for ``timm.create_model``.
        context_tokens: Longest text.
        weights: Names of the weight file, the first that exists is read.
        source: Pinned hub repository; None for ours and for closed ones.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "strict": True}

    name: str
    description: str
    loader: Literal["pathclip_small", "pathclip_duo", "mllm", "open_clip", "clip", "conch", "timm", "keep", "closed"]
    licence: str
    size_mb: int
    dimension: int
    pooling: str
    has_text: bool
    image: Pixels
    research_only: bool = False
    architecture: str = ""
    model_args: dict[str, Any] = field(default_factory=dict)
    context_tokens: int = 77
    weights: tuple[str, ...] = ()
    source: Source | None = None

    @property
    def info(self) -> EncoderInfo:
        """The card as every encoder carries it."""
        return EncoderInfo(
            name=self.name,
            licence=self.licence,
            dimension=self.dimension,
            image_size=self.image.size,
            pooling=self.pooling,
            has_text=self.has_text,
            preprocessing=str(self.image),
            research_only=self.research_only,
        )


def encoder_names() -> list[str]:
    """Names of all encoders, the default first."""
    names = sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT)


@cache
def encoder_preset(name: str) -> EncoderPreset:
    """Read one card.

    Raises:
        BadInput: No encoder of that name.
    """
    import yaml
    from pydantic import TypeAdapter

    if name not in encoder_names():
        raise BadInput(f"unknown encoder {name!r}; choose one of: {', '.join(encoder_names())}")
    # JSON in between: pydantic's strict mode then takes lists for tuples, as YAML has them.
    text = json.dumps(yaml.safe_load((PRESETS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    preset: EncoderPreset = TypeAdapter(EncoderPreset).validate_json(text)
    return preset
