"""Composing a config in a test, as the command line does."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from bnexp.cli import configs_folder


def composed(*words: str) -> DictConfig:
    import bnexp.composing  # registers the schema

    assert bnexp.composing
    with hydra.initialize_config_dir(str(configs_folder()), version_base="1.3"):
        return hydra.compose("train", list(words))
