"""TensorBoard's page as ``bnexp board`` opens it: its address, and its colours.

The page draws a group of runs in the colour of the group's number, by order of appearance. Here a norm's number is its
place in ``compare/styles``, so that it has one colour everywhere.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import IO
from urllib.parse import urlencode
from zipfile import ZipFile

from bnexp.compare.styles import CHALK, COLOURS, CORE, INK, norms

# The group of a run: its norm, or else its whole name.
_GROUP = r"^(?:.*[/,-])?norm=(\w+)|^(.+)$"
# The runs of claims and smoke tests are not ticked at first; the filter can be cleared in the page.
_NO_CLAIMS = "^(?!claims/)"
_PINNED = ("test/accuracy", "train/loss")
# Before the page's script: a norm's colour, by the number of its group or by the name of a run.
_LOOKS = """const bnexp = {
  looks: $looks, colours: $colours,
  number(group, others) { return this.looks[group.match(/^\\["(\\w+)",null\\]$$/)?.[1]] ?? $core + others; },
  colour(run) { return this.colours[this.looks[run.match(/$group/)?.[1]] % this.colours.length]; },
};
"""
# Patterns of the script and what takes their place: the list of colours; both places that number a group; the colour of
# a run in the older dashboards.
_PATCHES = (
    (re.compile(r'colors:\[\{name:"Slate".*?\}\]'), "colors:$palette", 1),
    (re.compile(r"(\w+)\.get\((\w+)\)\?\?\1\.size"), r"\1.get(\2)??bnexp.number(\2,\1.size)", 2),
    (re.compile(r"(identifiers\.set\((\w+),)(this\.palette\[\w+%)"), r"\1bnexp.colour(\2)??\3", 1),
)


def address(*, claims: bool) -> str:
    """The query that opens the page with pinned curves, unsmoothed, coloured by norm."""
    query = {
        "smoothing": "0",
        "pinnedCards": json.dumps([{"plugin": "scalars", "tag": tag} for tag in _PINNED], separators=(",", ":")),
        "runColorGroup": f"regex:{_GROUP}",
        **({} if claims else {"runFilter": _NO_CLAIMS}),
    }
    return f"?{urlencode(query)}#timeseries&_smoothingWeight=0"


def coloured(assets: Path) -> Callable[[], IO[bytes]]:
    """TensorBoard's files with our colours, as its server takes them.

    Raises:
        ValueError: this version's script is another one.
    """
    packed = io.BytesIO()
    with ZipFile(assets) as old, ZipFile(packed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, _with_our_colours(content.decode()) if name == "index.js" else content)
    return lambda: io.BytesIO(packed.getvalue())


def _with_our_colours(script: str) -> str:
    palette = [{"name": c, "lightHex": c, "darkHex": CHALK if c == INK else c} for c in COLOURS]
    words = {
        "looks": json.dumps({norm: look for look, norm in enumerate(norms())}),
        "colours": json.dumps(COLOURS),
        "palette": json.dumps(palette),
        "core": str(len(CORE)),
        "group": _GROUP.replace("/", r"\/"),
    }
    for pattern, ours, places in _PATCHES:
        script, found = pattern.subn(Template(ours).safe_substitute(words), script)
        if found != places:
            raise ValueError("this version of TensorBoard has another page; norms have the colours that it gives them")
    return Template(_LOOKS).substitute(words) + script
