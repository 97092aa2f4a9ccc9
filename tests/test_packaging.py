"""The wheel holds the configs and works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, SMALL_RUN

import bnexp

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="uv, which builds the wheel, is not on the path")


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_trains_from_any_folder(tmp_path):
    run("uv", "build", "--wheel", "--out-dir", str(tmp_path / "dist"), str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"bnexp/configs/train.yaml", "bnexp/benchmarks/norms.json"} <= set(names)
    assert {"bnexp/data/digits.csv.gz", "bnexp/data/digits.md"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "outputs/", "configs/"))]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (about,) = (tmp_path / "site").glob("*.dist-info/METADATA")
    said = about.read_text(encoding="utf-8").splitlines()
    assert {"License-Expression: MIT", "License-File: LICENSE", "Author: the bnexp developers"} <= set(said)
    (tmp_path / "elsewhere").mkdir()
    program = "import bnexp, sys; from bnexp.cli.main import main; print(bnexp.__file__); sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ["PYTHONPATH"]])}
    words = ("train", *SMALL_RUN)
    out = run(sys.executable, "-c", program, *words, cwd=tmp_path / "elsewhere", env=environment)
    assert out.startswith(str(tmp_path / "site"))
    assert "finished: test accuracy" in out
    assert list((tmp_path / "elsewhere" / "outputs").rglob("run.json"))


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {bnexp.__version__}" in lines
    assert "license: MIT" in lines
