"""Views of an image and their common vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.model.encoders.use import embed_files
from assistant.model.encoders.views import COUNT, embed_views, merged, views
from tests.assistant.model.encoders.test_classify import ColourEncoder


def quarters(width: int = 100, height: int = 80) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (220, 30, 30))
    image.paste((30, 30, 220), (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("size", [(100, 80), (1, 1), (7, 900), (33, 32)])
def test_views_lie_in_the_image_and_reach_its_corners(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*size[::-1], 3))
    seen = views(image)
    assert len(seen) == COUNT
    assert seen[0].size == size
    assert {v.size for v in seen[1:]} == {(max(1, round(0.6 * min(size))),) * 2}
    pixels = np.asarray(image)
    for view, (row, column) in zip(seen[1:], [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=True):
        assert (np.asarray(view)[row, column] == pixels[row, column]).all()


def test_one_vector_is_the_mean_direction_of_all_views() -> None:
    encoder, image = ColourEncoder(), quarters()
    found = embed_views(encoder, [image, Image.new("RGB", (50, 50), (220, 30, 30))])
    alone = encoder.embed_images(views(image)).mean(axis=0)
    assert found.shape[0] == 2
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert found[0] == pytest.approx(alone / np.linalg.norm(alone))
    assert merged(np.eye(COUNT, 3, dtype=np.float32)).shape == (1, 3)


def test_files_in_views_agree_and_keep_their_order(tmp_path: Path) -> None:
    encoder, paths = ColourEncoder(), []
    for n in range(30):  # more views than fit one batch
        paths.append(tmp_path / f"{n}.png")
        quarters(40 + n, 60).save(paths[-1])
    (tmp_path / "5.png").write_bytes(b"no image")
    result = embed_files(encoder, paths, in_views=True)
    assert [name for name, _ in result.failed] == [str(paths[5])]
    good = [p for p in paths if p.stem != "5"]
    assert result.ids == [str(p) for p in good]
    wanted = embed_views(encoder, [Image.open(p).convert("RGB") for p in good])
    assert result.vectors == pytest.approx(wanted, abs=1e-6)
