"""Many files: order kept, bad ones named and the rest embedded, whatever their size and mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.model.encoders.use import (
    Embedded,
    embed_files,
    embed_texts,
    find_images,
    read_texts,
    write_vectors,
)
from tests.assistant.model.encoders.fake import COLOURS, ColourEncoder


def write(path: Path, colour: str = "red", size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


def test_one_bad_file_among_a_thousand(tmp_path: Path) -> None:
    names = list(COLOURS)
    # Pillow's green is half as bright as the web's; the vector's direction is what counts.
    originals = [write(tmp_path / f"{name}.png", name) for name in names]
    paths = []
    for i in range(1000):
        paths.append(tmp_path / f"field-{i:04d}.png")
        paths[-1].symlink_to(originals[i % 3])
    paths[417].unlink()
    paths[417].write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    done: list[int] = []
    encoder = ColourEncoder()
    result = embed_files(encoder, paths, workers=3, progress=done.append)
    assert [name for name, _ in result.failed] == [str(paths[417])]
    assert "PNG" in result.failed[0][1]
    kept = [i for i in range(1000) if i != 417]
    assert result.ids == [str(paths[i]) for i in kept]
    assert result.vectors.shape == (999, 3)
    assert result.vectors.dtype == np.float32
    assert (result.vectors.argmax(1) == [i % 3 for i in kept]).all()
    assert np.allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-6)
    assert sum(done) == 1000
    assert set(encoder.batches[:-1]) == {64}
    again = embed_files(ColourEncoder(), paths, workers=1)
    assert np.array_equal(again.vectors, result.vectors)


def test_sizes_and_modes(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "tall.png", size=(3, 200)), write(tmp_path / "grey.png", mode="L"),
        write(tmp_path / "alpha.png", mode="RGBA"), write(tmp_path / "palette.png", mode="P"),
        write(tmp_path / "photo.jpg", size=(200, 90)), write(tmp_path / "scan.tif"), write(tmp_path / "web.webp"),
    ]  # fmt: skip
    result = embed_files(ColourEncoder(), paths)
    assert not result.failed
    assert len(result.ids) == len(paths)
    assert np.allclose(result.vectors[1], 3**-0.5, atol=1e-3)  # grey
    assert (np.delete(result.vectors, 1, axis=0)[:, 0] > 0.99).all()


def test_a_crash_of_the_encoder_is_not_a_bad_file(tmp_path: Path) -> None:
    class Broken(ColourEncoder):
        def prepare(self, image: Image.Image) -> None:
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        embed_files(Broken(), [write(tmp_path / "a.png")] * 300)


def test_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    wanted = [write(tmp_path / "deep" / "b.JPG"), write(tmp_path / "z.png")]
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images([tmp_path]) == wanted
    assert find_images([tmp_path / "missing.png"]) == [tmp_path / "missing.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no image"):
        find_images([tmp_path / "empty"])


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("a red field\n\nblue " + "word " * 10_000 + "\n", encoding="utf-8")
    lines = read_texts(path)
    assert [name for name, _ in lines] == ["captions.txt:1", "captions.txt:2", "captions.txt:3"]
    result = embed_texts(ColourEncoder(), lines)
    assert result.ids == ["captions.txt:1", "captions.txt:3"]
    assert [int(i) for i in result.vectors.argmax(1)] == [0, 2]
    assert result.failed == [("captions.txt:2", "captions.txt:2 is an empty text; give a word or a sentence")]
    assert result.warnings == ["captions.txt:3 has 10,001 words, more than colours reads; the rest is cut off"]
    with pytest.raises(BadInput, match="embeds images only"):
        embed_texts(ColourEncoder(has_text=False), lines)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "holds no text"), (b"caf\xe9 ", "is not UTF-8"), (None, "No such file")]
)  # fmt: skip
def test_unusable_text_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_texts(path)


def test_vectors_are_written_whole(tmp_path: Path) -> None:
    result = Embedded(["a", "ß/ü.png"], np.eye(2, 3, dtype=np.float32))
    path = tmp_path / "new" / "vectors.npz"
    write_vectors(path, result)
    with np.load(path, allow_pickle=False) as stored:
        assert sorted(stored.files) == ["ids", "vectors"]
        assert list(stored["ids"]) == result.ids
        assert stored["vectors"].dtype == np.float32
        assert np.array_equal(stored["vectors"], result.vectors)
    assert [p.name for p in path.parent.iterdir()] == ["vectors.npz"]
    with pytest.raises(BadInput, match=r"must end in \.npz"):
        write_vectors(tmp_path / "vectors.npy", result)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAvailable, match="cannot write"):
        write_vectors(tmp_path / "file" / "vectors.npz", result)
