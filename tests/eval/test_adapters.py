"""Each harness is run on a tiny local task, in a process of its own; skipped where the package is absent.

To prove them: ``pip install --target DIR --no-deps mteb clip-benchmark lmms-eval …`` and ``PYTHONPATH=DIR pytest
tests/eval/test_adapters.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from eval.adapters.vlmevalkit import PathAssist
from tests.eval.fake_models import FakeEncoder, FakeModel

ROOT = Path(__file__).resolve().parents[2]


def needs(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def run_script(script: str, folder: Path) -> Any:
    """The JSON that a script prints on its last line."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_vlmevalkit_shape(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    model = FakeModel(lambda image, prompt: f"{image.getpixel((0, 0))} {prompt}" if image else prompt)
    adapter = PathAssist(model)
    message = [{"type": "image", "value": str(tmp_path / "a.png")}, {"type": "text", "value": "which?"}]
    assert adapter.generate_inner(message, "MMBench") == "(255, 0, 0) which?"
    assert not adapter.use_custom_prompt("MMBench")
    with pytest.raises(BadInput, match="2 images"):
        adapter.generate_inner([message[0], message[0]])
    with pytest.raises(NotAvailable, match="empty"):
        PathAssist(FakeModel(lambda *_: " ")).generate_inner(message)


def test_embedding_adapters_agree_with_the_encoder() -> None:
    torch = pytest.importorskip("torch")
    from eval.adapters.embedding import MtebEncoder, clip_parts

    encoder = FakeEncoder()
    images = [Image.new("RGB", (32, 32), c) for c in ("red", "green")]
    texts = ["lung", "a colon of µm"]
    model, transform, tokenize = clip_parts(encoder)
    vectors = model.encode_image(torch.stack([transform(i) for i in images]))
    assert np.allclose(vectors, encoder.embed_images(images))
    assert np.allclose(model.encode_text(tokenize(texts)), encoder.embed_texts(texts))
    assert transform(Image.new("RGB", (64, 40))).shape == (3, 32, 32)
    with pytest.raises(BadInput, match="at most 512"):
        tokenize(["x" * 513])
    mteb = MtebEncoder(encoder)
    assert np.allclose(mteb.encode([{"image": images}]), encoder.embed_images(images))
    both = mteb.encode([{"image": images, "text": texts}])
    assert np.allclose(np.linalg.norm(both, axis=1), 1)
    assert mteb.similarity(both, both).shape == (2, 2)
    assert mteb.similarity_pairwise(both, both).tolist() == pytest.approx([1, 1])
    with pytest.raises(BadInput, match="needs image or text"):
        mteb.encode([{"audio": []}])


MTEB = """
import json, mteb
from mteb.mocks.mock_tasks.zeroshot_classification import MockZeroShotClassificationTask
from mteb.models.models_protocols import EncoderProtocol
from eval.adapters.embedding import MtebEncoder
from tests.eval.fake_models import FakeEncoder

model = MtebEncoder(FakeEncoder())
assert isinstance(model, EncoderProtocol)
found = mteb.evaluate(model, [MockZeroShotClassificationTask()], cache=None, show_progress_bar=False)
result = found.task_results[0]
print(json.dumps({"score": result.get_score(), "name": found.model_name}))
"""


@pytest.mark.slow
@needs("mteb")
def test_mteb_runs_a_task(tmp_path: Path) -> None:
    found = run_script(MTEB, tmp_path)
    assert found["name"] == "pathassist/fake"
    assert 0 <= found["score"] <= 1


CLIP_BENCHMARK = """
import json, torch
from PIL import Image
from clip_benchmark.metrics import zeroshot_classification
from clip_benchmark.models import TYPE2FUNC, load_clip
from eval.adapters import embedding
from tests.eval.fake_models import FakeEncoder

class Colours(FakeEncoder):
    def embed_texts(self, texts, batch_size=64):
        return self._unit([[1, 0, 0, 1, 0, 0, 0, 0] if "red" in t else [0, 0, 1, 1, 0, 0, 0, 0] for t in texts])

class Data(torch.utils.data.Dataset):
    classes = ["red", "blue"]
    def __init__(self, transform): self.transform = transform
    def __len__(self): return 6
    def __getitem__(self, i): return self.transform(Image.new("RGB", (50, 40), self.classes[i % 2])), i % 2

embedding.load_encoder = lambda name: Colours()
TYPE2FUNC["pathassist"] = embedding.load_pathassist
import clip_benchmark.models as m
m.MODEL_TYPES.append("pathassist")
model, transform, tokenizer = load_clip("pathassist", "fake", "", "", "cpu")
loader = torch.utils.data.DataLoader(Data(transform), batch_size=3)
# Its evaluate() ends in a conversion that NumPy 2.4 refuses; these are the two steps it takes before that.
wordings = ["a {c} image"]
weights = zeroshot_classification.zero_shot_classifier(model, tokenizer, Data.classes, wordings, "cpu", amp=False)
logits, target = zeroshot_classification.run_classification(model, weights, loader, "cpu", amp=False)
print(json.dumps({"score": float((logits.argmax(1) == target).float().mean())}))
"""


@pytest.mark.slow
@needs("clip_benchmark")
def test_clip_benchmark_runs_a_task(tmp_path: Path) -> None:
    assert run_script(CLIP_BENCHMARK, tmp_path)["score"] == 1


LMMS_EVAL = """
import json, sys
from pathlib import Path
from lmms_eval.models import registry_v2
from eval.adapters.lmms import PathAssist, manifest
from tests.eval.fake_models import FakeModel

registry = registry_v2.ModelRegistryV2()
registry.register_manifest(manifest())
resolved = registry.resolve("pathassist")
assert (resolved.model_type, resolved.class_name) == ("chat", "PathAssist")
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

Path("task").mkdir()
Path("rows.jsonl").write_text("".join(json.dumps({"q": w, "a": w}) + chr(10) for w in ("liver", "lung", "skin")))
Path("task/utils.py").write_text('''
from PIL import Image
def doc_to_visual(doc): return [Image.new("RGB", (16, 16), "red")]
def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    content = [{"type": "image", "url": doc_to_visual(doc)[0]}, {"type": "text", "text": doc["q"]}]
    return [{"role": "user", "content": content}]
''')
Path("task/tiny.yaml").write_text('''
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
task: tiny_pathology
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_messages: !function utils.doc_to_messages
doc_to_text: q
doc_to_target: a
generation_kwargs: {max_new_tokens: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
''' % json.dumps(str(Path("rows.jsonl").resolve())))

def reply(image, prompt):
    assert image.getpixel((0, 0)) == (255, 0, 0)
    return prompt if prompt != "skin" else "bone"

found = simple_evaluate(
    model=PathAssist(FakeModel(reply)), tasks=["tiny_pathology"], batch_size=1, bootstrap_iters=0, log_samples=True,
    task_manager=TaskManager(include_path="task", include_defaults=False),
)
scores = found["results"]["tiny_pathology"]
print(json.dumps({"score": next(float(v) for k, v in scores.items() if k.startswith("exact_match,"))}))
"""


@pytest.mark.slow
@needs("lmms_eval")
def test_lmms_eval_runs_a_task(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="a dependency of lmms_eval is missing")
    assert run_script(LMMS_EVAL, tmp_path)["score"] == pytest.approx(2 / 3)
