"""Completion: what is offered where, and that bash, fish and zsh can use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from bnexp.cli.commands import COMMANDS
from bnexp.cli.completion import SCRIPTS
from bnexp.config.shipped import configs_folder

CLAIMS = sorted(path.stem for path in (configs_folder() / "claim").glob("*.yaml"))


@pytest.fixture
def offered(bnexp, tmp_path, monkeypatch):
    """The words offered behind a line, in a folder with runs and own yamls."""
    for folder in ("outputs/day/run", "my/norm", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "my/norm/mine.yaml").write_text("name: mine\n")
    (tmp_path / "mine.npz").touch()
    monkeypatch.chdir(tmp_path)

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        answer = bnexp("-sc", "query")
        assert (answer.code, answer.err) == (0, "")
        return answer.out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bnexp ", list(COMMANDS)),
        ("bnexp r", ["resume", "runs"]),
        ("bnexp --v", ["--version"]),
        ("bnexp list n", ["norm"]),
        ("bnexp train norm=bn", ["norm=bn", "norm=bn_scratch"]),
        ("bnexp train --json norm=bn", ["norm=bn", "norm=bn_scratch"]),
        ("bnexp bench norm=bn", ["norm=bn", "norm=bn_scratch"]),
        ("bnexp train --config-dir my norm=mi", ["norm=mine"]),
        ("bnexp train seed=1 no", ["norm.", "norm=", "norm_state=", "notes="]),
        ("bnexp train --config-d", ["--config-dir"]),
        ("bnexp train --config-dir ", ["my/", "outputs/"]),
        ("bnexp train init_from=", ["init_from=my/", "init_from=outputs/"]),
        ("bnexp train data.path=m", ["data.path=mine.npz", "data.path=my/"]),
        ("bnexp train norm=[", []),
        ("bnexp evaluate --spl", ["--split"]),
        ("bnexp evaluate --split ", ["train", "validation", "test"]),
        ("bnexp export outputs --to s", ["safetensors"]),
        ("bnexp compare --f", ["--format", "--figures"]),
        ("bnexp compare --by ", []),
        ("bnexp runs -", ["-h", "--help", "--where", "--tag", "--all"]),
        ("bnexp show outputs/day/", ["outputs/day/run/"]),
        ("bnexp show .h", [".hidden/"]),
        ("bnexp claim r", ["run", "report"]),
        ("bnexp claim run ", CLAIMS),
        ("bnexp claim run bn-only bn-m", ["bn-max-lr", "bn-mnist-sigmoid"]),
        ("bnexp claim run --profile ", ["quick", "full", "gpu"]),
        ("bnexp nonsense ", []),
        ("bnexp show nowhere/", []),
    ],
)
def test_completion_offers(offered, line, words):
    found = offered(line)
    assert (found[: len(words)] if line == "bnexp runs -" else found) == words


PROGRAM = f'#!/bin/sh\nexec {sys.executable} -m bnexp "$@"\n'
BASH = """eval "$(bnexp -sc install=bash)"
compopt() { [ "$*" = "-o nospace" ]; }
for line in "bnexp ev" "bnexp train norm=bn"; do
  COMP_LINE="$line" COMP_POINT=${#line}; _bnexp; echo "${COMPREPLY[@]}"
done
eval "$(bnexp -sc uninstall=bash)" && ! complete -p bnexp 2>/dev/null"""
FISH = """bnexp -sc install=fish | source
complete -C "bnexp ev" | cut -f 1; complete -C "bnexp train norm=bn" | string join " " """
ZSH = """compdef() { echo "$2 by $1"; }; eval "$(bnexp -sc install=zsh)"
compadd() { [[ $* == *--* ]] && shift ${@[(i)--]}; echo $@; }
words=(bnexp ev); CURRENT=2; _bnexp; words=(bnexp train norm=bn); CURRENT=3; _bnexp"""


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("fish", FISH), ("zsh", ZSH)])
def test_a_shell_completes(tmp_path, shell, script):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on the path")
    (tmp_path / "bnexp").write_text(PROGRAM)
    (tmp_path / "bnexp").chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    said = done.stdout.split()
    assert done.stderr == ""
    assert said[-3:] in (["evaluate", "bn", "bn_scratch"], ["evaluate", "norm=bn", "norm=bn_scratch"])


@pytest.mark.parametrize("words", ["-sc", "-sc install=nonsense", "-sc nonsense=bash"])
def test_completion_for_an_unknown_shell_costs_a_line(bnexp, words):
    complaint = bnexp(*words.split()).complaint
    assert all(script in complaint for script in SCRIPTS)
