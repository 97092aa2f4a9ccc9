"""The command line: a small dispatcher that imports only what a command needs.

``config/compose`` and ``cli/hydra_plugins`` are the only modules that know Hydra and OmegaConf.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bnexp import __version__
from bnexp.cli.output import drop_output, say
from bnexp.config.checks import RunFailedError, unknown

HELP = """\
bnexp: a command-line laboratory for normalization in neural networks

  bnexp train norm=bn                       train LeNet with batch norm on digits
  bnexp train -m norm=none,bn,ln seed=0,1   a sweep: every combination
  bnexp resume [FOLDER]                     go on after a stop, a kill, a power cut
  bnexp runs [FOLDER]                       which runs there are, the newest first
  bnexp show, diff, tag RUN                 one run; two runs; words to find a run
  bnexp evaluate [RUN]                      accuracy by three kinds of statistics
  bnexp compare FOLDER...                   runs as a table with intervals
  bnexp bench [setting=value ...]           the fastest batch size
  bnexp claim list|run|report               what the literature claims, tested
  bnexp board [FOLDER]                      curves in TensorBoard
  bnexp export FOLDER --to csv|parquet      results as tables; onnx: a model
  bnexp list [GROUP]                        what can be chosen: norms, models, ...

--json (or --format table|csv|json|markdown|latex) answers for programs.
bnexp COMMAND --help says more; bnexp --version; completion for bash, zsh, fish:
bnexp -sc install=SHELL says how.
"""


# Sub-command -> module and function, imported when the command is used.
COMMANDS = {
    "train": "bnexp.cli.train:train",
    "resume": "bnexp.cli.resume:resume",
    "runs": "bnexp.cli.runs:runs",
    "show": "bnexp.cli.show:show",
    "diff": "bnexp.cli.diff:diff",
    "tag": "bnexp.cli.tag:tag",
    "evaluate": "bnexp.cli.evaluate:evaluate",
    "compare": "bnexp.cli.compare:main",
    "claim": "bnexp.cli.claim:main",
    "bench": "bnexp.cli.bench:bench",
    "export": "bnexp.cli.export:export",
    "board": "bnexp.cli.board:board",
    "list": "bnexp.cli.list:main",
}

# Errors of a path that the user named; all other errors are failures of the disk.
_WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


def main() -> int:
    """Run the command of ``sys.argv``; exit code 0: done, 1: failed, 2: wrong input, 130 or 143: stopped."""
    try:
        with _dying_of_ctrl_c():
            code = _dispatch(sys.argv[1:])
            say("")
            return code
    except ValueError as error:
        return _one_line(str(error), 2)
    except OSError as error:
        return _storage_failed(error)
    except KeyboardInterrupt:
        return 130
    except RunFailedError as error:
        return _one_line(str(error), 1)
    except Exception as error:
        return _crashed(error)


@contextlib.contextmanager
def _dying_of_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C kill the process until a run handles signals: an exception inside an import could get lost."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # scripts ignore it for background processes; keep it ignored
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(f"bnexp {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        from bnexp.cli.completion import shell_completion

        return shell_completion(arguments)
    return command(arguments[0])(arguments[1:])


def command(name: str) -> Callable[[list[str]], int]:
    """The function of a sub-command.

    Raises:
        ValueError: there is no such command.
    """
    if "=" in name or name in ("-m", "--multirun"):
        raise ValueError(f"{name}: a command comes first: bnexp train {name} ... (allowed: {', '.join(COMMANDS)})")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module, _, function = COMMANDS[name].partition(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return found


def _one_line(text: str, code: int) -> int:
    print("bnexp: " + " ".join(text.split()), file=sys.stderr)
    return code


def _storage_failed(error: OSError) -> int:
    """Report an unusable path or a full or broken disk; a closed pipe is no error, the reader has seen enough."""
    if isinstance(error, BrokenPipeError):
        drop_output()
        return 0
    where = f"{error.filename}: " if error.filename else ""
    return _one_line(f"{where}{error.strerror or error}", 2 if error.errno in _WRONG_PLACE else 1)


def _crashed(error: Exception) -> int:
    """Report an error in the program or in a user's module, outside a run: one line, and the traceback in a file."""
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(error))
    path = Path("bnexp-error.log")
    try:
        path.write_text(lines, encoding="utf-8")
    except OSError:
        with tempfile.NamedTemporaryFile("w", prefix="bnexp-error-", suffix=".log", delete=False) as file:
            file.write(lines)
        path = Path(file.name)
    reason = str(error).strip().partition("\n")[0]
    return _one_line(f"{type(error).__name__}: {reason}; details in {path}", 1)
