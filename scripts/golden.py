"""Golden files: what a dozen small trainings, a sweep, a comparison and a claim write, kept and compared.

    uv run python scripts/golden.py keep /tmp/golden       # before a change that is to change no result
    uv run python scripts/golden.py compare /tmp/golden    # after it; exit code 1, and a line a file that differs

``metrics.csv`` is compared byte for byte; JSON files without times, provenance and folders. The numbers depend on the
machine and on torch, so that golden files are made where they are compared, and are not in the repository.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from checkout import environment

_TINY = ["data.train_limit=200", "data.test_limit=100", "batch_size=29", "steps=14", "eval_every=7", "log_every=3"]
_MLP = [*_TINY, "model=mlp", "model.depth=2", "model.width=16", "data.size=null"]
_PROBES = "covariance,effective_lr,eval_mismatch,gradients,ics,landscape,quantiles,saturation,sharpness,signal"

# Folder -> words of a single run.
RUNS = {
    "mlp": [*_MLP, "norm=bn", "init=torch"],
    "lenet": [*_TINY, "model=lenet", "norm=gn", "data.size=16"],
    "cnn": [*_TINY, "model=cnn", "norm=ln", "optim=adam", "schedule=cosine", "data.size=8"],
    "plain": [*_TINY, "model=plain", "model.depth=8", "model.width=4", "norm=none", "data.size=8"],
    "resmlp": [*_TINY, "model=resmlp", "model.blocks=3", "model.width=16", "norm=skipinit", "data.size=null"],
    "resnet": [*_TINY, "model=resnet", "model.depth=8", "model.width=4", "norm=weight_norm", "data.size=8"],
    "rnn": [*_TINY, "model=rnn", "model.width=16", "activation=tanh", "norm=bn", "data.size=8"],
    "probes": [*_MLP, "norm=bn", f"probes=[{_PROBES},weight_norms]"],
    "ema": [*_MLP, "norm=bn", "ema=[0.9,0.99]", "model.dropout=0.2", "data.crop=1"],
    "fp16": [*_MLP, "norm=rms", "precision=fp16", "optim=adamw", "optim.weight_decay=0.01"],
    "validation": [*_MLP, "norm=frozen_bn", "init=lsuv", "data.validation=0.2", "trainable=norms_and_head"],
    "diverged": [*_MLP, "norm=none", "optim.lr=1e12", "data.whiten=zca"],
}
# Folder -> words of a single run that needs another one; or of a sweep.
AFTER = {
    "init_from": [
        "train",
        *_MLP,
        "norm=bn",
        "init_from=mlp",
        "norm_state=precise",
        "seed=1",
        "hydra.run.dir=init_from",
    ],
    "sweep": ["train", "-m", *_MLP, "norm=none,bn,ln", "seed=0,1", "hydra.sweep.dir=sweep"],
    "stacked": [
        *("train", "-m", *_MLP, "norm=bn", "seed=0,1", "optim.lr=0.1,0.2", "hydra.sweep.dir=stacked"),
        *("hydra/launcher=stacked", "hydra.launcher.jobs=1"),
    ],
}
# File -> the command that prints it.
PRINTS = {
    "compare.json": ["compare", "sweep", "stacked", "--by", "norm", "--baseline", "norm=none", "--format", "json"],
    "compare.md": ["compare", "sweep", "--format", "markdown"],
    "compare.txt": ["compare", "sweep", "stacked", "--best", "optim.lr", "--metric", "validation/accuracy"],
    "evaluate.txt": ["evaluate", "mlp"],
}
CLAIM = """# A small claim
sentence: Batch norm is better.
sources: [a golden file]
literature: None.
confounds: None.
would_change: Nothing.
settings: [data=digits, data.size=null, data.train_limit=200, model=mlp, model.depth=1, model.width=8, eval_every=4]
arms:
  none: [norm=none]
  bn: [norm=bn]
axis: {key: optim.lr, values: [0.1, 0.3, 1]}
regimes:
  equal: [batch_size=64]
  tuned: {key: optim.momentum, values: [0, 0.5]}
tests:
  level:
    says: the accuracy is higher
    measure: {metric: test/accuracy}
    contrast: {bn@0.1: 1, none@0.1: -1}
    claims: greater
    threshold: 0.01
  rate:
    says: the largest rate is larger
    measure: {metric: test/accuracy}
    reduce: {kind: largest, within: 0.05}
    contrast: {bn: 1, none: -1}
    scale: log10
    claims: greater
    threshold: 0.3
    regimes: [equal]
  loss:
    says: the training loss is the same
    measure: {metric: train/loss, at: mean}
    contrast: {bn@0.3: 1, none@0.3: -1}
    claims: equal
    threshold: 0.2
holds_if: [equal/level]
profiles:
  quick: {seeds: 6, tuning_seeds: 2, settings: [steps=8], minutes: 1}
figure: {kind: axis}
"""
# Names of values in JSON that differ from run to run, or with the folder.
_VARYING = {
    "seconds",
    "run_seconds",
    "provenance",
    "started",
    "date",
    "made_with",
    "commit",
    "git_commit",
    "git_dirty",
    "folder",
    "digest",
    "digests",
}
# A time in a table, and the rules whose length depends on it.
_TIME = re.compile(r"[\d.]+ (?:ms|s|min)\b|-{4,}")


def bnexp(*words: str, cwd: Path) -> str:
    """What a command of this checkout prints.

    Raises:
        RuntimeError: it has failed.
    """
    command = [sys.executable, "-c", "import sys; from bnexp.__main__ import main; sys.exit(main())", *words]
    done = subprocess.run(command, cwd=cwd, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bnexp {' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout


def make(folder: Path) -> None:
    """Train, compare and judge in a folder."""
    with ThreadPoolExecutor(2) as pool:
        runs = [["train", *words, f"hydra.run.dir={name}"] for name, words in RUNS.items()]
        list(pool.map(lambda words: bnexp(*words, cwd=folder), runs))
        list(pool.map(lambda words: bnexp(*words, cwd=folder), AFTER.values()))
        (folder / "golden.yaml").write_text(CLAIM, encoding="utf-8")
        claim = pool.submit(bnexp, "claim", "run", "golden.yaml", "--profile", "quick", cwd=folder)
        for name, words in PRINTS.items():
            (folder / name).write_text(bnexp(*words, cwd=folder), encoding="utf-8")
        claim.result()


def golden(folder: Path) -> Iterator[tuple[str, str]]:
    """The files that are compared: (path, what counts of it)."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.csv":
            yield name, path.read_text(encoding="utf-8")
        elif path.suffix in (".md", ".txt"):
            yield name, _TIME.sub("TIME", " ".join(path.read_text(encoding="utf-8").split()))
        elif path.name in ("run.json", "compare.json", "result.json"):
            yield name, json.dumps(_steady(json.loads(path.read_text(encoding="utf-8"))), indent=1, sort_keys=True)


def _steady(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _steady(value) for key, value in node.items() if key not in _VARYING}
    return [_steady(value) for value in node] if isinstance(node, list) else node


def main() -> int:
    """Keep golden files, or compare with them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("action", choices=("keep", "compare"))
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        make(Path(made))
        now = dict(golden(Path(made)))
    if given.action == "keep":
        for name, text in now.items():
            (given.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (given.folder / name).write_text(text, encoding="utf-8")
        print(f"{len(now)} files kept in {given.folder}")
        return 0
    before = dict(golden(given.folder))
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    print(*(f"differs: {name}" for name in differing), f"{len(now)} files, {len(differing)} differ", sep="\n")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
