"""Sets up the machine as the config asks: device, threads, number formats, determinism, layout, compilation."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from bnexp.config.schema import TrainConfig
from bnexp.norms import NORMS
from bnexp.training.kernels import own_updates
from bnexp.training.kernels.own_kernels import OwnKernels
from bnexp.training.population import Recorder
from bnexp.training.precision import SHORT, allow_tf32
from bnexp.training.step import CudaGraphs

log = logging.getLogger(__name__)

# Steps after which more tries of kernels have paid.
_LONG = 5000


def pick_device(name: str) -> torch.device:
    """The torch device for the ``device`` setting; auto picks CUDA if this machine has it.

    Raises:
        ValueError: bnexp does not know the device, or this machine does not have it.
    """
    kind = require_device_name(name)
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu")
    return torch.device(name)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether what failed needed more memory than the device has; CUDA, its libraries and a CPU say so differently.

    torch raises its ``OutOfMemoryError`` only for tensors. Where CUDA starts a graph, or cuBLAS and cuDNN make their
    workspaces, the error is a general one with these words; that no engine is found means that none got its workspace.
    """
    words = "out of memory|allocate memory|ALLOC(ATION)?_FAILED|unable to find an engine"
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and re.search(words, str(error)) is not None)


def require_device_name(name: str) -> str:
    """Refuse what is no device on any machine; returns its kind: auto, cpu or cuda.

    Raises:
        ValueError: bnexp does not know the device.
    """
    kind, _, index = name.partition(":")
    if kind == "mps":
        raise ValueError(f"device={name}: bnexp does not use the GPUs of Apple; use device=cpu")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise ValueError(f"device={name}: not known (allowed: auto, cpu, cuda, cuda:N)")
    return kind


def prepare_machine(config: TrainConfig) -> torch.device:
    """Set threads, number formats and determinism of this process, and return the device.

    Raises:
        ValueError: this machine lacks the device, the number format or a C++ compiler.
    """
    device = pick_device(config.device)
    torch.set_num_threads(config.threads)
    allow_tf32(config.precision == "tf32")
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("precision=bf16: this GPU has no bfloat16 (allowed here: fp32, tf32, fp16)")
    if config.compile and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        raise ValueError("compile=true: torch.compile needs a C++ compiler, and none was found; use compile=false")
    if device.type == "cuda":
        require_graph(config)
    if device.index is not None:  # recordings, events and Triton take the current device
        torch.cuda.set_device(device)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports all of torch.compile
        torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not config.deterministic
    return device


def limit_tries(steps: int) -> None:
    """Let cuDNN try few kernels for a run of so many steps, unless it is long.

    On an H100, ten tries instead of three make a stack of 64 LeNets 6 % faster; they take as long as 280 of its steps.
    """
    if torch.backends.cudnn.benchmark:
        torch.backends.cudnn.benchmark_limit = 3 if steps < _LONG else 10


def require_graph(config: TrainConfig) -> None:
    """Refuse to capture steps of a norm that cannot be captured.

    Raises:
        ValueError: ``graph=true`` with a norm of this kind.
    """
    if config.graph is True and not NORMS.capabilities(config.norm["name"]).graph:
        name = config.norm["name"]
        raise ValueError(f"graph=true: norm={name} waits for the device at each step; use graph=auto, graph=false")


def recorder(config: TrainConfig, device: torch.device, *, draws: bool) -> Recorder | None:
    """What captures steps as CUDA graphs, if the config asks for it on a GPU; else None.

    ``graph=auto`` asks for it where the norm does not wait for the device. A model that ``draws`` from torch's own
    generators waits for it, too (``repeat_torch_draws``).
    """
    if device.type != "cuda":
        if config.graph is True:
            log.info("graph=true: has no effect on device=%s", device)
        return None
    able = NORMS.capabilities(config.norm["name"]).graph if config.graph == "auto" else config.graph
    wanted = able and not draws
    how = "replayed from a CUDA graph" if wanted else "run kernel by kernel"
    why = f" (model={config.model['name']} draws from torch's own generators)" if able and draws else ""
    log.info("graph=%s: steps are %s%s", config.graph, how, why)
    return CudaGraphs() if wanted else None


def own_kernels(config: TrainConfig, device: torch.device, *, stacked: bool) -> OwnKernels | None:
    """Kernels of bnexp's own where a run can have them, else None; the log says what this machine lacks for them.

    Maps in 16 bits have some; convolutions and batch norms of a stack in all formats but fp64; and the update in both
    kinds of runs. The first are taken where they work, the others where times decide so. In a deterministic run times
    may not decide, and torch's are taken. With ``compile=true`` the compiler makes its own kernels.
    """
    timed = not config.deterministic
    some = config.precision in SHORT or (stacked and timed and config.precision != "fp64")
    if device.type != "cuda" or not some or config.compile:
        return None
    lacks = _lacks_for_triton(device) or _fails_in_triton(device)
    if lacks is not None:
        log.info("precision=%s: all kernels are torch's, for want of %s", config.precision, lacks)
        return None
    return OwnKernels(timed=timed)


def _lacks_for_triton(device: torch.device) -> str | None:
    """What this machine lacks to compile kernels; None if it has all."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's, read as Triton does
    headers = Path(sysconfig.get_path("include", scheme), "Python.h")
    has = {
        "the package triton": find_spec("triton") is not None,
        "a C compiler": bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")),
        f"Python's header files ({headers})": headers.exists(),
        "a GPU of compute capability 8.0": torch.cuda.get_device_capability(device) >= (8, 0),
    }
    return next((name for name, there in has.items() if not there), None)


def _fails_in_triton(device: torch.device) -> str | None:
    """Why no kernel can be made here, as in a home folder that is not writable; None if one has run."""
    one_11 = torch.zeros(1, 1, device=device)
    try:
        own_updates.sgd(one_11, one_11, one_11, one_11, one_11, None, nesterov=False, moves_on=False)
    except Exception as error:
        return " ".join(f"a Triton that works ({type(error).__name__}: {error})".split())[:200]
    return None


def set_layout(config: TrainConfig, member: nn.Module) -> None:
    """Set the memory layout of a member's forward pass."""
    if config.channels_last:
        member.register_forward_pre_hook(lambda _, inputs: _channels_last(*inputs))


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """Put images into channels-last layout; convolutions keep their input's layout, so one conversion is enough."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
