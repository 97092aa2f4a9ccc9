"""What figures show: quantities over depth, single evaluations, many norms."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure
from test_compare import sweep, write_run

from bnexp.compare import depth, figures
from bnexp.compare.comparison import compare
from bnexp.compare.drawing import Picture, drawing, save

# Layer -> gradient at the first, at a later, and at the last step.
GRADIENTS = {"hidden1": (1e-6, 5.0, 2e-6), "hidden2": (1e-3, 5.0, 4e-3), "head": (1.0, 5.0, 3.0)}


def probed(folder, factor=1.0, **options):
    """A run with a probe of three layers, and one whose parts are no layers."""
    rows = [
        (step, f"probe/gradients/norm/{layer}", values[place] * factor)
        for place, step in enumerate((1, 5, 9))
        for layer, values in GRADIENTS.items()
    ]
    rows += [(9, f"probe/eval_mismatch/accuracy/{kind}", 0.9) for kind in ("running", "precise")]
    rows += [(9, "probe/gradients/slope", 0.1), (9, "probe/ics/l2/hidden2", 0.1), (9, "test/accuracy", 0.9)]
    final = {tag: value for _, tag, value in rows}
    write_run(folder, final=final, **options)
    lines = "".join(f"{step},0.5,{tag},{value}\n" for step, tag, value in rows)
    (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n{lines}")


def pictures(runs):
    return {picture.name: picture.figure for picture in figures.pictures(compare([str(runs)]))}


def test_a_probe_with_layers_is_drawn_over_depth(tmp_path):
    for seed, factor in enumerate((1.0, 3.0)):
        probed(tmp_path / f"bn{seed}", factor, seed=seed, norm="bn")
    write_run(tmp_path / "none", norm="none")
    drawn = pictures(tmp_path)
    assert sorted(drawn) == ["curves", "depth_gradients", "dots"]
    (axes,) = drawn["depth_gradients"].axes
    last, first = (line for line in axes.get_lines() if len(line.get_xdata()))
    assert list(last.get_xdata()) == [1, 2, 3]
    assert list(last.get_ydata()) == pytest.approx([4e-6, 8e-3, 6.0])  # means over the seeds
    assert list(first.get_ydata()) == pytest.approx([2e-6, 2e-3, 2.0])
    assert first.get_alpha() < 0.5
    assert (axes.get_yscale(), axes.get_title("left")) == ("log", "gradient of the weights")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels
    assert not any("$" in label for label in labels)
    (legend,) = drawn["depth_gradients"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["bn"]


def test_quantities_over_depth_have_the_interval_of_their_seeds(tmp_path):
    factors = (1.0, 3.0, 2.0, 5.0)
    for seed, factor in enumerate(factors):
        probed(tmp_path / f"bn{seed}", factor, seed=seed)
    figure = pictures(tmp_path)["depth_gradients"]
    (band,) = figure.axes[0].collections
    x, y = band.get_paths()[0].vertices.T
    expected = scipy.stats.ttest_1samp([3.0 * factor for factor in factors], 0).confidence_interval()
    assert (y[x == 3].min(), y[x == 3].max()) == pytest.approx(tuple(expected))
    assert figure.legends[0].get_title().get_text().startswith("at the last step, mean with 95 % interval; faint")


def test_curves_say_that_diverged_runs_and_arms_without_others_are_not_in_them(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"bn{seed}", seed=seed, lr=0.1, status=("finished", "diverged")[seed])
        write_run(tmp_path / f"none{seed}", seed=seed, lr=3.0, status="diverged")
    (found, *_) = figures.pictures(compare([str(tmp_path)]))
    assert found.figure.axes[0].get_title("left") == "one seed an arm; 1 arm without a curve"
    write_run(tmp_path / "more", seed=2, lr=0.1)
    (found, *_) = figures.pictures(compare([str(tmp_path)]))
    assert found.figure.axes[0].get_title("left").startswith("mean of finished runs with 95 % interval")


def test_numbers_far_apart_have_logarithmic_axes_and_digits_of_their_own(tmp_path):
    for index, (norm, lr, loss) in enumerate(
        [("bn", 0.1, 0.02), ("bn", 1.0, 7000.0), ("gn", 0.1, 0.4), ("gn", 1.0, 3.0)]
    ):
        folder = tmp_path / f"{index}"
        write_run(folder, norm=norm, lr=lr, final={"test/loss": loss})
        (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n9,1.0,test/loss,{loss}\n")
    drawn = {picture.name: picture.figure for picture in figures.pictures(compare([str(tmp_path)], metric="test/loss"))}
    assert (drawn["curves"].axes[0].get_yscale(), drawn["dots"].axes[0].get_xscale()) == ("log", "log")
    assert {text.get_text() for text in drawn["heat_map"].axes[0].texts} == {"0.02", "7000", "0.4", "3"}
    assert len({patch.get_facecolor() for patch in drawn["heat_map"].axes[0].patches}) == 4


def test_the_curve_of_a_layer_names_it(tmp_path):
    probed(tmp_path / "bn")
    (found, *_) = figures.pictures(compare([str(tmp_path)], metric="probe/gradients/norm/hidden2"))
    assert found.figure.get_suptitle() == "Gradient of the weights, hidden2 over training"


def test_a_layer_without_a_finite_value_leaves_its_place_empty(tmp_path):
    for norm, middle in (("bn", "2.0"), ("none", "inf")):
        final = {f"probe/gradients/norm/l{layer}": 1.0 for layer in "123"} | {"test/accuracy": 0.9}
        write_run(tmp_path / norm, norm=norm, final=final)
        values = {"l1": "1.0", "l2": middle, "l3": "3.0"}
        rows = [f"9,0.5,probe/gradients/norm/{layer},{value}" for layer, value in values.items()]
        (tmp_path / norm / "metrics.csv").write_text(
            "\n".join(["step,epoch,metric,value", *rows, "9,0.5,test/accuracy,0.9", ""])
        )
    axes = pictures(tmp_path)["depth_gradients"].axes[0]
    assert {tuple(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata())} == {(1, 2, 3), (1, 3)}


def test_the_mean_of_an_arm_that_pools_has_points_where_all_its_runs_have(tmp_path):
    """Runs of 10 steps and of 20: a mean over those that are still there would jump at step 11."""
    for steps, value in ((10, 0.5), (20, 0.9)):
        folder = tmp_path / f"{steps}"
        write_run(folder, settings={"steps": steps}, final={"test/accuracy": value})
        rows = "".join(f"{step},{step / 10},test/accuracy,{value}\n" for step in range(5, steps + 1, 5))
        (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    found = figures.pictures(compare([str(tmp_path)], by=["norm"]))[0].figure
    (line,) = (line for line in found.axes[0].get_lines() if len(line.get_xdata()))
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([5, 10], pytest.approx([0.7, 0.7]))


def test_runs_with_other_batches_are_drawn_over_epochs(tmp_path):
    for size, steps in ((32, 100), (64, 50)):
        folder = tmp_path / f"{size}"
        write_run(folder, settings={"batch_size": size}, final={"test/accuracy": 0.9})
        rows = "".join(f"{steps * epoch},{epoch}.0,test/accuracy,0.{7 + epoch}\n" for epoch in (1, 2))
        (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    axes = pictures(tmp_path)["curves"].axes[0]
    assert axes.get_xlabel() == "epoch"
    assert [list(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata())] == [[1.0, 2.0]] * 2
    (axes,) = pictures(tmp_path / "64")["curves"].axes
    assert (axes.get_xlabel(), list(axes.get_lines()[0].get_xdata())) == ("step", [50, 100])


def test_names_in_figures_say_what_was_chosen(tmp_path):
    for norm, rates in {"bn": {0.1: 0.8, 0.3: 0.9}, "gn": {0.1: 0.9, 0.3: 0.8}}.items():
        for lr, value in rates.items():
            write_run(
                tmp_path / f"{norm}{lr}",
                norm=norm,
                lr=lr,
                final=dict.fromkeys(("validation/accuracy", "test/accuracy"), value),
            )
    drawn = {picture.name: picture.figure for picture in figures.pictures(compare([str(tmp_path)], best="optim.lr"))}
    assert [text.get_text() for text in drawn["dots"].axes[0].get_yticklabels()] == ["bn, lr=0.3", "gn, lr=0.1"]
    both = compare([str(tmp_path)], best="optim.lr,norm.eps")
    drawn = {picture.name: picture.figure for picture in figures.pictures(both)}
    assert drawn["dots"].axes[0].get_yticklabels()[0].get_text() == "bn, optim.lr=0.3,norm.eps=1e-05"


def test_two_layers_have_a_depth_and_one_has_none(tmp_path):
    final = {"probe/gradients/norm/hidden1": 1.0, "probe/gradients/norm/head": 2.0, "probe/ics/l2/head": 3.0}
    final["test/accuracy"] = 0.9
    write_run(tmp_path / "bn", final=final)
    rows = [f"{step},0.5,{tag},{value}" for step in (1, 9) for tag, value in final.items()]
    (tmp_path / "bn" / "metrics.csv").write_text("\n".join(["step,epoch,metric,value", *rows, ""]))
    assert sorted(pictures(tmp_path)) == ["curves", "depth_gradients", "dots"]


@pytest.mark.parametrize(("seeds", "drawn", "said"), [(3, False, " from 4 seeds on"), (4, True, "")])
def test_few_seeds_have_no_interval_in_any_figure(tmp_path, seeds, drawn, said):
    sweep(tmp_path, {"bn": [0.9, 0.8, 0.95, 0.85][:seeds]})
    found = {picture.name: picture for picture in figures.pictures(compare([str(tmp_path)]))}
    (band,) = found["curves"].figure.axes[0].collections
    x, y = band.get_paths()[0].vertices.T
    assert (np.ptp(y[x == x.max()]) > 0.1) == drawn
    bar = found["dots"].figure.axes[0].get_lines()[0]
    assert (bar.get_xdata()[1] > bar.get_xdata()[0]) == drawn
    for name in ("curves", "dots"):
        assert f"mean with 95 % interval{said}" in found[name].caption
        assert f"mean with 95 % interval{said}" in found[name].figure.axes[0].get_title("left")


def test_labels_of_many_letters_are_slanted_and_titles_of_panels_broken(tmp_path, monkeypatch):
    for place, lr in enumerate((0.00111445, 0.00119169, 0.0014505, 0.00191284, 0.0156171)):
        write_run(tmp_path / str(place), lr=lr, norm=("bn", "gn")[place % 2])
    (axes,) = pictures(tmp_path)["heat_map"].axes
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {40}
    monkeypatch.setattr(depth, "title", lambda tag: "ten words " * 8)
    probed(tmp_path / "one" / "bn")
    (axes,) = pictures(tmp_path / "one")["depth_gradients"].axes
    assert [len(text) for text in axes.get_title("left").splitlines()] == [63, 15]


def test_a_single_evaluation_is_drawn_as_a_point(tmp_path):
    (write_run(tmp_path / "bn") / "metrics.csv").write_text("step,epoch,metric,value\n9,1,test/accuracy,0.9\n")
    (axes,) = pictures(tmp_path)["curves"].axes
    (line,) = axes.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) == ([9], [0.9], "o")


def test_the_ninth_norm_has_a_marker_also_on_a_long_line(tmp_path):
    steps = "".join(f"{step},1,test/accuracy,0.9\n" for step in range(100))
    for norm in ("bn", "cosine"):
        (write_run(tmp_path / norm, norm=norm) / "metrics.csv").write_text(f"step,epoch,metric,value\n{steps}")
    (axes,) = pictures(tmp_path)["curves"].axes
    solid, dashed = axes.get_lines()
    assert (solid.get_marker(), dashed.get_marker(), dashed.get_linestyle()) == ("", "s", "--")
    assert len(range(0, 100, dashed.get_markevery())) <= 13


def test_axes_and_titles_are_in_words(tmp_path):
    write_run(tmp_path / "bn", norm="bn")
    write_run(tmp_path / "ln", norm="ln")
    drawn = pictures(tmp_path)
    titles = {name: (figure.get_suptitle(), figure.axes[0].get_ylabel()) for name, figure in drawn.items()}
    assert titles == {
        "curves": ("Test accuracy over training", "test accuracy"),
        "dots": ("Test accuracy at the last step", "norm"),
    }


def test_no_letter_is_cut_off_beside_long_names(tmp_path):
    for lr in (0.1, 0.3):
        for norm in ("weight_standardization", "centered_cosine"):
            write_run(tmp_path / f"{norm}{lr}", norm=norm, lr=lr)
    for name, figure in pictures(tmp_path).items():
        width, height = figure.canvas.get_width_height()
        with drawing():
            box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert (box.x0 > -1, box.y0 > -1, box.x1 < width + 1, box.y1 < height + 1) == (True,) * 4, (name, box)


def test_two_drawings_that_differ_in_the_last_bits_are_one_text(tmp_path):
    texts = set()
    for shift in (0.0, 1e-15):
        with drawing():
            figure = Figure()
            for bottom in (0.1, 0.6):
                figure.add_axes((0.1 + shift, bottom, 0.8, 0.3)).plot([0, 1], [0, 1])
        save(Picture("two", "", figure), tmp_path)
        texts.add((tmp_path / "two.svg").read_text())
    (text,) = texts
    assert sorted(set(re.findall(r"url\(#(\w+)\)", text))) == ["area0", "area1"]
    assert all(f'<clipPath id="area{number}">' in text for number in (0, 1))
