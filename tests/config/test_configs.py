"""Every yaml composes, binds to its builder and says what it is; and the guide names every group's choices."""

from __future__ import annotations

import pytest
from conftest import ROOT, composed
from omegaconf import OmegaConf

from bnexp.config import compose
from bnexp.config.schema import ACTIVATIONS, from_dict, to_dict
from bnexp.config.shipped import configs_folder
from bnexp.data import DATA
from bnexp.evaluations import EVALUATIONS
from bnexp.experiment.choices import MODELS, NORMS, OPTIMS, SCHEDULES, bind
from bnexp.models import ACTIVATIONS as ACTIVATION_LAYERS
from bnexp.models.affine import AFFINES
from bnexp.models.init import INITS
from bnexp.probes import PROBES

REGISTRIES = {
    **{"model": MODELS, "norm": NORMS, "affine": AFFINES, "init": INITS, "data": DATA},
    **{"optim": OPTIMS, "schedule": SCHEDULES, "probes": PROBES, "evaluations": EVALUATIONS},
}
# A claim is no choice of a run; tests/test_claims.py composes them all.
YAMLS = [path for path in configs_folder().glob("*/*.yaml") if path.parent.name not in ("hydra", "claim")]
CHOICES = sorted((path.parent.name, path.stem) for path in YAMLS)


def chosen(*overrides: str):
    return compose.plain(composed(*overrides))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_binds_and_survives_json(group, name):
    config = chosen(f"{group}={name}")
    bound = bind(config)
    assert from_dict(to_dict(config)) == config
    if group in ("model", "norm", "init", "optim", "schedule"):
        assert getattr(bound, group).name == name


@pytest.mark.parametrize("group", REGISTRIES)
def test_each_builder_has_a_yaml_and_each_yaml_a_builder(group):
    assert {name for folder, name in CHOICES if folder == group} == set(REGISTRIES[group])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_yaml_says_what_it_is(group, name):
    lines = (configs_folder() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("# ") and len(line) > 12 for line in lines if not line.startswith("# @"))


def test_the_names_of_activations_are_those_of_the_layers():
    assert set(ACTIVATIONS) == set(ACTIVATION_LAYERS)


def test_a_preset_gives_way_to_the_command_line():
    config = chosen("experiment=d2l_lenet", "norm=none", "optim.lr=0.9")
    assert (config.norm["name"], config.optim["lr"], config.activation) == ("none", 0.9, "sigmoid")


@pytest.mark.parametrize("words", [("experiment=cifar10_fast",), ("norm=zca", "tags=[a,b]", "notes='a: b #c é'")])
def test_the_yaml_in_a_runs_folder_is_that_of_its_whole_config(words):
    config = to_dict(chosen(*words))
    for seed in (0, 1):
        written = compose.notes(config | {"seed": seed}, words)[".hydra/config.yaml"]
        assert written == OmegaConf.to_yaml(OmegaConf.create(config | {"seed": seed}))


def test_no_yaml_names_python_code():
    for path in configs_folder().rglob("*.yaml"):
        keys = str(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
        assert "_target_" not in keys, path


def test_the_guide_names_every_choice():
    guide = (ROOT / "docs" / "guide" / "choices.md").read_text(encoding="utf-8")
    missing = [f"{group}={name}" for group, name in CHOICES if f"`{name}`" not in guide]
    assert not missing
