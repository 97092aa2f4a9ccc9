"""``bnexp export``: what is written is read back with the packages that others use, with equal numbers."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import pytest
import torch
from conftest import SMALL_RUN, start
from made import make_run

import bnexp as package
from bnexp.compare.export import wide
from bnexp.runs.collect import read


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two runs with metrics, and one of a claim."""
    monkeypatch.chdir(tmp_path)
    for index, norm in enumerate(("gn", "ln")):
        folder = make_run(tmp_path / "outputs" / norm, f"norm={norm}", f"notes='={norm}()'", accuracy=0.1 + 0.7 * index)
        rows = f"7,0.5,train/loss,{1 / (3 + index)!r}\n14,1.0,train/loss,nan\n"
        (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    make_run(tmp_path / "outputs" / "claims" / "a", "norm=bn", "tags=[claim]")
    return tmp_path


def test_csv_has_all_results_and_no_formulas(bnexp, place):
    answer = bnexp("export", "outputs", "--to", "csv", "--json")
    assert json.loads(answer.out) == {"files": ["export/runs.csv", "export/metrics.csv"]}
    gn, ln = csv.DictReader((place / "export" / "runs.csv").read_text().splitlines())
    assert (gn["folder"], gn["norm.name"], gn["norm.groups"], gn["notes"]) == ("outputs/gn", "gn", "8", "'=gn()")
    assert (float(ln["test/accuracy"]), float(ln["test/loss"]), ln["norm.groups"]) == (0.1 + 0.7, 1 - (0.1 + 0.7), "")
    long = list(csv.DictReader((place / "export" / "metrics.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in long[::2]] == [1 / 3, 1 / 4]
    assert [row["value"] for row in long[1::2]] == ["nan", "nan"]
    assert [row["folder"] for row in long] == ["outputs/gn"] * 2 + ["outputs/ln"] * 2


def test_a_column_is_of_one_kind(place):
    runs = [read(place / "outputs" / name) for name in ("gn", "ln")]
    mixed = [replace(run, settings=run.settings | {"x": x}) for run, x in zip(runs, (3, "all"), strict=True)]
    flags = [replace(run, settings=run.settings | {"x": x}) for run, x in zip(runs, (3, True), strict=True)]
    some = [replace(run, settings=run.settings | {"x": x}) for run, x in zip(runs, (3, None), strict=True)]
    assert [wide(each)["x"] for each in (mixed, flags, some)] == [["3", "all"], ["3", "True"], [3, None]]


def test_parquet_is_read_back_with_equal_numbers(bnexp, place):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (bnexp[parquet])")
    assert bnexp("export", "outputs", "--to", "parquet", "--out", "there").code == 0
    runs = parquet.read_table(place / "there" / "runs.parquet").to_pydict()
    assert runs["test/accuracy"] == [0.1, 0.1 + 0.7]
    assert (runs["norm.groups"], runs["seed"], runs["data.flip"]) == ([8, None], [0, 0], [False, False])
    long = parquet.read_table(place / "there" / "metrics.parquet").to_pydict()
    assert (long["value"][::2], long["step"]) == ([1 / 3, 1 / 4], [7, 14, 7, 14])


@pytest.mark.parametrize(("kind", "module"), [("parquet", "pyarrow"), ("safetensors", "safetensors"), ("onnx", "onnx")])
def test_a_missing_package_is_one_line_that_names_the_extra(bnexp, place, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    complaint = bnexp("export", "outputs/gn", "--to", kind).complaint
    install = f"uv run --extra {kind} bnexp ..., or pip install -e '.[{kind}]'"
    assert complaint == f"bnexp: {module}: not installed; {install}"
    assert not (place / "export").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("outputs", "the following arguments are required: --to"),
        ("outputs --to xml", "argument --to: invalid choice: 'xml'"),
        ("nowhere --to csv", "nowhere: no such folder"),
        ("outputs/claims --to csv", "1 runs of claims and smoke tests, and no others"),
    ],
)
def test_what_is_wrong_costs_one_line(bnexp, place, words, said):
    assert said in bnexp("export", *words.split()).complaint
    assert not (place / "export").exists()


@pytest.fixture
def run(bnexp, tmp_path, monkeypatch):
    """A trained run with batch norm and a dropout, which evaluation leaves out."""
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", *SMALL_RUN, "norm=bn", "model.dropout=0.5", "hydra.run.dir=run").code == 0
    return package.load("run", device="cpu")


def test_safetensors_hold_the_weights_of_the_run(bnexp, run):
    reader = pytest.importorskip("safetensors", reason="safetensors is not installed (bnexp[safetensors])")
    assert bnexp("export", "run", "--to", "safetensors").out == "export/model.safetensors\n"
    with reader.safe_open("export/model.safetensors", framework="pt") as file:
        saved, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    own = run.model().state_dict()
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in own.items())
    assert json.loads(about["config"])["norm"]["name"] == "bn"
    assert (about["step"], len(json.loads(about["pixel_mean"]))) == ("21", 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["model=rnn norm=bn", "model=lenet norm=iternorm", "model=lenet norm=cosine"])
def test_onnx_takes_any_number_of_images(bnexp, tmp_path, monkeypatch, words):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (bnexp[onnx])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (bnexp[onnx])")
    monkeypatch.chdir(tmp_path)
    small = ("steps=2", "data.train_limit=120", "batch_size=40", "eval_train=40", "hydra.run.dir=run")
    assert bnexp("train", *words.split(), *small).code == 0
    process = start("export", "run", "--to", "onnx", cwd=tmp_path)
    assert process.communicate(timeout=300) == ("export/model.onnx\n", "")
    (images,) = onnx.load("export/model.onnx").graph.input
    assert images.type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.slow
def test_onnx_gives_the_logits_of_the_run(tmp_path, run):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (bnexp[onnx])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (bnexp[onnx])")
    from onnx.reference import ReferenceEvaluator

    # In its own process: the exporter refuses number formats that the training has set in this one.
    process = start("export", "run", "--to", "onnx", cwd=tmp_path)
    assert process.communicate(timeout=300) == ("export/model.onnx\n", "")
    model = onnx.load("export/model.onnx")
    x, _ = run.data("test")
    for images in (x[:5], x):  # of any number
        (logits,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), run.model()(images).detach(), rtol=1e-4, atol=1e-5)
    assert json.loads({entry.key: entry.value for entry in model.metadata_props}["config"])["seed"] == 0
