"""Completion in bash, zsh and fish: the shell asks ``bnexp -sc query`` with the line so far, and offers the answer.

Hydra completes settings; commands, options, claims and folders are completed here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence

from bnexp.cli.commands import COMMANDS, command
from bnexp.config.checks import unknown
from bnexp.config.shipped import configs_folder

# The line so far is in COMP_LINE, as bash has it. A word that ends with =, / or . goes on, so no blank follows it.
_BASH = """\
# Completion in bash: put  eval "$(bnexp -sc install=bash)"  into ~/.bashrc
_bnexp() {
  local line="${COMP_LINE:0:COMP_POINT}" word begun="" IFS=$'\\n'
  word="${line##* }"
  [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]] && begun="${word%"${word##*=}"}"
  COMPREPLY=($(COMP_LINE="$line" bnexp -sc query 2>/dev/null))
  [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *[=/.] ]] && compopt -o nospace
  COMPREPLY=("${COMPREPLY[@]#"$begun"}")
}
complete -o default -F _bnexp bnexp
"""
_ZSH = """\
# Completion in zsh: put  eval "$(bnexp -sc install=zsh)"  into ~/.zshrc, behind compinit
_bnexp() {
  local -a found=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT]}" bnexp -sc query 2>/dev/null)}")
  local -a whole=("${(@)found:#*[=/.]}") begun=("${(@M)found:#*[=/.]}")
  [[ -n "$found" ]] || { _files; return }
  compadd -- "${(@)whole:#}"
  compadd -S '' -- "${(@)begun:#}"
}
compdef _bnexp bnexp
"""
_FISH = """\
# Completion in fish: put  bnexp -sc install=fish | source  into ~/.config/fish/config.fish
complete -c bnexp --no-files -a '(env COMP_LINE=(commandline -cp) bnexp -sc query 2>/dev/null)'
"""
SCRIPTS = {
    "install=bash": _BASH,
    "install=zsh": _ZSH,
    "install=fish": _FISH,
    "uninstall=bash": "complete -r bnexp\n",
    "uninstall=zsh": "compdef -d bnexp\n",
    "uninstall=fish": "complete -e -c bnexp\n",
}
# Commands whose settings Hydra completes, and those that take folders.
_SETTINGS = ("train", "bench")
_FOLDERS = ("resume", "runs", "show", "diff", "tag", "evaluate", "compare", "export", "board", "report")
_PATHS = ("DIR", "FOLDER", "FILE")
# Options of a help text: their names, and the choices or the name of their value.
_OPTION = re.compile(r"^ +((?:-\w+, )?--?[\w-]+)(?: +(\{[\w,]+\}|[A-Z][\w=,|]*))?", re.MULTILINE)


def shell_completion(arguments: Sequence[str]) -> int:
    """``bnexp -sc install=SHELL``: print what the shell has to read; ``-sc query``: the words that fit COMP_LINE.

    Raises:
        ValueError: there is no such shell.
    """
    wanted = arguments[1] if len(arguments) > 1 else ""
    if wanted in SCRIPTS:
        print(SCRIPTS[wanted], end="")
        return 0
    if wanted.partition("=")[0] != "query":
        raise unknown("-sc", wanted, [*SCRIPTS, "query"])
    words = os.environ.get("COMP_LINE", "").split(" ")
    # An error message would appear in the middle of the line that is being typed.
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
        found = _candidates([word for word in words[:-1] if word], words[-1])
        print("\n".join(dict.fromkeys(word for word in found if word.startswith(words[-1]))))
    return 0


def _candidates(before: Sequence[str], word: str) -> Sequence[str]:
    """Words for the place after ``before``, of which ``word`` is the beginning."""
    if len(before) < 2:
        return ["--help", "--version"] if word.startswith("-") else list(COMMANDS)
    name, last = before[1], before[-1]
    if name not in COMMANDS:
        return []
    place = [name, *([before[2]] if name == "claim" and len(before) > 2 else [])]
    options = options_of(place)
    if value := options.get(last):
        return value.strip("{}").split(",") if value.startswith("{") else _folders(word) if value in _PATHS else []
    if word.startswith("-"):
        return list(options)
    return _words(place, word, before)


def _words(place: Sequence[str], word: str, before: Sequence[str]) -> Sequence[str]:
    """What a command takes besides options."""
    from bnexp.config.words import PLACES

    if place[0] in _SETTINGS:
        key, equals, path = word.partition("=")
        if key in PLACES and equals:
            return [f"{key}={each}" for each in _folders(path, files=key == "data.path")]
        return _settings(before, word)
    if place[0] == "list":
        from bnexp.cli.list import GROUPS

        return GROUPS if len(before) == 2 else []
    if place == ["claim"]:
        return ["list", "new", "run", "power", "report"]
    if place in (["claim", "run"], ["claim", "power"]):
        return sorted(path.stem for path in (configs_folder() / "claim").glob("*.yaml"))
    return _folders(word) if place[-1] in _FOLDERS else []


def _folders(begun: str, *, files: bool = False) -> list[str]:
    """Folders (and files) beside the one whose path begins so; hidden ones only if the dot is typed."""
    parent, _, name = begun.rpartition("/")
    place = f"{parent}/" if "/" in begun else ""
    with os.scandir(place or ".") as found:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in found if files or entry.is_dir())
    return [place + each for each in names if name or not each.startswith(".")]


def options_of(place: Sequence[str]) -> dict[str, str]:
    """The options of a command, as its help says: name -> choices of its value, its name, or nothing."""
    if place[0] == "train":
        from bnexp.config.words import FLAGS

        own = {"--config-dir": "DIR", "--cfg": "{job,hydra,all}"}
        return dict.fromkeys(FLAGS, "") | own | {"--format": "{table,csv,json,markdown,latex}", "--json": ""}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        command(place[0])([*place[1:], "--help"])
    found = _OPTION.findall(said.getvalue())
    return {name: value for names, value in found for name in names.split(", ")}


def _settings(before: Sequence[str], word: str) -> Sequence[str]:
    """Settings and their values, by Hydra, which must see neither the command nor its options."""
    from bnexp.config import compose

    line = " ".join([before[0], *(each for each in before if "=" in each and not each.startswith("-")), word])
    os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    own = ["--config-dir", before[before.index("--config-dir") + 1]] if "--config-dir" in before else []
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        compose.run_hydra(lambda config: None, ["-sc", "query=bash", *own], configs_folder())
    return said.getvalue().split()
