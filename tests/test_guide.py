"""The guide: its ten tasks run as they are printed, and all other commands of README and guide are ones that there are.

To be quick, ``bnexp train`` gets the words of ``smaller`` behind its own. The task that needs
Fashion-MNIST runs where BNEXP_DATA names a folder that has it.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from bnexp.cli.commands import COMMANDS
from bnexp.cli.completion import options_of
from bnexp.config.compose import plain
from bnexp.evaluations import EVALUATIONS
from bnexp.norms import NORMS
from bnexp.runs.metrics import curves
from bnexp.training.schedule import SCHEDULES

GUIDE = ROOT / "docs" / "guide"
PAGES = [ROOT / "README.md", ROOT / "docs" / "scripting.md", *sorted(GUIDE.glob("*.md"))]
SMALL = ("data.train_limit=150", "data.test_limit=60", "eval_train=60")


def smaller(words: list[str]) -> list[str]:
    """The words that make a training quick: few images, one seed, and two epochs where its length is not printed."""
    length = [] if any(word.startswith(("epochs=", "steps=")) for word in words) else ["epochs=2"]
    return [*SMALL, *length, *(["seed=0"] if "-m" in words else [])]


def section(page: str, heading: str) -> str:
    """What stands under a heading of a page of the guide."""
    parts = re.split(r"^##+ (.+)\n", (GUIDE / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def commands(text: str) -> list[str]:
    """The lines of code that call bnexp."""
    whole = re.sub(r" \\\n +", " ", text)
    found = re.findall(r"^    (?:uv run |pip install uv && uv run )?(bnexp \S.*)$", whole, re.MULTILINE)
    return [line for line in found if not re.search(r"\[-|\.\.\.|\| jq", line)]


def write_files(text: str) -> None:
    """Write the files of a text: blocks of code behind a line with a path."""
    for path, body in re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(body, encoding="utf-8")


@pytest.fixture
def type_in(bnexp, tmp_path, monkeypatch):
    """Type the commands of a section in a new folder; what they print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def run(text: str) -> list[str]:
        write_files(text)
        return [one(command) for command in commands(text)]

    def one(command: str) -> str:
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "board":  # it would serve until Ctrl-C
            assert list(Path(words[1]).rglob("events.out.tfevents.*"))
            return ""
        words, file = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, "")
        answer = bnexp(*words, *(smaller(words) if words[0] == "train" else []))
        assert answer.code == 0, f"{command}\n{answer}"
        if file:
            Path(file).write_text(answer.out)
        return answer.out

    return run


def arms(table: str) -> dict[str, list[str]]:
    """The rows of the first table that compare printed: the first cell -> the others."""
    _, _, _, *rows = table.split("\n\n")[0].splitlines()
    return {row.split()[0]: row.split()[1:] for row in rows}


@pytest.mark.slow
def test_five_norms_on_fashion_mnist(type_in, real_data):
    *_, table = type_in(section("compare.md", "Five norms on Fashion-MNIST"))
    assert set(arms(table)) == {"none", "bn", "ln", "in", "gn"}
    assert "Differences to norm=none, seed by seed" in table


@pytest.mark.slow
def test_vanishing_gradients(type_in):
    _, table, *_ = type_in(section("look-inside.md", "Vanishing gradients"))
    first_layer = {norm: float(row[1]) for norm, row in arms(table).items()}
    assert 0 < first_layer["none"] < first_layer["bn"] / 1000
    assert Path("outputs/deep-figures/depth_gradients.png").exists()


@pytest.mark.slow
def test_a_larger_rate_with_batch_norm(type_in):
    *_, table = type_in(section("compare.md", "A larger learning rate"))
    rows = [row.split()[:3] for row in table.split("\n\n")[0].splitlines()[3:]]
    assert rows == [["bn", "0.05", "1"], ["bn", "0.5", "1"], ["none", "0.05", "1"], ["none", "0.5", "1"]]


def test_a_folder_of_own_images(type_in, tmp_path):
    colours = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200)}
    noise = np.random.default_rng(0)
    for name, colour in colours.items():
        (tmp_path / "PHOTOS" / name).mkdir(parents=True)
        for number in range(120):
            pixels = np.clip(noise.normal(colour, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "PHOTOS" / name / f"{number}.png")
    y = np.arange(360) % 3
    np.savez(tmp_path / "mine.npz", x_train=noise.normal(y[:, None, None, None], 0.1, (360, 1, 28, 28)), y_train=y)
    images, arrays = type_in(section("data.md", "Your own images without a test set"))
    assert "finished: test accuracy" in images
    assert "finished: test accuracy" in arrays
    trained = [json.loads(path.read_text()) for path in Path("outputs").rglob("run.json")]
    assert sorted((run["config"]["data"]["name"], run["classes"]) for run in trained) == [
        ("image_folder", 3),
        ("npz", 3),
    ]


@pytest.mark.slow
def test_an_own_norm(type_in):
    with NORMS.temporarily():
        _, listed, _, table = type_in(section("own-norm.md", "A norm of your own"))
    sys.modules.pop("my_norm", None)
    (block,) = [block for block in listed.split("\n\n") if block.startswith("peak ")]
    assert "Divides each sample by its largest absolute value" in " ".join(block.split())
    assert set(arms(table)) == {"bn", "peak"}


def test_an_own_norm_with_running_statistics(type_in, caplog):
    with NORMS.temporarily():
        *_, table = type_in(section("own-norm.md", "A norm with running statistics"))
    sys.modules.pop("my_batch", None)
    cells = dict(line.split()[1:3] for line in table.splitlines() if line.strip().startswith("train "))
    assert list(cells) == ["running", "precise", "batch"]
    assert cells["running"] != cells["precise"]
    assert "BatchStatistics" not in caplog.text  # of which a norm is told that keeps statistics elsewhere


def test_an_own_schedule(type_in):
    with SCHEDULES.temporarily():
        type_in(section("own-norm.md", "Schedules, inits and optimizers"))
    sys.modules.pop("my_schedule", None)
    (folder,) = Path("outputs").rglob("run.json")
    rates, steps = curves(folder.parent)["lr"], 3 * 3  # of 150 images in batches of 64
    assert rates[steps] == pytest.approx(0.05 * (1 / steps) ** 0.9)
    assert list(rates.values()) == sorted(rates.values(), reverse=True)


def test_an_own_evaluation(type_in):
    with EVALUATIONS.temporarily():
        _, table, _, later = type_in(section("evaluations.md", "An evaluation of your own"))
    sys.modules.pop("my_bars", None)
    assert re.search(r"^test +bar4 +running +0\.\d{4} ", later, re.MULTILINE)
    assert table.startswith("test/accuracy_bar4 at the last step\n")
    assert len(arms(table)) == 1


@pytest.mark.slow
def test_more_epochs(type_in):
    page = (GUIDE / "longer.md").read_text(encoding="utf-8")  # the first training stands above the section
    type_in(page.partition("## Keep the best checkpoint")[0])
    runs = [json.loads(path.read_text()) for path in Path("outputs").rglob("run.json")]
    assert sorted({run["config"]["epochs"] for run in runs}) == [4, 10]
    assert all(run["status"] == "finished" and run["step"] == run["steps"] for run in runs)


@pytest.mark.slow
def test_the_best_rate_for_group_norm(type_in):
    _, table = type_in(section("sweeps.md", "The best learning rate for group norm"))
    assert "optim.lr chosen by validation/accuracy" in table
    assert "0.01 0.03 0.1 0.3 1" in table


def test_a_run_of_last_week(type_in):
    *_, runs, chosen, best, shown, differing = type_in(section("runs.md", "A run of last week"))
    assert ("outputs/one" in runs, "outputs/two" in runs) == (True, True)
    assert ("outputs/one" in chosen, "outputs/two" in chosen) == (True, False)
    assert best.count("finished") == 2
    assert "command  bnexp train norm=ln epochs=3" in shown
    assert re.search(r"^norm\S* +bn +ln", differing, re.MULTILINE)


def test_a_trained_model_in_python(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", "norm=bn", "epochs=1", *SMALL).code == 0
    code = re.search(r"(^    .*\n)+", section("python.md", "A trained model"), re.MULTILINE)[0]
    names: dict[str, object] = {}
    exec(textwrap.dedent(code), names)
    assert names["run"].predict(names["x"]).shape == names["y"].shape == (60,)
    assert not names["model"].training


@pytest.mark.slow
def test_a_table_and_a_figure_for_a_paper(type_in):
    type_in(section("export.md", "A table and a figure for a paper"))
    assert r"\toprule" in Path("norms.tex").read_text()
    assert {path.suffix for path in Path("figures").iterdir()} >= {".png", ".svg", ".pdf"}


# --- all commands -----------------------------------------------------------------------------------------------------


def first_values(words: list[str]) -> list[str]:
    """The settings of one job of a sweep, without those of Hydra itself."""
    parser = OverridesParser.create()
    kept = []
    for word in words:
        override = parser.parse_override(word)
        if override.is_sweep_override() and override.is_interval_sweep():
            continue
        value = next(override.sweep_string_iterator()) if override.is_sweep_override() else None
        kept.append(word if value is None else f"{override.key_or_group}={value}")
    return kept


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_command_is_one_that_there_is(page, monkeypatch):
    monkeypatch.setenv("BNEXP_DATA", "data")
    for command in commands(page.read_text(encoding="utf-8")):
        name, *words = shlex.split(re.sub(r"   +[^#'-].*", "", command), comments=True)[1:]
        assert name in COMMANDS, command
        place = [name, *(words[:1] if name == "claim" else [])]
        assert {word for word in words if word.startswith("--")} <= set(options_of(place)), command
        if name == "train" and "--config-dir" not in words:
            settings = [word for word in words if "=" in word and not re.match(r"\+?hydra|init_from|notes", word)]
            assert plain(composed(*first_values(settings)))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], link


def test_the_readme_is_short_and_begins_with_the_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    for command in ("uv run bnexp train norm=bn", "uv run pytest"):
        assert [line for line in lines if line.startswith(f"    pip install uv && {command} ")]


def test_the_readme_counts_what_came_of_the_claims():
    report = (ROOT / "docs" / "claims" / "claims.md").read_text(encoding="utf-8")
    words = r"(\d+) claims: (\d+) hold; (\d+) hold, size open; (\d+) less .*; (\d+) do not hold; (\d+) not decided\."
    claims, hold, size_open, small, fail, undecided = map(int, re.search(words, report).groups())
    told = (
        f"Of {claims} such claims [{hold + size_open} hold](docs/claims/claims.md), in {small} the effect is less than"
    )
    told += f" matters, {fail} do not hold, and {undecided} are not decided."
    assert told in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_readme_counts_the_norms():
    norms = len(list((ROOT / "configs" / "norm").glob("*.yaml")))
    assert f"one of {norms} norms" in (ROOT / "README.md").read_text(encoding="utf-8")
