"""The yaml of a new claim from its arms and a metric: complete and valid, with placeholders for what is to be said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from bnexp.claims.declaration import TITLES, Claim
from bnexp.config.metrics import larger_is_better, metric_of, require_measured, title

# Small enough for some minutes on two cores.
SETTINGS = (
    *("data=digits", "data.size=null", "model=mlp", "model.depth=3", "model.width=64"),
    *("batch_size=64", "steps=600", "eval_every=100"),
)
# The smallest effect of interest of a proportion.
POINT = 0.01
# Learning rates to begin with, of SGD and of other optimizers; grids grow where the best one is on an edge.
_RATES, _OTHER_RATES = (0.03, 0.1, 0.3, 1), (0.0003, 0.001, 0.003, 0.01)

_YAML = """\
# {id}: say in a few words what is claimed
# Each "say ..." below waits for your words; docs/guide/claims.md explains every key.
sentence: Say what is claimed, as one sentence.
sources:
  - say who claims it, where and when
literature: >
  For: say what speaks for it. Against: say what speaks against it.
confounds: >
  Say what else differs between the arms, and what is held equal.
would_change: >
  Say which result would change the verdict.
answers:
  supported: Say what holds, and under which condition.
  negligible: Say that it makes no difference that matters.
  contradicted: Say that the opposite holds.
  inconclusive: Say what these runs cannot tell.
# What every run has; arms, regimes and profiles override it.
settings:
{settings}
arms:
{arms}
{titles}regimes:
  equal: []
  tuned: {{key: optim.lr, values: [{rates}], metric: {chosen_by}}}
tests:
{tests}
# The primary tests, regime/test: they alone answer the sentence, and all of them must hold.
holds_if: [tuned/{primary}]
profiles:
  quick: {{seeds: 12, minutes: 5}}
figure: {{kind: curves, metric: {metric}}}
"""
# How the placeholders begin.
_SAY = re.compile(r"(?:.*: )?say (?:what|who|which|that|in a few words)\b", re.IGNORECASE)
# Where a metric may choose learning rates, and what does so for metrics that are measured nowhere else.
_TUNED_ON = ("test", "validation", "train_eval")
_USUAL = "validation/accuracy_precise"
_TEST = """\
  {name}:
    says: {says}
    measure: {{metric: {metric}, at: last}}
    contrast: {{{contrast}}}
    claims: {claims}
    threshold: {threshold:g}
"""


def draft(
    name: str,
    arms: Mapping[str, Sequence[str]],
    metric: str,
    settings: Sequence[str],
    threshold: float | None = None,
) -> str:
    """The yaml of a claim: each arm against the first one, at equal learning rates and at each arm's best.

    Args:
        name: the claim's id.
        arms: name -> settings; at least two.
        metric: that is compared at the end of training.
        settings: of every run, such as ``SETTINGS``.
        threshold: the smallest effect of interest, in the metric's unit; None means a point for accuracies.

    Raises:
        ValueError: there are fewer than two arms, or the metric has no smallest effect by itself.
    """
    first, *others = arms
    require_measured(f"--metric={metric}", metric)
    if not others:
        raise ValueError(f"--arms {first}: expected two or more, the first of which the others are compared with")
    if threshold is None and not metric_of(metric).is_proportion:
        raise ValueError(f"--threshold: missing; the smallest difference of {metric} that would matter")
    tests = [_test(other, first, metric, POINT if threshold is None else threshold) for other in others]
    return _YAML.format(
        id=name,
        settings=_lines(f"- {_word(word)}" for word in settings),
        arms=_lines(f"{_word(arm)}: [{', '.join(map(_word, words))}]" for arm, words in arms.items()),
        titles=_titles([arm for arm in arms if arm not in TITLES]),
        rates=", ".join(f"{rate:g}" for rate in (_OTHER_RATES if _has_other_optimizer(settings) else _RATES)),
        tests="".join(tests).rstrip(),
        chosen_by=_chosen_by(metric),
        primary=others[0],
        metric=metric,
    )


def _chosen_by(metric: str) -> str:
    """By what each arm's learning rate is chosen: the metric itself, on validation images where it is of test images.

    What further evaluations measure, and probes, may not be measured there.
    """
    split, _, quantity = metric.rpartition("/")
    plain = quantity.removesuffix("_precise") in ("accuracy", "loss")
    return f"{'validation' if split == 'test' else split}/{quantity}" if plain and split in _TUNED_ON else _USUAL


def require_words(claim: Claim) -> None:
    """Refuse a claim some of whose placeholders still wait for words: they are declared before the first run.

    Raises:
        ValueError: which ones.
    """
    texts = {key: [getattr(claim, key)] for key in ("title", "sentence", "literature", "confounds", "would_change")}
    texts |= {"sources": claim.sources, "answers": [*claim.answers.values()], "titles": [*claim.titles.values()]}
    if waiting := [key for key, some in texts.items() if any(map(_SAY.match, some))]:
        said = f'{", ".join(waiting)}: fill in what "say ..." asks for, before the first run'
        raise ValueError(f"{claim.path or claim.id}: {said}; --smoke and --dry-run work without")


def words_of(text: str) -> list[str]:
    """The words of a list such as ``norm=bn, model.widths=[8,8]``: commas inside brackets and quotes stay."""
    parts = re.findall(r"""(?:[^,\[\]'"]|\[[^\]]*\]|'[^']*'|"[^"]*")+""", text)
    return [part.strip() for part in parts if part.strip()]


def _test(arm: str, first: str, metric: str, threshold: float) -> str:
    more = larger_is_better(metric)
    says = f"the {title(metric)} is {'higher' if more else 'lower'} with {arm} than with {first}"
    contrast = f"{_word(arm)}: 1, {_word(first)}: -1"
    claims = "greater" if more else "less"
    return _TEST.format(
        name=_word(arm), says=_word(says), metric=metric, contrast=contrast, claims=claims, threshold=threshold
    )


def _has_other_optimizer(settings: Sequence[str]) -> bool:
    return any(word.startswith("optim=") and word != "optim=sgd" for word in settings)


def _titles(arms: Sequence[str]) -> str:
    """What readers see in place of names that have no title yet."""
    lines = _lines(f"{_word(arm)}: {_word(f'say what {arm} is')}" for arm in arms)
    return f"titles:\n{lines}\n" if arms else ""


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(f"  {text}" for text in texts)


def _word(text: str) -> str:
    """The text in yaml, with quotes where it needs them."""
    plain = re.fullmatch(r"[A-Za-z][\w.=/@+ -]*", text) and text not in ("true", "false", "null")
    return text if plain else json.dumps(text, ensure_ascii=False)
