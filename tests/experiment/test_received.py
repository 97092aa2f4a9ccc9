"""A folder that came from somebody else: going on with it runs no program that it brings along."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_RUN, own_builders, start

from bnexp.runs import run_json

PAYLOAD = "from pathlib import Path\nPath({marker!r}).touch()\n"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working folder, which Python searches for modules as it does for ``python -m bnexp``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with own_builders():
        yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("got", "linked", "my_lab", "payload")]:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> Path:
    """A sweep, as somebody else has done it."""
    place = tmp_path_factory.mktemp("sent")
    words = (*SMALL_RUN, "epochs=1", "seed=0,1", "hydra.sweep.dir=got")
    out, err = (process := start("train", "-m", *words, cwd=place)).communicate(timeout=300)
    assert process.returncode == 0, out + err
    return place / "got"


@pytest.fixture
def stopped(place, sent) -> Path:
    """A run's folder, from which a checkpoint lets one go on."""
    shutil.copytree(sent / "seed=0", place / "got")
    rewritten(place / "got" / "run.json", '"finished"', '"interrupted"')
    return place / "got"


@pytest.fixture
def swept(place, sent) -> Path:
    """A sweep's folder, with one job that is to go on."""
    shutil.copytree(sent, place / "got")
    shutil.rmtree(place / "got" / "seed=1")
    return place / "got"


def rewritten(path: Path, old: str, new: str) -> None:
    """The file as an attacker writes it, who knows how to compute what bnexp checks."""
    content = json.loads(path.read_text().replace(old, new))
    content.pop("digest", None)
    path.write_text(json.dumps(content))


def planted(path: Path, marker: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(PAYLOAD.format(marker=str(marker)))


# Where the program lies -> how the folder names it.
PAYLOADS = {
    "payload.py": "payload",
    "got/payload.py": "got.payload",
    "got/inner/payload.py": "got.inner.payload",
    "got/__init__.py": "got",
    "got/my-lab=1.py": "got.my-lab=1",
    "with-dash/payload.py": "with-dash.payload",
}


@pytest.mark.parametrize("path", PAYLOADS)
def test_a_module_that_a_run_names_is_not_imported(bnexp, stopped, path):
    planted(stopped.parent / path, marker := stopped.parent / "marker")
    rewritten(stopped / "run.json", '"imports": []', f'"imports": ["{PAYLOADS[path]}"]')
    for command in ("resume", "evaluate"):
        answer = bnexp(command, "got")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert not marker.exists()


@pytest.mark.parametrize("path", PAYLOADS)
def test_a_module_that_a_sweep_names_is_not_imported(bnexp, swept, path):
    planted(swept.parent / path, marker := swept.parent / "marker")
    rewritten(swept / "sweep.json", '"imports": []', f'"imports": ["{PAYLOADS[path]}"]')
    answer = bnexp("resume", "got")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert not marker.exists()


def test_the_command_of_a_sweep_imports_what_is_typed_and_not_what_its_folder_says(bnexp, swept):
    planted(swept.parent / "payload.py", marker := swept.parent / "marker")
    rewritten(swept / "sweep.json", '"imports": []', '"imports": ["payload"]')
    assert bnexp("train", "-m", *SMALL_RUN, "epochs=1", "seed=0,1", "hydra.sweep.dir=got").code == 0
    assert run_json.read(swept / "seed=1")["status"] == "finished"
    assert not marker.exists()


@pytest.mark.parametrize("name", [name for name in PAYLOADS.values() if name.startswith("got")])
def test_a_file_of_the_folder_is_not_imported_even_where_it_is_typed(bnexp, stopped, name):
    for path, each in PAYLOADS.items():
        if each == name:
            planted(stopped.parent / path, stopped.parent / "marker")
    rewritten(stopped / "run.json", '"imports": []', f'"imports": ["{name}"]')
    answer = bnexp("resume", "got", "--imports", name)
    assert answer.code == 2
    assert "whose files are never imported" in answer.err or "no name of a module" in answer.err
    assert not (stopped.parent / "marker").exists()


def test_a_link_to_a_file_of_the_folder_is_that_file_and_within_the_folder_nothing_is_imported(
    bnexp, stopped, monkeypatch
):
    planted(stopped / "payload.py", marker := stopped.parent / "marker")
    (stopped.parent / "linked.py").symlink_to(stopped / "payload.py")
    for name in ("linked", "payload"):
        rewritten(stopped / "run.json", '"imports": []', f'"imports": ["{name}"]')
        answer = bnexp("resume", str(stopped), "--imports", name)
        assert answer.code == 2
        assert "whose files are never imported" in answer.err
        rewritten(stopped / "run.json", f'"imports": ["{name}"]', '"imports": []')
        monkeypatch.chdir(stopped)
    assert not marker.exists()


def test_a_module_that_is_typed_too_is_imported_and_the_refusal_prints_that_command(bnexp, place):
    shutil.copytree(ROOT / "docs" / "extending", place, dirs_exist_ok=True)
    words = ("--config-dir", "configs", "imports=[my_lab]", "norm=peak", *SMALL_RUN, "epochs=1")
    assert bnexp("train", *words, "hydra.run.dir=a run").code == 0
    for words in (["resume", "a run"], ["evaluate", "a run", "--split", "test"]):
        refused = bnexp(*words)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        command = shlex.split(refused.err.partition("if you trust them: ")[2])
        assert command == ["bnexp", *words, "--imports", "my_lab"]
        assert bnexp(*command[1:]).code == 0
    assert bnexp("resume", "a run", "--imports", "my_lab,other").code == 2


def test_a_config_that_was_changed_under_its_hash_is_not_trained(bnexp, stopped, place):
    for path in stopped.glob("checkpoint*"):
        path.unlink()
    rewritten(stopped / "run.json", '"lr": 0.05', '"lr": 0.5')
    answer = bnexp("resume", "got")
    assert answer.code == 2
    assert "its config was changed" in answer.err


def test_a_job_whose_config_is_not_that_of_its_hash_is_not_trained(bnexp, swept):
    rewritten(swept / "sweep.json", '"lr": 0.05', '"lr": 0.5')
    answer = bnexp("resume", "got")
    assert answer.code == 2
    assert "was changed" in answer.err
    assert not (swept / "seed=1").exists()


def test_a_digit_of_a_result_that_was_changed_is_told_by_whoever_reads_it(bnexp, swept):
    path = swept / "seed=0" / "run.json"
    said = json.loads(path.read_text())
    said["final"]["test/accuracy"] += 0.1
    path.write_text(json.dumps(said))
    for words in (["resume", "got/seed=0"], ["evaluate", "got/seed=0"], ["resume", "got"]):
        answer = bnexp(*words)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert "got/seed=0/run.json: changed since it was written; put it back" in answer.err
    shutil.copytree(swept / "seed=0", swept / "older")
    rewritten(swept / "older" / "run.json", "seed=0", "older")  # as of a version without digests
    found = json.loads(bnexp("compare", "got", "--format", "json").out)
    assert "Folders skipped: 1 (1 x run.json: changed since it was written" in " ".join(found["notes"])
    assert [list(arm["values"].values()) for arm in found["arms"]] == [[pytest.approx(said["final"]["test/accuracy"])]]


def test_a_digit_of_a_plan_that_was_changed_is_told(bnexp, swept):
    path = swept / "sweep.json"
    path.write_text(path.read_text().replace('"tries": 1', '"tries": 2', 1))
    answer = bnexp("resume", "got")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "sweep.json: cannot be read (changed since it was written; put it back" in answer.err


def test_the_digest_is_that_of_the_documented_form_and_does_not_depend_on_the_layout(bnexp, swept):
    for path in (swept / "sweep.json", swept / "seed=0" / "run.json"):
        said = json.loads(path.read_text())
        rest = {key: value for key, value in said.items() if key != "digest"}
        canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        assert said["digest"] == hashlib.sha256(canonical.encode()).hexdigest()
        path.write_text(json.dumps(said, sort_keys=True, indent=4))
    assert bnexp("resume", "got").code == 0
