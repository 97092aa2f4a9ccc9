from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from conftest import SWITCHES

from bnexp.config import schema
from bnexp.config.schema import (
    ANY,
    LATER_OPTIONS,
    TrainConfig,
    config_hash,
    differences,
    flat,
    from_dict,
    identity,
    role,
    roles,
    shape,
    to_dict,
)


def full() -> dict[str, Any]:
    """A config as a run's folder keeps it."""
    groups = {
        "data": {"name": "mnist", "root": "/data", "validation": 0.1, "size": None, **LATER_OPTIONS["data", ANY]},
        "norm": {"name": "gn", "groups": 8},
        "optim": {"name": "sgd", "lr": 0.1, **SWITCHES},
    }
    return to_dict(TrainConfig(**groups, imports=["my_norms"]))


def changed(key: str, value: Any) -> dict[str, Any]:
    config = full()
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    return config


def test_every_default_is_valid():
    assert TrainConfig().seed == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[
            (name, value)
            for name in ("epochs", "batch_size", "log_every", "threads")
            for value in (0, -1, 1.5, "a", True)
        ],
        *[("eval_batch_size", 0), ("eval_train", 0), ("eval_train", None)],
        *[(name, value) for name in ("steps", "eval_every", "checkpoint_every") for value in (0, 1.5, "a")],
        *[(name, "yes") for name in ("drop_last", "channels_last", "compile", "graph", "deterministic")],
        *[("seed", value) for value in (-1, 2**63, 1.5, None, {})],
        *[(name, 5) for name in ("model", "norm", "init", "data", "optim", "schedule")],
        ("norm", None),
        ("activation", "rellu"),
        ("placement", "behind"),
        ("precision", "fp8"),
        ("device", 0),
        ("imports", "my_norms"),
        ("imports", [1]),
    ],
)
def test_a_bad_value_is_refused_and_the_setting_named(setting, value):
    with pytest.raises(ValueError, match=rf"^{setting}="):
        TrainConfig(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("seed", 2**63 - 1), ("steps", 1), ("steps", None), ("eval_every", None), ("activation", "gelu"), ("imports", [])],
)
def test_values_at_the_ends_of_their_ranges_are_taken(setting, value):
    assert getattr(TrainConfig(**{setting: value}), setting) == value


def test_a_config_survives_json_and_back():
    config = TrainConfig(**full())
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_a_key_of_another_version_is_refused():
    with pytest.raises(ValueError, match=r"^warmth: this version of bnexp has no such setting$"):
        from_dict({"warmth": 3})


def test_a_config_from_a_file_is_checked_like_a_typed_one():
    with pytest.raises(ValueError, match=r"^batch_size=0: out of range"):
        from_dict(full() | {"batch_size": 0})


UNDECIDING = {"data.root", "imports", "checkpoint_keep", "checkpoint_best", "notes", "tags"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("data.root", "/elsewhere"), ("imports", []), ("checkpoint_keep", "none"), ("optim.lr", 0.1)],
        *[("notes", "a try"), ("tags", ["good"])],
    ],
)
def test_where_things_are_and_what_is_said_of_them_does_not_make_another_run(key, value):
    assert config_hash(changed(key, value)) == config_hash(full())
    assert differences(changed(key, value), full()) == []


@pytest.mark.parametrize("key", sorted(set(flat(full())) - UNDECIDING))
def test_every_other_setting_makes_another_run(key):
    other = changed(key, "another")
    assert config_hash(other) != config_hash(full())
    (difference,) = differences(full(), other)
    before = False if key == "graph" else flat(full())[key]
    assert difference == f"{key}: {before} -> another"


def test_auto_is_the_graph_that_there_was_before_it():
    assert full()["graph"] == "auto"
    assert config_hash(changed("graph", False)) == config_hash(full()) != config_hash(changed("graph", True))
    assert differences(full(), changed("graph", False)) == []
    for value in (True, False, "auto"):
        assert TrainConfig(graph=value).graph is value
    with pytest.raises(ValueError, match=r"^graph=yes: expected true or false, or auto$"):
        TrainConfig(graph="yes")


def test_a_setting_more_is_a_difference():
    assert differences(full(), changed("norm.eps", 1e-5)) == ["norm.eps: None -> 1e-05"]
    assert differences(changed("norm.eps", 1e-5), full()) == ["norm.eps: 1e-05 -> None"]


def test_one_and_one_point_zero_are_the_same_number():
    assert config_hash(changed("optim.lr", 1)) == config_hash(changed("optim.lr", 1.0))
    assert config_hash(changed("optim.lr", 1)) != config_hash(changed("optim.lr", 1.5))


def test_neighbouring_large_seeds_are_different_runs():
    assert config_hash(changed("seed", 2**62)) != config_hash(changed("seed", 2**62 + 1))


def test_the_order_of_settings_does_not_matter():
    assert config_hash(dict(reversed(full().items()))) == config_hash(full())


def test_the_hash_is_sha256_of_the_sorted_settings():
    canonical = b'{"optim":{"lr":0.5},"seed":1}'
    expected = hashlib.sha256(canonical).hexdigest()[:16]
    assert config_hash({"seed": 1, "optim": {"lr": 0.5}, "imports": ["a"]}) == expected


def test_taking_the_identity_leaves_the_config_as_it_is():
    config = full()
    assert "root" not in identity(config)["data"]
    assert config == full()


# --- roles ------------------------------------------------------------------------------------------------------------


def test_every_role_belongs_to_a_setting_that_exists():
    known = to_dict(TrainConfig())
    assert {setting.partition(".")[0] for setting in roles()} <= known.keys()


def test_what_a_role_says():
    assert not role("data.root").decides
    assert not role("imports").named
    assert role("seed").stacks
    assert not role("seed").compared
    assert role("optim.lr").stacks
    assert role("optim.lr").compared
    assert role("optim.nesterov") == role("batch_size") == schema.Role()


@pytest.mark.parametrize(("key", "value"), [("seed", 5), ("optim.lr", 0.2), ("tags", ["good"]), ("init.gain", 2.0)])
def test_numbers_and_tags_may_differ_in_a_stack(key, value):
    assert shape(changed(key, value) if key != "init.gain" else full() | {"init": {"gain": value}}) == shape(
        full() if key != "init.gain" else full() | {"init": {"gain": 1.0}}
    )


@pytest.mark.parametrize(("key", "value"), [("norm.groups", 4), ("optim.name", "adam"), ("batch_size", 3)])
def test_what_changes_a_shape_or_a_branch_may_not(key, value):
    assert shape(changed(key, value)) != shape(full())


def test_a_later_option_leaves_older_folders_their_hash(monkeypatch):
    """As if ``norm.bias_groups`` came now, with 1 as the value that all older runs had."""
    old = full()
    before = config_hash(old)
    monkeypatch.setitem(schema.LATER_OPTIONS, ("norm", "gn"), {"bias_groups": 1})
    new = changed("norm.bias_groups", 1)
    assert config_hash(new) == config_hash(old) == before
    assert from_dict(old).norm["bias_groups"] == 1
    assert differences(old, new) == []
    other = changed("norm.bias_groups", 2)
    assert config_hash(other) != before
    assert differences(old, other) == ["norm.bias_groups: 1 -> 2"]
    bn = changed("norm.name", "bn")
    assert "bias_groups" not in from_dict(bn).norm


def test_a_later_setting_leaves_older_folders_their_hash(monkeypatch):
    """``drop_last`` stands for a setting that came later, with its default as the value of older runs."""
    monkeypatch.setattr(schema, "roles", lambda: {"drop_last": schema.Later})
    old = {key: value for key, value in full().items() if key != "drop_last"}
    assert config_hash(old) == config_hash(full()) == config_hash(to_dict(from_dict(old)))
    assert config_hash(changed("drop_last", True)) != config_hash(old)


@pytest.mark.parametrize(
    "group", [{"name": "npz", "path": "x", "validation": 0.1}, {"name": "mine", "validation": 0.1}]
)
def test_options_of_all_data_sources_that_came_later_are_neutral_at_their_default(group):
    """Also of a source that a user registers, and beside options of one source that came later."""
    older = full() | {"data": group}
    read = schema.completed(older)
    later = LATER_OPTIONS["data", ANY] | LATER_OPTIONS.get(("data", group["name"]), {})
    assert len(later) in (4, 5)
    assert read["data"] == group | later
    assert list(read["data"])[: len(group)] == list(group)
    assert config_hash(read) == config_hash(older)
    for option, other in {"order": "sorted", "label_noise": 0.1, "split_seed": "seed", "train_classes": [0]}.items():
        given = older | {"data": group | {option: other}}
        assert config_hash(given) != config_hash(older)
        assert differences(older, given) == [f"data.{option}: {later[option]} -> {other}"]
