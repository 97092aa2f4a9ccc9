"""``bnexp board``: TensorBoard on this machine only."""

from __future__ import annotations

import logging
import time
import webbrowser
from pathlib import Path

from bnexp.cli.arguments import parser

# Points kept per curve; TensorBoard's default of 1000 would thin out long curves.
_SAMPLES = "scalars=10000,histograms=200,hparams=10000"
# Runs with the same norm get the same colour.
_COLOURS = "?runColorGroup=regex%3Anorm%3D(%5Cw%2B)"
# The runs of claims and smoke tests are not ticked at first; the filter can be cleared in the page.
_NO_CLAIMS = "&runFilter=%5E(%3F!claims%2F)"


def serve(folder: Path, port: int, *, show: bool, claims: bool) -> None:
    """Serve the runs under a folder on 127.0.0.1 until Ctrl-C.

    Raises:
        ValueError: TensorBoard cannot start, e.g. because the port is taken.
    """
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard()
    where = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    board.configure(argv=[None, *where, "--samples_per_plugin", _SAMPLES])
    try:
        url = board.launch()
    except SystemExit:
        raise ValueError(f"--port={port}: TensorBoard cannot use this port; choose another one") from None
    page = f"{url}{_COLOURS}{'' if claims else _NO_CLAIMS}#timeseries"
    print(f"{page}  (Ctrl-C ends it)", flush=True)
    if show:
        webbrowser.open(page)
    while True:
        time.sleep(3600)


_LAST_PORT = 65535


def board(arguments: list[str]) -> int:
    """``bnexp board [FOLDER]``."""
    options = parser("board", "Show curves in TensorBoard, reachable from this machine only.")
    options.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: outputs")
    options.add_argument("--port", type=int, default=6006, help="default: 6006, or the next free one")
    options.add_argument("--all", action="store_true", help="also the runs of claims, which the page hides otherwise")
    options.add_argument("--open", action="store_true", help="open the page in a browser")
    given = options.parse_args(arguments)
    if not given.folder.is_dir():
        raise ValueError(f"{given.folder}: no such folder")
    if not 1 <= given.port <= _LAST_PORT:
        raise ValueError(f"--port={given.port}: out of range; allowed is 1 to {_LAST_PORT}")
    serve(given.folder, given.port, show=given.open, claims=given.all)
    return 0
