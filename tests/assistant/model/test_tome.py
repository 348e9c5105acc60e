"""Token merging: nothing at keep 1, the promised counts, sizes that weigh, and look-alikes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from assistant.errors import BadInput
from assistant.model.tome import (
    assign,
    energy,
    merge,
    merge_before_connector,
    merged_tower,
    positions,
    reduce_tokens,
    token_counts,
    vit_flops,
)

DEPTH, WIDTH, HEADS, PREFIX = 4, 32, 4, 1


def timm_tower(**changes: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **changes}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **arguments).eval()


def clip_tower() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        image_size=32, patch_size=4,
    )  # fmt: skip
    return CLIPVisionModel(config).eval()


def tokens_of(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    if hasattr(tower, "forward_features"):
        found: torch.Tensor = tower.forward_features(pixels)
        return found
    found = tower(pixel_values=pixels).last_hidden_state
    return found


TOWERS = pytest.mark.parametrize("make", [timm_tower, clip_tower])
Make = Callable[[], Any]


@TOWERS
def test_keeping_all_is_the_identity(make: Make) -> None:
    tower, pixels = make(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = tokens_of(tower, pixels)
        with merged_tower(tower, keep=1.0):
            assert torch.equal(tokens_of(tower, pixels), wanted)


@TOWERS
def test_the_promised_counts_and_no_traces(make: Make) -> None:
    tower, pixels = make(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = tokens_of(tower, pixels)
        for keep in (0.9, 0.75, 0.5):
            counts = token_counts(64, DEPTH, keep)
            with merged_tower(tower, keep):
                for _ in range(2):  # sizes of one pass do not leak into the next
                    got = tokens_of(tower, pixels)
                    assert got.shape == (2, PREFIX + counts[-1], WIDTH)
        assert torch.equal(tokens_of(tower, pixels), wanted)
    assert token_counts(64, 4, 0.9) == [64, 58, 53, 48, 44]
    assert token_counts(10, 1, 0.9) == [10, 9]
    assert token_counts(2, 3, 0.5) == [2, 1, 1, 1]


def test_registers_and_wrapped_towers() -> None:
    from assistant.model.towers import TimmTower, TimmTowerConfig

    tower = timm_tower(reg_tokens=3, init_values=1e-2)
    with torch.no_grad(), merged_tower(tower, 0.5):
        assert tower.forward_features(torch.randn(1, 3, 32, 32)).shape[1] == 4 + token_counts(64, DEPTH, 0.5)[-1]
    args = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    wrapped = TimmTower(
        TimmTowerConfig(
            architecture="vit_tiny_patch16_224", hidden_size=WIDTH, image_size=32, patch_size=16, model_args=args
        )
    )
    with merged_tower(wrapped, 0.75):
        assert "forward" in wrapped.backbone.blocks[0].__dict__
    assert "forward" not in wrapped.backbone.blocks[0].__dict__
    assert not wrapped.backbone.blocks[0].attn.qkv._forward_hooks


@TOWERS
def test_merging_duplicates_changes_nothing(make: Make) -> None:
    """Proportional attention over merged equals is exactly attention over the equals."""
    tower = make()
    with torch.no_grad():  # without positions, equal patches are equal tokens
        position = tower.pos_embed if hasattr(tower, "pos_embed") else tower.embeddings.position_embedding.weight
        position.zero_()
        patch = torch.randn(2, 3, 4, 4)
        pixels = patch[0].repeat(1, 8, 8)[None]
        pixels[..., 28:, :] = patch[1].repeat(1, 1, 8)
        wanted = tokens_of(tower, pixels)[:, 0]
        with merged_tower(tower, 0.75):
            merged = tokens_of(tower, pixels)
    assert merged.shape[1] == PREFIX + token_counts(64, DEPTH, 0.75)[-1]
    assert torch.allclose(merged[:, 0], wanted, atol=1e-4)


def test_merging_near_duplicates_beats_merging_at_random() -> None:
    tower = timm_tower()
    torch.manual_seed(1)
    pixels = torch.randn(4, 3, 1, 1).expand(-1, -1, 32, 32).clone()
    pixels[..., :12, :12] += torch.randn(4, 3, 12, 12)  # one detailed corner on plain ground
    with torch.no_grad():
        wanted = tower.forward_features(pixels)[:, 0]
        with merged_tower(tower, 0.8):
            near = (tower.forward_features(pixels)[:, 0] - wanted).norm(dim=1)
        dropped = []
        for seed in range(3):
            keep = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[: token_counts(64, DEPTH, 0.8)[-1]]
            x = tower._pos_embed(tower.patch_embed(pixels))
            x = tower.norm(tower.blocks(torch.cat([x[:, :1], x[:, 1:][:, keep]], dim=1)))[:, 0]
            dropped.append((x - wanted).norm(dim=1))
    assert (near < torch.stack(dropped).mean(0)).all()


def test_energy_is_high_in_large_groups() -> None:
    keys = torch.eye(8)[[0, 0, 0, 0, 0, 1, 2, 3]][None] + 0.01 * torch.randn(1, 8, 8)
    values = energy(keys, margin=0.5)
    assert values[0, :5].min() > values[0, 5:].max()
    assert values.max() <= 1
    position = assign(keys, 2, margin=0.5)
    assert position.shape == (1, 8)
    assert position.max() == 5
    assert len(set(position[0, 5:].tolist())) == 3  # those that stand out stay apart
    assert len(set(position[0, :5].tolist())) == 3
    assert not set(position[0, 5:].tolist()) & set(position[0, :5].tolist())


def test_merges_weigh_by_size() -> None:
    tokens = torch.tensor([[[1.0], [4.0], [10.0]]])
    got, sizes = merge(tokens, torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0, 0, 1]]), 2)
    assert got[0, :, 0].tolist() == [2.0, 10.0]
    assert sizes.tolist() == [[3.0, 1.0]]


def test_attention_is_proportional_to_size() -> None:
    """A token of size 3 in attention with the mask equals three copies of it without."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8).unbind(0)
    sizes = torch.tensor([3.0, 1, 1, 1])
    masked = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sizes.log().expand(1, 1, 4, -1))
    copies = torch.tensor([0, 0, 0, 1, 2, 3])
    plain = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, copies], v[:, :, copies])
    assert torch.allclose(masked, plain, atol=1e-6)


def test_reduce_tokens_before_a_connector() -> None:
    tokens = torch.randn(2, 50, 16, requires_grad=True)
    for count in (50, 37, 12, 1):
        got, sizes = reduce_tokens(tokens, count)
        assert got.shape == (2, count, 16)
        assert sizes.sum(1).tolist() == [50.0, 50.0]
        means = (got * sizes[..., None]).sum(1) / 50
        assert torch.allclose(means, tokens.mean(1), atol=1e-5)
    got.sum().backward()
    assert tokens.grad is not None
    assert torch.equal(reduce_tokens(tokens, 50)[0], tokens)
    for count in (0, 51):
        with pytest.raises(BadInput, match="choose 1 to 50"):
            reduce_tokens(tokens, count)


@pytest.mark.parametrize("keep", [1.0, 0.75])
def test_flops_agree_with_torch(keep: float) -> None:
    tower = timm_tower()
    for block in tower.blocks:
        block.attn.fused_attn = False  # torch does not count the fused one on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter, merged_tower(tower, keep):
        tower.forward_features(torch.randn(1, 3, 32, 32))
    ours = vit_flops(token_counts(64, DEPTH, keep), WIDTH, 4 * WIDTH, PREFIX, patch_size=4, heads=HEADS)
    assert counter.get_total_flops() == ours


def test_refusals() -> None:
    for keep in (0.4, 1.1):
        with pytest.raises(BadInput, match=r"between 0\.5 and 1"), merged_tower(timm_tower(depth=1), keep):
            pass
    with pytest.raises(BadInput, match="tokens of a Linear cannot be merged"), merged_tower(torch.nn.Linear(2, 2), 0.9):
        pass


def test_a_chosen_rule_decides_what_merges() -> None:
    seen: list[int] = []

    def first_two(keys: torch.Tensor, merges: int, margin: float) -> torch.Tensor:
        seen.append(merges)
        return assign(keys.roll(1, 1), merges, margin)

    tower, pixels = clip_tower(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        with merged_tower(tower, 0.9):
            ours = tokens_of(tower, pixels)
        with merged_tower(tower, 0.9, first_two):
            other = tokens_of(tower, pixels)
    assert seen == [6, 5, 5, 4]
    assert other.shape == ours.shape
    assert not torch.allclose(other, ours)


def test_positions_close_ranks() -> None:
    found = positions(torch.tensor([[1]]), torch.tensor([[3]]), 4)
    assert found.tolist() == [[0, 2, 1, 2]]


def test_a_connector_sees_fewer_tokens(tiny_llava: tuple[Any, Any], tiny_assistant: Any) -> None:
    from PIL import Image

    from assistant.assistant import Assistant

    model, processor = tiny_llava
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    whole = tiny_assistant._visual_tokens(image)
    undo = merge_before_connector(model, processor, 3)
    try:
        merged = Assistant(model, processor, tiny_assistant.engine, name="tiny")
        assert merged._visual_tokens(image).shape == (3, whole.shape[1])
        inputs = processor(text="<image> What?", images=image, return_tensors="pt")
        assert (inputs["input_ids"] == model.config.image_token_id).sum() == 3
        with torch.no_grad():
            model(**inputs)  # as many features as places
        answer = merged.ask([image], "What is it?", max_new_tokens=2)
        assert answer.text
    finally:
        undo()
    assert torch.equal(Assistant(model, processor, tiny_assistant.engine, name="tiny")._visual_tokens(image), whole)
    after = processor(text="<image> What?", images=image, return_tensors="pt")["input_ids"]
    assert (after == model.config.image_token_id).sum() == 4
    assert model.config.image_seq_length == 4


def test_merging_equal_tokens_before_the_connector_loses_nothing(tiny_llava: tuple[Any, Any]) -> None:
    model, _ = tiny_llava
    tokens = torch.randn(1, 2, 256).repeat_interleave(2, dim=1)
    with torch.no_grad():
        wanted = model.model.multi_modal_projector(tokens)
        undo = merge_before_connector(model, None, 2)
        try:
            found = model.model.multi_modal_projector(tokens)
        finally:
            undo()
    assert torch.allclose(found, wanted[:, ::2], atol=1e-6)


def test_a_connector_cannot_see_more_than_there_is(tiny_llava: tuple[Any, Any]) -> None:
    for count in (0, 5):
        with pytest.raises(BadInput, match=f"{count} tokens are wanted of 4; choose 1 to 4"):
            merge_before_connector(*tiny_llava, count)
    assert not tiny_llava[0].model.multi_modal_projector._forward_pre_hooks


@pytest.mark.parametrize(("merge_to", "tokens"), [(0, 4), (2, 2)])
def test_a_preset_turns_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llava: tuple[Any, Any], merge_to: int, tokens: int
) -> None:
    import yaml
    from PIL import Image

    from assistant.assistant import Assistant
    from assistant.model import load
    from assistant.model.preset import PRESETS_FOLDER

    folder = tmp_path / "assembled"
    for part in tiny_llava:
        part.save_pretrained(folder)
    data = yaml.safe_load((PRESETS_FOLDER / "embedded.yaml").read_text())
    data |= {"name": "mine", "second_look": None}
    data["connector"] |= {"merge_to": merge_to} if merge_to else {}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setattr(load, "assembled_folder", lambda *_, **__: folder)
    made = Assistant.load(str(tmp_path / "mine.yaml"))
    assert made._visual_tokens(Image.effect_noise((64, 64), 90).convert("RGB")).shape[0] == tokens
    assert made.revision == ("assembled-merge2" if merge_to else "assembled")


def test_a_preset_cannot_ask_for_more_tokens_than_the_tower_has(tmp_path: Path) -> None:
    import yaml

    from assistant.model.preset import PRESETS_FOLDER, read_preset

    data = yaml.safe_load((PRESETS_FOLDER / "embedded.yaml").read_text()) | {"name": "mine"}
    data["connector"]["merge_to"] = 17
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(BadInput, match=r"connector\.merge_to is 17; allowed: 0 to 16"):
        read_preset(tmp_path / "mine.yaml")
