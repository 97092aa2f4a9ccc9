"""What tests share: a quiet machine, small configs, real data, and a bnexp in this process or another."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zygote

from bnexp.sweep import fork_server

ROOT = Path(__file__).parent.parent

# Where Python may keep no bytecode, every process of a test would compile torch anew, for seconds; here it is kept.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Most users' output is buffered, so that a fault of it shows late.
os.environ.pop("PYTHONUNBUFFERED", None)

import torch  # noqa: E402

# Triton asks for this when it is imported, by whatever test that is.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests that a shell has started in the background are told to ignore Ctrl-C; the commands that they start must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes of a test import this bnexp from any folder, and the rest from where it is found here.
_PLACES = [str(ROOT), *map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(_PLACES))

# Runs force their files to the disk, which takes its time; a folder in memory is faster, where there is room for it.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Workers of the test runner share the cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Seven steps an epoch, three epochs, a second in all.
SMALL = ("model=mlp", "model.depth=1", "model.width=16", "data.train_limit=200", "data.size=null", "batch_size=29")
SMALL_RUN = (*SMALL, "epochs=3", "log_every=3")
# Which parameters of an optimizer decay besides those of norms, as its yaml says.
SWITCHES = {"decay_weight": True, "decay_bias": True, "decay_gain": None, "decay_norm_bias": None}


def pytest_sessionstart(session: pytest.Session) -> None:
    """From here on a warning is an error: other plugins, which may be installed anywhere, warn while they start."""
    session.config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(autouse=True, scope="session")
def warm_fork_servers():
    """Sweeps in this process do not wait for another one to import torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "spawn", fork_server.spawn)  # it is put back at the end
        zygote.use()
        yield


@pytest.fixture
def silent_arithmetic():
    """Of NumPy, with nan and infinity."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def count_stack(monkeypatch):
    """The script that counts kernels and bytes of a stack."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("count_stack")


@contextmanager
def own_builders() -> Iterator[None]:
    """Forget, at the end of the with block, what a user's modules have registered in it."""
    from bnexp.data import DATA
    from bnexp.evaluations import EVALUATIONS
    from bnexp.models import MODELS
    from bnexp.norms import NORMS
    from bnexp.probes import PROBES

    with ExitStack() as stack:
        for registry in (NORMS, MODELS, DATA, PROBES, EVALUATIONS):
            stack.enter_context(registry.temporarily())
        yield


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"

    @property
    def complaint(self) -> str:
        """The one line that says what is wrong with the input; the command must have ended with exit code 2."""
        assert self.code == 2, self
        (line,) = self.err.splitlines()
        assert line.startswith("bnexp: "), self
        return line


@pytest.fixture
def bnexp(monkeypatch, capsys):
    """Run a command line in this process."""
    from bnexp.cli.main import main

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["bnexp", *arguments])
        code = main()
        return Answer(code, *capsys.readouterr())

    return run


def start(*arguments: str, cwd: Path, cold: bool = False, **options) -> subprocess.Popen[str]:
    """A bnexp in a process of its own, in a session of its own so that signals reach it alone.

    Where it is ``cold``, or has limits that what it starts must inherit (``preexec_fn``), its sweeps import torch.
    Under a limit of a file's size it writes no bytecode, which Python would leave cut short for all other tests.
    """
    if "preexec_fn" in options:
        options["env"] = options.get("env", {}) | {"PYTHONDONTWRITEBYTECODE": "1"}
    program, descriptors = "from bnexp.cli.main import main; sys.exit(main())", []
    if not cold and "preexec_fn" not in options:
        descriptors = [zygote.connection().fileno()]
        warm = f"import socket, zygote; asked = socket.socket(fileno={descriptors[0]}); zygote.use(lambda: asked)"
        program = f"sys.path.append({str(ROOT / 'tests')!r}); {warm}; sys.path.pop(); {program}"
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; {program}", *arguments],
        pass_fds=descriptors,
        cwd=cwd,
        env=os.environ | options.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of MNIST and Fashion-MNIST that BNEXP_DATA names."""
    folder = os.environ.get("BNEXP_DATA")
    if not folder:
        pytest.skip("BNEXP_DATA names no folder of real data")
    return Path(folder)


@cache
def _composer():
    """Reads yaml files once for all tests; Hydra's own function takes 75 ms for each config."""
    from bnexp.config.compose import composer  # registers the schema

    return composer(ROOT / "configs")


def from_yaml(group: str, name: str) -> dict[str, Any]:
    """The options of a choice that ships with bnexp."""
    return yaml.safe_load((ROOT / "configs" / group / f"{name}.yaml").read_text())


def composed(*words: str):
    """A config composed from words, as the command line does it, before it becomes a Python object."""
    return _composer()(words)
