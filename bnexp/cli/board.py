"""``bnexp board``: TensorBoard on this machine only."""

from __future__ import annotations

import logging
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bnexp.cli.arguments import parser
from bnexp.cli.board_page import address, coloured

# Points kept per curve; TensorBoard's default of 1000 would thin out long curves.
_SAMPLES = "scalars=10000,histograms=200,hparams=10000"


def serve(folder: Path, port: int, *, show: bool, claims: bool) -> None:
    """Serve the runs under a folder on 127.0.0.1 until Ctrl-C.

    Raises:
        ValueError: TensorBoard cannot start, e.g. because the port is taken.
    """
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard(assets_zip_provider=own_page())
    where = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    board.configure(argv=[None, *where, "--samples_per_plugin", _SAMPLES])
    try:
        url = board.launch()
    except SystemExit:
        raise ValueError(f"--port={port}: TensorBoard cannot use this port; choose another one") from None
    page = f"{url}{address(claims=claims)}"
    print(f"{page}  (Ctrl-C ends it)", flush=True)
    if show:
        webbrowser.open(page)
    while True:
        time.sleep(3600)


def own_page() -> Callable[[], IO[bytes]] | None:
    """The page in our colours; None takes TensorBoard's own."""
    import tensorboard

    try:
        return coloured(Path(tensorboard.__file__).with_name("webfiles.zip"))
    except (OSError, ValueError) as error:
        print(f"bnexp: {error}", file=sys.stderr)
        return None


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
