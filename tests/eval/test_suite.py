"""The suite on a fake model: skips with reasons, resumes without asking, reports."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from assistant.errors import NotAvailable
from eval.local_vqa import LocalVQA
from eval.pathmmu import PathMMU
from eval.pathvqa import PathVQA
from eval.suite import Step, finished, markdown, run_suite, steps
from tests.eval.fake_models import FakeEncoder, FakeModel


def plan() -> list[Step]:
    return [
        Step(LocalVQA(per_part=2), "val", ("image", "blank")),
        Step(PathMMU(), "val", ("image", "text")),
        Step(PathVQA(), "test", ("image",)),
    ]


@pytest.mark.data
@pytest.mark.slow
def test_suite_runs_skips_resumes_and_reports(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.pmeb.LABELLED", {"oral_oscc": "oral", "atlas": "organ"})
    model = FakeModel(lambda *_: "(A)")
    keywords = {"encoder": FakeEncoder, "root": data_root, "out": tmp_path, "plan": plan(), "progress": lambda *_: None}
    runs, skipped, report = run_suite(model, **keywords)
    assert [run.info["task"] for run in runs] == ["local-vqa", "pathmmu", "pmeb-style"]
    assert set(skipped) == {"pathvqa"}
    assert "no PathVQA split" in skipped["pathvqa"]
    assert runs[1].info["note"].endswith("text only")
    assert runs[1].info["n"] == 155
    assert report.is_file()
    asked = len(model.calls)
    assert asked == len(runs[0].rows) + 155
    began = time.perf_counter()
    again, _, _ = run_suite(model, **keywords)
    assert len(model.calls) == asked
    assert time.perf_counter() - began < 60
    assert [run.folder for run in again] == [run.folder for run in runs]
    written = json.loads((tmp_path / "suite.json").read_text())
    assert written["skipped"] == skipped
    assert len(written["runs"]) == 3


@pytest.mark.data
def test_what_changed_from_one_model_to_another(data_root: Path, tmp_path: Path) -> None:
    keywords = {"root": data_root, "out": tmp_path, "plan": plan()[1:2], "progress": lambda *_: None}
    before, after = FakeModel(lambda *_: "(A)"), FakeModel(lambda *_: "(B)")
    before.name, after.name = "before", "after"
    run_suite(before, **keywords)
    runs, skipped, _ = run_suite(after, **keywords)
    old = finished(tmp_path, "before")
    lines = markdown(after, runs, skipped, old).splitlines()
    row = next(line for line in lines if line.startswith("| pathmmu | strict | 155 |"))
    means = [float(run.rows["strict"].mean()) for run in (old[0], runs[0])]
    assert f"| {means[0]:.3f} | {means[1]:.3f} | {means[1] - means[0]:+.3f} [" in row
    assert means[0] != means[1]
    with pytest.raises(NotAvailable, match="no finished run of another"):
        finished(tmp_path, "another")


def test_nothing_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no task could be run: no PathVQA split"):
        run_suite(FakeModel(lambda *_: "x"), root=tmp_path, out=tmp_path, plan=plan()[2:])


def test_every_task_of_the_suite_shows_controls() -> None:
    for step in steps():
        assert len(step.shown) > 1 or step.shown == ("text",)
