"""What a run leaves behind, read back with TensorBoard's own reader and plain csv."""

from __future__ import annotations

import json
import math

import pytest
from conftest import SMALL, composed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from bnexp.config.compose import plain
from bnexp.config.schema import config_hash, to_dict
from bnexp.config.shipped import configs_folder
from bnexp.record import Record
from bnexp.runs.logbook import Logbook, hparams
from bnexp.runs.run_json import read

CONFIG = to_dict(plain(composed(*SMALL)))
FACTS = {"name": "test", "config": CONFIG, "config_hash": config_hash(CONFIG), "overrides": [], "steps": 50}


def record(step: int, **values: float) -> Record:
    tags = {tag.replace("__", "/"): [0.0, value] for tag, value in values.items()}
    return Record(step, step / 10, tags)


@pytest.fixture
def book(tmp_path):
    book = Logbook(tmp_path, FACTS, after=None)
    yield book
    book.close()


def events(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    return read


def test_a_members_column_goes_to_csv_and_tensorboard(book, tmp_path):
    book.enter(record(1, train__loss=0.1 + 0.2), 1, seconds=2.0, images_per_s=100.0)
    book.enter(record(2, train__loss=0.25, test__accuracy=0.5), 1, seconds=3.0, images_per_s=200.0)
    book.flush()
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,epoch,metric,value\n1,0.1,train/loss,0.30000000000000004\n2,0.2,train/loss,0.25\n2,0.2,test/accuracy,0.5\n"
    )
    assert (tmp_path / "timing.csv").read_text().splitlines()[1:] == ["1,2.000,100.0", "2,3.000,200.0"]
    read = events(tmp_path)
    assert [(point.step, point.value) for point in read.Scalars("test/accuracy")] == [(2, 0.5)]
    assert [point.value for point in read.Scalars("speed/images_per_s")] == [100.0, 200.0]


def test_the_best_value_is_the_largest_accuracy_and_the_smallest_loss_and_never_nan(book, tmp_path):
    for step, accuracy, loss in ((1, 0.4, 0.9), (2, 0.8, 0.3), (3, 0.7, 0.5), (4, math.nan, math.nan)):
        book.enter(record(step, test__accuracy=accuracy, test__loss=loss), 1, 0.0, 0.0)
    book.update("diverged", diverged_at=4)
    run = read(tmp_path)
    assert run["best"] == {"test/accuracy": {"value": 0.8, "step": 2}, "test/loss": {"value": 0.3, "step": 2}}
    assert run["final"] == {"test/accuracy": 0.7, "test/loss": 0.5}
    book.flush()
    assert "4,0.4,test/accuracy,nan" in (tmp_path / "metrics.csv").read_text()


def test_a_top5_accuracy_has_a_best_value_and_an_unknown_quantity_has_none(book, tmp_path):
    for step, value in ((1, 0.4), (2, 0.8), (3, 0.7)):
        book.enter(record(step, test__top5_accuracy=value, probe__landscape__beta=value), 1, 0.0, 0.0)
    book.update("finished")
    run = read(tmp_path)
    assert run["best"] == {"test/top5_accuracy": {"value": 0.8, "step": 2}}
    assert run["final"] == {"test/top5_accuracy": 0.7, "probe/landscape/beta": 0.7}


def test_going_on_behind_a_step_drops_what_came_later_everywhere(book, tmp_path):
    for step in (1, 2, 3, 4):
        book.enter(record(step, train__loss=step / 10), 1, seconds=float(step), images_per_s=1.0)
    book.flush()
    again = Logbook(tmp_path, FACTS, after=2)
    assert again.seconds == 2.0
    assert again.final == {"train/loss": 0.2}
    again.enter(record(3, train__loss=0.33), 1, seconds=5.0, images_per_s=1.0)
    again.close()
    steps = [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3"]
    points = events(tmp_path).Scalars("train/loss")
    assert [(point.step, round(point.value, 6)) for point in points] == [(1, 0.1), (2, 0.2), (3, 0.33)]


def test_a_clock_that_went_backwards_does_not_reorder_the_event_files(book, tmp_path, monkeypatch):
    book.enter(record(1, train__loss=0.1), 1, 0.0, 0.0)
    book.flush()
    monkeypatch.setattr("bnexp.runs.events.time.time", lambda: 1000.0)
    Logbook(tmp_path, FACTS, after=1).close()
    assert [point.step for point in events(tmp_path).Scalars("train/loss")] == [1]


def test_tensorboard_has_hparams_in_the_same_run_and_a_layout(book, tmp_path):
    book.flush()
    metadata = events(tmp_path).summary_metadata
    start = plugin_data_pb2.HParamsPluginData.FromString(
        metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert start.hparams["norm"].string_value == "bn"
    assert start.hparams["optim.lr"].number_value == 0.05


def layout(folder):
    """Category -> title of a chart -> its regular expressions, by the last layout."""
    *_, last = events(folder).Tensors("custom_scalars__config__")
    categories = layout_pb2.Layout.FromString(last.tensor_proto.string_val[0]).category
    return {own.title: {chart.title: list(chart.multiline.tag) for chart in own.chart} for own in categories}


def test_a_chart_shows_a_split_or_all_layers_of_a_probe(book, tmp_path):
    layers = {f"probe__gradients__norm__hidden{number}": 0.1 for number in range(9)}
    book.enter(record(1, probe__gradients__slope=0.1, lr=0.1, **layers), 1, 0.0, 0.0)
    tags = ("train/loss", "train/accuracy", "test/accuracy", "test/accuracy_precise", "train_eval/loss")
    book.enter(Record(2, 0.2, {tag: [0.0, 0.5] for tag in tags}), 1, 0.0, 0.0)
    book.enter(Record(3, 0.3, {tag: [0.0, 0.5] for tag in tags}), 1, 0.0, 0.0)
    book.flush()
    assert len(events(tmp_path).Tensors("custom_scalars__config__")) == 2  # written again only where it grows
    charts = layout(tmp_path)
    assert list(charts) == ["accuracy", "loss", "probe gradients"]
    assert charts == {
        "accuracy": {"test": ["test/accuracy"], "train": ["train/accuracy"]},
        "loss": {"train": ["train/loss"], "train_eval": ["train_eval/loss"]},
        "probe gradients": {
            "decades per layer, weights": ["probe/gradients/slope$"],
            "gradient of the weights": ["probe/gradients/norm/"],
        },
    }
    resumed = Logbook(tmp_path, FACTS, after=2)  # the first new layout has the charts of before
    resumed.flush()
    resumed.close()
    assert layout(tmp_path) == charts


def test_hparams_begin_with_what_differs_in_the_sweep(tmp_path):
    name = "model.depth=3,optim.lr=0.1,batch_size=29"
    keys = list(hparams(CONFIG, 50, name))
    assert keys[:3] == ["optim.lr", "batch_size", "model.options"]
    usual = list(hparams(CONFIG, 50, "default"))
    assert usual[:4] == ["optim.lr", "norm", "seed", "model"]
    assert sorted(keys) == sorted(usual)
    Logbook(tmp_path, {**FACTS, "name": name}, after=None).close()
    content = events(tmp_path).summary_metadata["_hparams_/experiment"].plugin_data.content
    infos = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.hparam_infos
    assert {info.name for info in infos if info.differs} == {*keys[:3], "norm", "seed"}


def shipped(group):
    return sorted(path.stem for path in (configs_folder() / group).glob("*.yaml"))


def columns(folder, words):
    """The columns of a run's HParams table, as TensorBoard reads them from its event file: name -> kind of value."""
    config = to_dict(plain(composed(*words)))
    Logbook(folder, {**FACTS, "config": config}, after=None).close()
    content = events(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: found[name].WhichOneof("kind") for name in sorted(found)}, found


CHOICES = [
    *(["steps=7"], ["epochs=3", "steps=null"], ["optim.lr=1", "seed=3"], ["model=resnet", "data=cifar10"]),
    *([f"{group}={name}"] for group in ("optim", "schedule", "init", "norm") for name in shipped(group)),
]


@pytest.mark.slow
def test_a_column_of_hparams_is_there_and_of_one_kind_whatever_was_chosen(tmp_path):
    expected, _ = columns(tmp_path, SMALL)
    assert {name for name, kind in expected.items() if kind == "number_value"} == {
        *("optim.lr", "seed", "epochs", "steps", "batch_size")
    }
    assert set(expected.values()) == {"number_value", "string_value"}
    for words in CHOICES:
        found, _ = columns(tmp_path, [*SMALL, *words])
        assert found == expected, words


def test_hparams_show_options_and_the_steps_of_a_run_whose_epochs_decide(tmp_path):
    _, found = columns(tmp_path, [*SMALL, "norm=gn", "epochs=3", "steps=null"])
    assert found["norm.options"].string_value.startswith("groups=8")
    assert (found["steps"].number_value, found["epochs"].number_value) == (50.0, 3.0)


def test_run_json_is_strict_json_without_nan(book, tmp_path):
    book.update("failed", failure={"reason": math.inf})
    assert json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)["failure"] == {"reason": None}
