"""A recorded step does what the step does: on the CPU with a recorder that runs the same work, on CUDA with graphs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from conftest import SMALL_RUN, composed
from recorders import Again, evaluated_eagerly

from bnexp.config.compose import plain
from bnexp.experiment.setup import Setup, build
from bnexp.record import Record
from bnexp.training.loop import train
from bnexp.training.population import Recorder
from bnexp.training.step import CudaGraphs, RecordedStep, Step

# Everything that a step touches: statistics, momentum, a schedule, dropout, averages; batches of two sizes, a probe;
# micro-batches of two sizes.
WORDS = (
    *(*SMALL_RUN, "norm=bn", "model.dropout=0.2", "optim.momentum=0.9", "optim.weight_decay=0.001", "ema=[0.9]"),
    *("schedule=cosine", "data.train_limit=150", "batch_size=64", "steps=20", "log_every=4", "probes=[gradients]"),
    *("probes.gradients.every=7", "clip_grad=0.5", "label_smoothing=0.1", "accumulate=3", "ema_weights=0.8"),
)


def trained(
    recorder: Recorder | None, *words: str, members: int = 1, stacked: bool = False
) -> tuple[Setup, list[Record]]:
    others = {word.partition("=")[0] for word in words} & {"model", "optim"}  # they have other options
    base = [word for word in WORDS if word.partition("=")[0].partition(".")[0] not in others]
    configs = [plain(composed(*base, f"seed={seed}", *words)) for seed in range(members)]
    setup = build(configs, stacked=stacked)
    setup.population.recorder = recorder
    return setup, list(train(setup.training, evaluated_eagerly(setup), setup, stop=lambda: False))


def weights(setup: Setup) -> dict[str, torch.Tensor]:
    state = {"theta": setup.population.theta_MP, **setup.population.buffers, **setup.training.optimizer.slots}
    return {name: tensor.clone() for name, tensor in state.items()}


def test_a_replayed_training_is_bit_for_bit_the_same():
    recorder = Again()
    setup, records = trained(recorder)
    wanted, expected = trained(None)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)
    assert repr(records) == repr(expected)  # as words, in which nan is nan
    assert recorder.recorded == 2  # of one step, and of two
    # Two full batches and a small one an epoch; the first three full ones that no probe watches are a warm-up.
    small = set(range(3, 21, 3))
    watched = {record.step for record in records if any(name.startswith("probe/") for name in record.values)}
    assert {1, 7, 14} <= watched
    assert (
        recorder.replayed == len([step for step in range(1, 21) if step not in watched | small]) - 3 - 1
    )  # 10 and 11 at once


@pytest.mark.parametrize(("members", "stacked"), [(1, False), (3, False), (3, True)])
def test_several_steps_in_one_recording_are_bit_for_bit_the_steps(members, stacked):
    """Nine full batches and a small one an epoch; a record every four steps, and probes in between."""
    recorder = Again()
    words = ("batch_size=16", "steps=40", "data.train_limit=152", "probes.gradients.every=13")
    setup, records = trained(recorder, *words, members=members, stacked=stacked)
    wanted, expected = trained(None, *words, members=members, stacked=stacked)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)
    assert repr(records) == repr(expected)
    assert recorder.recorded == 2  # of four steps, and of one
    watched = {1, 13, 26, 39, 40}
    alone = [step for step in range(1, 41) if step % 10 and step not in watched]
    assert recorder.replayed == len(alone) - 3 - 3 * 3  # 5 to 8, 21 to 24, 33 to 36


@pytest.mark.slow
def test_a_stack_is_replayed_too():
    recorder = Again()
    setup, _ = trained(recorder, members=3, stacked=True)
    wanted, _ = trained(None, members=3, stacked=True)
    assert recorder.replayed > 5
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)


@pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])
@pytest.mark.parametrize("words", [(), ("optim=adamw", "optim.lr=0.01")], ids=["sgd", "adamw"])
def test_a_replayed_step_that_overflows_is_left_out_too(words, stacked):
    words = (*words, "precision=fp16", "norm=none", "data.standardize=false", "init.gain=30", "ema=[]")
    setup, _ = trained(Again(), *words, members=2, stacked=stacked)
    wanted, _ = trained(None, *words, members=2, stacked=stacked)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)
    assert wanted.training.progress.step == 20
    assert (wanted.training.precision.scale_M < 2.0**16).all()  # steps were left out
    assert torch.equal(setup.training.precision.scale_M, wanted.training.precision.scale_M)


def test_what_cannot_be_recorded_is_done_kernel_by_kernel_and_said(caplog):
    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    with caplog.at_level(logging.WARNING, "bnexp"):
        setup, _ = trained(refuse)
    wanted, _ = trained(None)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)
    assert setup.population.recorder is None  # so that run.json says what was done, and evaluations do not try again
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "graph: CUDA graph capture failed (operation not permitted when stream is capturing); running eagerly"
    )


def test_of_a_capture_that_fails_halfway_nothing_is_added_up(caplog):
    """A recording of several steps may run out of memory in a later one; its tensors hold no numbers then."""
    setup, _ = trained(None)
    added: list[int] = []
    tried: list[int] = []

    class Batches:
        full = 4

        def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return setup.training.batches(step)

        def open(self, step: int) -> int:
            return 4

        def recorded(self, step_S: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for number in step_S.tolist():
                if len(tried) == 2:
                    raise RuntimeError("out of memory")
                tried.append(number)
                yield setup.training.batches(number)

    def record(work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    setup.population.recorder = record
    step = Step(setup.population, setup.training.optimizer, setup.training.precision)
    steps = RecordedStep(step, Batches(), setup.training.factors, lambda noted: added.append(len(noted)), together=4)
    done = [steps(number, 4).steps for number in range(5)]
    assert len(tried) == 2  # of four steps, and not one of the single step that is tried then
    assert done == [1] * 5  # after three that warm up, those of a capture that has failed
    assert added == [1] * 5
    assert [each.getMessage().partition("; ")[2] for each in caplog.records] == [
        "recording single steps",
        "running eagerly",
    ]


def test_if_several_steps_cannot_be_recorded_one_is(caplog):
    recorder, captures = Again(), list[int]()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        captures.append(len(captures))
        if len(captures) == 1:
            raise RuntimeError("out of memory")
        return recorder(work)

    words = ("batch_size=16", "steps=40", "data.train_limit=152", "probes.gradients.every=40")
    with caplog.at_level(logging.WARNING, "bnexp"):
        setup, _ = trained(record, *words)
    wanted, _ = trained(None, *words)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=0, atol=0)
    assert (captures, recorder.replayed) == ([0, 1], 40 - 4 - 1 - 3)  # all but small batches, a probe and the warm-up
    assert setup.population.recorder is record
    assert [each.getMessage().partition("; ")[2] for each in caplog.records] == ["recording single steps"]


def test_without_cuda_a_graph_has_no_effect_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO, "bnexp"):
        setup = build([plain(composed(*WORDS, "graph=true", "device=cpu"))], stacked=False)
    assert setup.population.recorder is None
    assert "graph=true: has no effect on device=cpu" in [record.getMessage() for record in caplog.records]


def test_kernels_are_tried_for_full_batches_of_the_training_alone(monkeypatch):
    """cuDNN would try all its kernels for each new shape, for seconds."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    tried: set[tuple[bool, int]] = set()
    setup = build([plain(composed(*SMALL_RUN, "norm=bn", "epochs=1"))], stacked=False)
    torch.backends.cudnn.benchmark = True  # as it is on a GPU
    setup.population.recorder = Again()
    setup.population.members[0].register_forward_pre_hook(
        lambda model, given: tried.add((torch.backends.cudnn.benchmark, len(given[0])))
    )
    list(train(setup.training, setup.evaluate, setup, stop=lambda: False))
    assert {size for benchmark, size in tried if benchmark} == {29}  # of 200 images; evaluations are larger
    assert {26} < {size for benchmark, size in tried if not benchmark}
    assert torch.backends.cudnn.benchmark


class Captures:
    """In the place of ``torch.cuda.graph``: CUDA breaks off the capture of work that waits, as torch 2.11 tells it."""

    pools: ClassVar[list[object]] = []
    stream: ClassVar[str] = "training's"
    waits: ClassVar[bool] = False

    def __init__(self, graph: SimpleNamespace, *, pool: object, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        graph.pool = lambda: pool
        self.pools.append(pool)

    def __enter__(self) -> None:
        Captures.waits, Captures.stream = False, "captures'"

    def __exit__(self, *_: object) -> None:
        if Captures.waits:
            raise RuntimeError("broken off")
        Captures.stream = "training's"


def wait() -> None:
    Captures.waits = True


def test_what_cannot_be_captured_leaves_the_device_to_the_next_capture(monkeypatch):
    """Its pool of memory stays locked, and the device's generator believes in it until another capture has ended."""
    kernels: list[str] = []
    undone: list[tuple[str, int, object]] = []
    handles = iter(["a pool", "another", "a third"])
    for what in ("endAllocateToPool", "releasePool"):
        monkeypatch.setattr(
            torch._C, f"_cuda_{what}", lambda *given, what=what: undone.append((what, *given)), raising=False
        )
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(Captures, "pools", [])
    monkeypatch.setattr(torch.cuda, "graph", Captures)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=list))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Captures.stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(Captures, "stream", stream))
    monkeypatch.setattr(torch, "zeros", lambda *size, device: kernels.append(device))
    graphs, collects = CudaGraphs(), list[bool]()
    assert graphs(list) is graphs(lambda: collects.append(gc.isenabled())) is list
    assert (collects, gc.isenabled()) == ([False], True)  # the end of an older graph would break the capture
    assert Captures.pools == ["a pool", "a pool"]
    with pytest.raises(RuntimeError, match="broken off"):
        graphs(wait)
    assert (Captures.stream, kernels, Captures.pools[2:]) == ("training's", ["cuda"], ["a pool", "another"])
    assert undone == [("endAllocateToPool", 1, "a pool"), ("releasePool", 1, "a pool")]
    assert graphs(list) is graphs(list) is list
    assert Captures.pools[4:] == ["a third", "a third"]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@needs_cuda
@pytest.mark.parametrize("words", [(), ("model=lenet", "data.size=28"), ("optim=adam", "optim.lr=0.001")])
@pytest.mark.parametrize("members", [1, 4])
def test_graphs_train_as_kernels_do(words, members):
    """Within rounding: libraries may choose other kernels in a recording."""
    setup, _ = trained(CudaGraphs(), *words, "device=cuda", members=members, stacked=members > 1)
    wanted, _ = trained(None, *words, "device=cuda", members=members, stacked=members > 1)
    torch.testing.assert_close(weights(setup), weights(wanted), rtol=1e-3, atol=1e-4)


@needs_cuda
def test_after_work_that_waits_the_device_draws_numbers_and_captures_again():
    graphs, ones = CudaGraphs(), torch.ones(3, device="cuda")
    graphs(lambda: ones.add_(0))
    with pytest.raises(RuntimeError):
        graphs(lambda: ones.sum().item())
    assert torch.rand(3, device="cuda").isfinite().all()
    replay = graphs(lambda: ones.add_(1))
    replay()
    assert ones.tolist() == [2, 2, 2]
    much = torch.empty(2**28, device="cuda")
    reserved = torch.cuda.memory_reserved()
    del much
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - 2**30
