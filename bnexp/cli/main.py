"""The command line: a small dispatcher that imports only what a command needs.

``config/compose`` and ``cli/hydra_plugins`` are the only modules that know Hydra and OmegaConf.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bnexp import __version__
from bnexp.cli.commands import command
from bnexp.cli.output import drop, require_streams, say
from bnexp.config.checks import RunFailedError
from bnexp.config.names import printable

HELP = """\
bnexp: a command-line laboratory for normalization in neural networks

  bnexp train norm=bn                       LeNet with batch norm, on digits
  bnexp train -m norm=none,bn,ln seed=0,1   a sweep: every combination
  bnexp resume [FOLDER]                     go on after a stop or a kill
  bnexp runs [FOLDER]                       the runs there are, the newest first
  bnexp show, diff, tag RUN                 one run; two runs; words to find it
  bnexp evaluate [RUN]                      accuracy by three statistics
  bnexp compare FOLDER...                   runs as a table with intervals
  bnexp bench [setting=value ...]           the fastest batch size
  bnexp claim list|new|run|power|report     claims of the literature, tested
  bnexp board [FOLDER]                      curves in TensorBoard
  bnexp export FOLDER --to csv|parquet      results as tables; onnx: a model
  bnexp list [GROUP]                        norms, models, data, ... to choose

--json (or --format table|csv|json|markdown|latex) answers for programs.
bnexp COMMAND --help says more. Completion: bnexp -sc install=bash (zsh, fish).
"""


# Errors of a path that the user named; all other errors are failures of the disk.
_WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


def main() -> int:
    """Run the command of ``sys.argv``; exit code 0: done, 1: failed, 2: wrong input, 129, 130, 143: stopped."""
    require_streams()
    try:
        with _dying_of_ctrl_c():
            _require_utf8(sys.argv[1:])
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


def _require_utf8(arguments: list[str]) -> None:
    """Refuse words that no file of a run could hold.

    Raises:
        ValueError: a word has bytes that are no UTF-8.
    """
    for word in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ValueError(f"{word!a}: its bytes are no UTF-8; names and values are text")


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


def _one_line(text: str, code: int) -> int:
    print("bnexp: " + printable(" ".join(text.split())), file=sys.stderr)
    return code


def _storage_failed(error: OSError) -> int:
    """Report an unusable path or a full or broken disk; a closed pipe is no error, the reader has seen enough."""
    if isinstance(error, BrokenPipeError):
        drop(sys.stdout)
        return 0
    where = f"{error.filename}: " if error.filename else ""
    return _one_line(f"{where}{error.strerror or error}", 2 if error.errno in _WRONG_PLACE else 1)


def _crashed(error: Exception) -> int:
    """Report an error in the program or in a user's module, outside a run: one line, and the traceback in a file."""
    import tempfile
    import traceback

    from bnexp.config.own_code import told

    lines = "".join(traceback.format_exception(error))
    path = Path("bnexp-error.log")
    try:
        path.write_text(lines, encoding="utf-8")
    except OSError:
        with tempfile.NamedTemporaryFile("w", prefix="bnexp-error-", suffix=".log", delete=False) as file:
            file.write(lines)
        path = Path(file.name)
    return _one_line(f"{told(error)}; details in {path}", 1)
