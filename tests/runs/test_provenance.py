"""The commit of the code is in run.json, where the code runs from a checkout."""

from __future__ import annotations

import subprocess

import pytest
from conftest import ROOT

from bnexp.runs.provenance import code


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these tests run from a copy without .git")
def test_the_commit_is_that_of_the_checkout():
    asked = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() in code().values()
