"""The page about the ViT tower: controls merge as they say, bootstraps are paired, the rule is read off the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assistant.errors import NotAvailable
from assistant.model.tome import assign, merge, merged_tower, token_counts, vit_flops
from eval import token_merging, vit_probes, vit_tower
from eval.vit_tower_report import verdict, vit_markdown
from training.data.records import Record


def small_vit() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
    )
    return CLIPVisionModel(config).eval()


def records(n: int = 40) -> list[Record]:
    made = []
    for i in range(n):
        facts = {"node": f"class {i % 2}"}
        split = "train" if i < n // 2 else "val"
        made.append(Record("pcam_1k", Path(f"{i}.png"), split, f"pcam_1k:{i // 2}", facts))
    return made


@pytest.mark.parametrize("rule", [token_merging.assign_tome, token_merging.assign_random])
def test_controls_merge_as_many(rule: Any) -> None:
    keys = torch.randn(3, 10, 8)
    position = rule(keys, 4, 0.9)
    assert position.shape == (3, 10)
    for row in position:
        assert row.unique().tolist() == list(range(6))
    with torch.no_grad(), merged_tower(small_vit(), 0.75, rule) as tower:
        found = tower(pixel_values=torch.randn(2, 3, 32, 32)).last_hidden_state
    assert found.shape[1] == 1 + token_counts(16, 3, 0.75)[-1]


def test_tome_merges_the_most_alike() -> None:
    keys = torch.eye(8)[None].clone()
    keys[0, 2] = keys[0, 5]
    position = token_merging.assign_tome(keys, 1, 0.9)[0]
    assert position[2] == position[5]
    assert position.max() == 6


def test_the_page_compares_different_rules() -> None:
    keys = torch.randn(1, 16, 8)
    found = {name: tuple(rule(keys, 4, 0.9)[0].tolist()) for name, rule in token_merging.RULES.items()}
    assert len(set(found.values())) == 3
    assert found["PiToMe"] == tuple(assign(keys, 4, 0.9)[0].tolist())


@pytest.mark.parametrize("name", list(token_merging.REDUCTIONS))
def test_reductions_keep_the_mean(name: str) -> None:
    tokens = torch.randn(2, 16, 5)
    for count in (4, 1):
        found, sizes = token_merging.REDUCTIONS[name](tokens, count)
        assert found.shape == (2, count, 5)
        weighted = (found * sizes[..., None]).sum(1) / sizes.sum(1, keepdim=True)
        assert torch.allclose(weighted, tokens.mean(1), atol=1e-5)
    assert token_merging.reduce_grid(tokens, 9)[0].shape == (2, 9, 5)
    assert torch.allclose(token_merging.reduce_grid(tokens, 4)[0][:, 0], tokens[:, [0, 1, 4, 5]].mean(1), atol=1e-6)
    groups = merge(tokens, torch.ones(2, 16), torch.arange(16).expand(2, -1) % 4, 4)
    assert groups[0].shape == (2, 4, 5)


def test_flops_are_those_of_the_formula() -> None:
    vit = small_vit()
    for keep in (1.0, 0.75):
        counts = token_counts(16, 3, keep)

        def call(x: torch.Tensor, keep: float = keep) -> torch.Tensor:
            with merged_tower(vit, keep):
                found: torch.Tensor = vit(pixel_values=x).pooler_output
            return found

        wanted = vit_flops(counts, 32, 128, patch_size=8, heads=4) / 1e9
        assert vit_probes.gflops(call, vit, 32) == pytest.approx(wanted)
    assert vit.config._attn_implementation != "eager"


def test_probes_and_their_paired_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_probes, "TASKS", {"node": "pcam_1k"})
    made = records()
    seen = np.array([[float(r.facts["node"][-1]), 1.0] for r in made], dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=seen.shape).astype(np.float32)
    ours, other = (vit_probes.guesses(vit_probes.fit_probes(v, made), v, made) for v in (seen, noise))
    found = vit_probes.scores(ours, made)
    assert found["node"]["n"] == 20
    assert found["mean"] == [1.0, 1.0, 1.0]
    assert vit_probes.difference(ours, ours, made) == [0.0, 0.0, 0.0]
    value, low, high = vit_probes.difference(other, ours, made)
    assert low <= value <= high
    assert value == pytest.approx(vit_probes.scores(other, made)["mean"][0] - 1)
    assert high < 0


def _numbers(gap: float) -> dict[str, Any]:
    def tower(mean: float, minus: float) -> dict[str, Any]:
        return {
            "organ": {"n": 9, "balanced_accuracy": [mean, 0.1, 0.9]}, "mean": [mean, 0.1, 0.9], "dimension": 8,
            "minus_teacher": [minus, minus - 0.1, minus + 0.1], "parameters": 2_000_000, "gflops": 1.5,
            "images_per_s": 10.0,
            "with_patches": {"mean": [mean, 0.1, 0.9], "minus_teacher": [minus - 0.01, -0.2, 0.2]},
        }  # fmt: skip

    teacher = {k: v for k, v in tower(0.7, 0.0).items() if k != "with_patches"}
    row = {"keep": 1.0, "rule": "none", "tokens": 196, "gflops": 2.0, "images_per_s": 9.0, "mean": [0.5, 0.4, 0.6],
           "minus_unmerged": [0.0, 0.0, 0.0]}  # fmt: skip
    chat = {"tokens": 16, "rule": "none", "accuracy": [0.7, 0.6, 0.8], "minus_unmerged": [0.0, 0.0, 0.0], "changed": 0,
            "seconds": 0.3}  # fmt: skip
    return {
        "tower": {"layers": 3, "width": 32, "heads": 4, "patch_size": 8}, "training": {},
        "towers": {"teacher": teacher, "ViT": tower(0.7 + gap, gap), "untrained ViT": tower(0.2, -0.5)},
        "merging": [row, row | {"keep": 0.9, "rule": "random", "gflops": 1.5, "images_per_s": None}],
        "chat": {"n": 60, "revision": "x", "chance": 0.25, "rows": [chat]},
    }  # fmt: skip


def test_the_rule_is_read_off_the_numbers() -> None:
    assert "is met" in verdict(_numbers(-0.02)["towers"])
    assert "12.0 points below it: **the rule is not met" in verdict(_numbers(-0.12)["towers"])
    page = vit_markdown(_numbers(-0.12))
    assert "| 0.9 | random | 196 | 1.50 (75%) |" in page
    assert "| organ | 9 | 0.700 [0.100, 0.900] | 0.580 [0.100, 0.900] |" in page


def test_a_missing_tower_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"training\.run distill"):
        vit_tower.run(str(tmp_path))
