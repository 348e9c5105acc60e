"""``pathassist embed``, ``classify`` and ``stain``: files, JSON, exit codes and one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from assistant import cli_encode
from assistant.answer import DISCLAIMER
from assistant.cli_common import ErrorGroup
from assistant.model import encoders
from assistant.model.encoders import classify as classify_module
from tests.assistant.model.encoders.fake import ColourEncoder

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The commands with an encoder that knows colours."""
    monkeypatch.setattr(encoders, "load_encoder", ColourEncoder.load)
    monkeypatch.setattr(classify_module, "WEIGHTS_FOLDER", tmp_path / "weights")
    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False, rich_markup_mode=None)
    cli_encode.register(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red field.png"
    Image.new("RGB", (20, 20), "red").save(path)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    return path


def test_embed_images_and_texts(run: Run, red: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a blue field\n")
    out = tmp_path / "vectors.npz"
    result = run("embed", red, "--text", captions, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"2 vectors of 3 numbers from colours-0123456789ab are in {out}" in result.stdout
    with np.load(out) as stored:
        assert list(stored["ids"]) == [str(red), "captions.txt:1"]
        assert stored["vectors"].dtype == np.float32
        assert list(stored["vectors"].argmax(1)) == [0, 2]


def test_embed_names_bad_files_and_goes_on(run: Run, red: Path, broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    result = run("embed", red, broken, tmp_path / "missing.png", "--out", out)
    assert result.exit_code == 1
    assert f"skipped {broken}: 'broken.png'" in result.stderr
    assert "does not exist" in result.stderr
    assert "2 could not be read" in result.stdout
    with np.load(out) as stored:
        assert list(stored["ids"]) == [str(red)]
    told = json.loads(run("embed", red, broken, "--out", out, "--json").stdout)
    assert told["embedded"] == 1
    assert told["failed"][0]["id"] == str(broken)
    assert told["disclaimer"] == DISCLAIMER


def test_embed_refuses(run: Run, red: Path, broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    for words, message in [
        (["--out", out], "nothing to embed; name image files or folders, or texts with --text FILE"),
        ([red, "--out", tmp_path / "v.csv"], "--out is 'v.csv'; its name must end in .npz"),
        ([broken, "--out", out], "nothing could be embedded: 'broken.png'"),
        ([red, "--out", out, "--encoder", "magic"], "unknown encoder 'magic'"),
        ([tmp_path / "weights", "--out", out], "nothing could be embedded"),
    ]:
        result = run("embed", *words)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not out.exists()


def test_classify(run: Run, red: Path, tmp_path: Path) -> None:
    result = run("classify", red, "--labels", "blue, red")
    assert result.exit_code == 0, result.output
    assert f"{red}: red" in result.stdout
    assert DISCLAIMER in result.stdout
    assert "are not calibrated" in result.stderr
    calibration = tmp_path / "weights" / "pathclip-small" / "calibration.json"
    calibration.parent.mkdir(parents=True)
    calibration.write_text('{"scale": 2.0, "threshold": 1.5}')
    told = json.loads(run("classify", red, "--labels", "blue, red", "--json").stdout)
    assert told["warnings"] == []
    assert told["results"][0]["label"] == "none of these"
    assert told["results"][0]["probabilities"]["red"] > 0.5


def test_classify_refuses_and_goes_on(run: Run, red: Path, broken: Path) -> None:
    result = run("classify", red, "--labels", "red")
    assert result.exit_code == 2
    assert "between 2 and 1000 are wanted" in result.stderr
    result = run("classify", red, broken, "--labels", "red,blue", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failed"][0]["image"] == str(broken)


def test_stain(run: Run, red: Path, tmp_path: Path) -> None:
    from tests.assistant.images.test_stain import EOSIN, HAEMATOXYLIN, PINK, PURPLE, distance, stained

    reference, field, out = tmp_path / "good.png", tmp_path / "field.png", tmp_path / "out.png"
    stained(HAEMATOXYLIN, EOSIN).save(reference)
    stained(PURPLE, PINK, strength=0.6, seed=1).save(field)
    told = json.loads(run("stain", field, "--reference", reference, "--out", out, "--json").stdout)
    assert told == {"method": "macenko", "out": str(out), "changed": True, "reason": ""}
    before, after, wanted = (Image.open(path) for path in (field, out, reference))
    assert distance(after, wanted) < 0.4 * distance(before, wanted)
    result = run("stain", red, "--method", "reinhard", "--reference", reference, "--out", out)
    assert result.exit_code == 0
    assert "it is unchanged" in result.stdout
    result = run("stain", field, "--method", "hed", "--out", tmp_path / "stains")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "stains").iterdir())
    assert names == ["field-dab.png", "field-eosin.png", "field-hematoxylin.png"]
    for words, message in [([], "needs --reference FILE"), (["--reference", red], "the stain reference")]:
        result = run("stain", field, "--out", out, *words)
        assert result.exit_code == 2
        assert message in result.stderr
