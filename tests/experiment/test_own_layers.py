"""Layers and models of a user's own: what they draw is repeated, and what no checkpoint would hold is told."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import pytest
import torch
from conftest import SMALL_RUN, composed
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.config.schema import TrainConfig
from bnexp.experiment.imports import digests, tell_of_changes
from bnexp.experiment.job import Job
from bnexp.experiment.machine import recorder
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.models import MODELS, Units
from bnexp.norms import NORMS, Norm
from bnexp.randomness import TORCH_DRAWS
from bnexp.runs import checkpoint, run_json


class Drawing(nn.Module):
    """Draws its weights, and more in each training pass."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(x.flatten(1) * self.weight))


class Plain(nn.Module):
    """Answers numbers of a shape."""

    def __init__(self, features: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.head = shape, nn.Linear(features, math.prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)).view(-1, *self.shape)


class Moving(Norm):
    """Keeps a running mean square, in one of four ways."""

    def __init__(self, channels: int, how: str) -> None:
        super().__init__(channels, affine=True)
        self.how = how
        if how == "attribute":
            self.square = torch.ones(channels)
        else:
            self.register_buffer("square", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        square = x.detach().square().mean(0)
        if not self.training:
            square = self.square
        elif self.how == "in place":
            self.square.lerp_(square, 0.1)
        else:
            self.square = 0.9 * self.square + 0.1 * square
        return self.scaled(x / (square + 1e-5).sqrt())


def _sequence(shape: tuple[int, ...], classes: int, units: Units) -> nn.Module:
    return nn.Sequential(nn.Flatten(), units.linear(math.prod(shape), 8), nn.Dropout(0.5), nn.Linear(8, classes))


def _shaped(shape: tuple[int, ...], classes: int, units: Units, *, answer: list[int]) -> nn.Module:
    return Plain(math.prod(shape), tuple(answer))


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    with MODELS.temporarily(), NORMS.temporarily():
        MODELS.register("drawing")(lambda shape, classes, units: Drawing(math.prod(shape), classes))
        MODELS.register("shaped")(_shaped)
        MODELS.register("sequence")(_sequence)
        for how in ("in place", "assigned", "attribute"):
            NORMS.register(how)(lambda channels, how=how: Moving(channels, how))
        yield


def config_of(*words: str, **groups: dict[str, object]) -> TrainConfig:
    config = plain(composed(*SMALL_RUN, "data=digits", "data.size=null", "model=mlp", *words))
    for group, options in groups.items():
        setattr(config, group, options)
    return config


def weights(folder) -> bytes:
    return (folder / "metrics.csv").read_bytes()


def test_what_a_model_draws_is_a_function_of_the_seed(tmp_path):
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)  # what the process has drawn before does not matter
        job = Job(config_of(f"seed={seed}", model={"name": "drawing"}), tmp_path / f"{seed}-{noise}", "test")
        run([job], stop=lambda: False)
        states.append(weights(job.folder))
    assert states[0] == states[1] != states[2]


def test_a_run_that_draws_is_resumed_bit_for_bit(tmp_path):
    whole, parts = (Job(config_of(model={"name": "drawing"}), tmp_path / name, "test") for name in ("a", "b"))
    run([whole], stop=lambda: False)
    answers = iter([False] * 3)
    run([parts], stop=lambda: next(answers, True))
    assert run_json.read(parts.folder)["status"] == "interrupted"
    torch.manual_seed(5)
    run([parts], stop=lambda: False)
    assert weights(parts.folder) == weights(whole.folder)


def member_of(folder) -> dict[str, dict[str, Tensor]]:
    return checkpoint.load(folder)


@pytest.mark.parametrize("words", ["eval_every=4", "probes=[gradients,signal]"])
def test_a_sequence_of_layers_may_draw_and_looking_at_it_changes_nothing(tmp_path, words):
    """An nn.Sequential calls all modules that it holds, so that nothing may be added to it."""
    members = []
    for name, own in (("plain", "eval_every=12"), ("looked at", words)):
        job = Job(config_of("steps=12", own, model={"name": "sequence"}), tmp_path / name, "test")
        run([job], stop=lambda: False)
        members.append(member_of(job.folder))
    plain, looked_at = members
    assert all(torch.equal(each, looked_at["parameters"][name]) for name, each in plain["parameters"].items())
    assert plain["buffers"][TORCH_DRAWS] == looked_at["buffers"][TORCH_DRAWS] == 12


def test_a_run_from_another_one_draws_from_its_own_beginning(tmp_path):
    source = Job(config_of("steps=3", model={"name": "sequence"}), tmp_path / "source", "test")
    run([source], stop=lambda: False)
    later = Job(config_of("steps=5", f"init_from={source.folder}", model={"name": "sequence"}), tmp_path / "b", "test")
    run([later], stop=lambda: False)
    assert member_of(later.folder)["buffers"][TORCH_DRAWS] == 5


def test_a_model_that_draws_is_not_stacked_and_members_are_what_they_are_alone():
    configs = [config_of(f"seed={seed}", model={"name": "drawing"}) for seed in range(2)]
    x = torch.ones(2, 3, *build(configs, stacked=False).data.shape)
    both, alone = (build(some, stacked=False).population for some in (configs, configs[1:]))
    assert torch.equal(both(x)[1], alone(x[1:])[0])
    assert not torch.equal(both(x)[0], both(x)[0])  # another pass, other numbers


@pytest.mark.parametrize("graph", ["auto", "true"])
def test_steps_that_draw_are_never_recorded(graph, caplog):
    config, gpu = config_of(f"graph={graph}", model={"name": "drawing"}), torch.device("cuda")
    with caplog.at_level("INFO", logger="bnexp"):
        assert recorder(config, gpu, draws=True) is None
        assert recorder(config, gpu, draws=False) is not None
    first, second = [record.getMessage() for record in caplog.records]
    assert first.endswith("run kernel by kernel (model=drawing draws from torch's own generators)")
    assert second.endswith("replayed from a CUDA graph")


@pytest.mark.parametrize("answer", [[20], [10, 1], [5]])
def test_answers_that_are_no_logits_are_refused(answer):
    with pytest.raises(ValueError, match=r"model=shaped: answers a tensor of shape .*, not logits of shape \[2, 10\]"):
        build([config_of(model={"name": "shaped", "answer": answer})], stacked=False)


def test_a_norm_that_no_layer_uses_is_told(caplog):
    with caplog.at_level("INFO", logger="bnexp"):
        build([config_of(model={"name": "shaped", "answer": [10]})], stacked=False)
    assert "norm=bn: has no effect, model=shaped makes no layer by its units" in caplog.text


def test_a_buffer_is_changed_in_place(caplog):
    with pytest.raises(ValueError, match=r"^layer hidden1.norm assigns another tensor to its buffer square; change"):
        build([config_of(norm={"name": "assigned"})], stacked=False)
    build([config_of(norm={"name": "attribute"})], stacked=False)
    assert "Moving.square changes in passes and is no buffer; checkpoints do not hold it (hidden1.norm" in caplog.text
    caplog.clear()
    build([config_of(norm={"name": "in place"})], stacked=False)
    (said,) = [record.getMessage() for record in caplog.records if "Moving" in record.getMessage()]
    assert said == "Moving is no BatchStatistics; evaluations know its running statistics alone (hidden1.norm)"


def test_a_module_that_has_changed_since_a_run_began_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    (tmp_path / "my_pack").mkdir()
    for path in ("my_one.py", "my_pack/__init__.py", "my_pack/part.py"):
        (tmp_path / path).write_text("A = 1\n")
    names = ["my_one", "my_pack"]
    job = Job(config_of("steps=1"), tmp_path / "run", "test")
    run([job], stop=lambda: False)
    facts = {key: value for key, value in run_json.read(job.folder).items() if key != "digest"}
    run_json.write(job.folder, facts | {"modules": digests(names)})
    caplog.clear()
    tell_of_changes(job.folder, names)
    assert caplog.text == ""
    (tmp_path / "my_pack" / "part.py").write_text("A = 2\n")
    tell_of_changes(job.folder, names)
    assert f"{job.folder}: changed since this run began: imports=[my_pack]" in caplog.text
    assert digests(["absent", "sys"]) == {}
