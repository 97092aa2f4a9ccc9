import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from test_compare import BN, GN, grid, sweep, write_run

from bnexp.cli.compare import main
from bnexp.compare import figures
from bnexp.compare.comparison import compare
from bnexp.compare.statistics import mean_interval
from bnexp.compare.tables import Comparison
from bnexp.runs.arms import group
from bnexp.runs.collect import collect


@pytest.fixture
def runs(tmp_path):
    """Two norms, one of them with a name that would break careless HTML."""
    root = sweep(tmp_path / "runs", {"bn": BN, "gn": GN})
    write_run(root / "odd <&> \"'#?:name", norm="<b>&", seed=0)
    return root


@pytest.fixture
def page(runs, tmp_path, capsys):
    path = tmp_path / "pages" / "page.html"
    main([str(runs), "--baseline", "norm=bn", "--html", str(path)])
    return path


class Reader(HTMLParser):
    """The page's tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for tag, attributes in Reader(text).tags:
        assert tag not in ("link", "img", "iframe", "object"), tag
        assert "src" not in attributes
        href = attributes.get("href", attributes.get("xlink:href", "#"))
        assert href.startswith(("#", "../runs/")), href
    assert not re.search(r"url\((?!#)", text)


def test_every_run_is_linked_to_its_folder(page, runs):
    from urllib.parse import unquote

    links = {attributes["href"] for tag, attributes in Reader(page.read_text()).tags if tag == "a"}
    links = {link for link in links if not link.startswith("#")}
    assert {(page.parent / unquote(link)).resolve() for link in links} == {
        folder.resolve() for folder in runs.iterdir()
    }


def test_names_from_the_runs_are_text_not_markup(page):
    assert "<b>&" not in page.read_text()
    assert "&lt;b&gt;&amp;" in page.read_text()


def test_tables_can_be_sorted_by_every_column_and_scroll_in_their_own_box(page):
    tags = Reader(page.read_text()).tags
    heads = [attributes for tag, attributes in tags if tag == "th"]
    assert heads
    assert all(attributes["aria-sort"] == "none" for attributes in heads)
    assert sum(tag == "button" for tag, _ in tags) == len(heads)
    assert sum(tag == "table" for tag, _ in tags) == sum(attributes.get("class") == "scroll" for _, attributes in tags)


def test_the_figures_are_valid_svg_with_ids_of_their_own_and_the_colours_of_the_page(page):
    text = page.read_text()
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(figures) == 3 - 1  # one swept setting, so no heat map
    for svg in figures:
        ElementTree.fromstring(svg)
        assert "currentColor" in svg
        assert "#0072b2" in svg
        assert not re.search(r"#(1c1c1e|ffffff|000000)", svg)
    ids = [attributes["id"] for _, attributes in Reader(text).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_both_colour_schemes_are_there(page):
    assert "prefers-color-scheme: dark" in page.read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page.read_text()


@pytest.mark.slow
def test_figures_are_written_as_png_svg_and_pdf(tmp_path, capsys):
    fine = [(0.9, 0.9), (0.91, 0.92)]
    results = {(norm, lr): fine for norm in ("bn", "gn") for lr in (0.1, 0.3)} | {("gn", 1.0): [fine[0], "diverged"]}
    main([str(grid(tmp_path / "runs", results)), "--figures", str(tmp_path / "figures")])
    names = [f"{name}.{kind}" for name in ("curves", "dots", "heat_map") for kind in ("pdf", "png", "svg")]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    for path in (tmp_path / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    pages = {path: path.read_bytes() for path in (tmp_path / "figures").glob("*.pdf")}
    assert all(page.startswith(b"%PDF") and b"CreationDate" not in page for page in pages.values())
    main([str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")])
    assert {path: path.read_bytes() for path in pages} == pages
    heat_map = (tmp_path / "figures" / "heat_map.svg").read_text()
    assert "1/2 diverged" in heat_map
    texts = [element.text for element in ElementTree.fromstring(heat_map).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("0.910") == 4
    assert "Test accuracy by norm and optim.lr" in texts


def test_the_axes_of_an_accuracy_end_with_its_values(tmp_path):
    runs, _ = collect([sweep(tmp_path, {"bn": [1.0, 0.99, 1.0, 0.6], "gn": [0.1, 0.0, 0.0, 0.02]})])
    ends = {
        picture.name: picture.figure.axes[0]
        for picture in figures.pictures(Comparison("test/accuracy", arms=group(runs)))
    }
    assert (ends["dots"].get_xlim(), ends["curves"].get_ylim()) == ((0.0, 1.0), (0.0, 1.0))
    runs, _ = collect([sweep(tmp_path / "high", {"bn": [0.9, 0.91, 0.92, 0.93]})])
    low, high = figures.pictures(Comparison("test/accuracy", arms=group(runs)))[1].figure.axes[0].get_xlim()
    assert 0.85 < low < 0.9 < 0.93 < high < 0.97


def test_the_axes_of_a_heat_map_hold_every_cell_whole(tmp_path):
    results = {(norm, lr): [(0.9, 0.9)] for norm in ("bn", "gn") for lr in (0.1, 0.3, 1.0)}
    runs, _ = collect([grid(tmp_path, results)])
    (axes,) = (
        drawn.figure.axes[0]
        for drawn in figures.pictures(Comparison("test/accuracy", arms=group(runs)))
        if drawn.name == "heat_map"
    )
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 2.5), (1.5, -0.5))  # the first row is at the top
    cells = [cell.get_bbox() for cell in axes.patches]
    assert len(cells) == 6
    assert all(-0.5 < cell.x0 < cell.x1 < 2.5 and -0.5 < cell.y0 < cell.y1 < 1.5 for cell in cells)


@pytest.mark.slow
def test_two_calls_write_the_same_bytes(page, runs, tmp_path, capsys):
    first = page.read_bytes()
    main([str(runs), "--baseline", "norm=bn", "--html", str(page), "--figures", str(tmp_path / "a")])
    main([str(runs), "--baseline", "norm=bn", "--figures", str(tmp_path / "b")])
    assert page.read_bytes() == first
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_more_arms_than_can_be_told_apart_and_one_run_alone(tmp_path, capsys):
    for index in range(50):
        write_run(tmp_path / "many" / f"{index:02d}", lr=0.01 * (index + 1), accuracy=0.5 + 0.009 * index)
    main([str(tmp_path / "many"), "--html", str(tmp_path / "many.html")])
    text = (tmp_path / "many.html").read_text()
    assert "; the best 14 of 50 arms." in text
    assert "; the best 40 of 50 arms." in text
    write_run(tmp_path / "one" / "a")
    main([str(tmp_path / "one"), "--html", str(tmp_path / "one.html")])
    assert "<svg" in (tmp_path / "one.html").read_text()


def test_a_page_without_a_single_result(tmp_path, capsys):
    write_run(tmp_path / "a", status="running")
    main([str(tmp_path), "--html", str(tmp_path / "page.html"), "--figures", str(tmp_path / "figures")])
    assert "Left out: 1 interrupted." in (tmp_path / "page.html").read_text()
    assert "<svg" not in (tmp_path / "page.html").read_text()


def test_large_losses_and_equal_values_are_drawn(tmp_path, capsys):
    for seed, loss in enumerate((1e30, 3.0, 3.0, 3.0)):
        write_run(tmp_path / f"{seed}", seed=seed, final={"test/loss": loss})
        metrics = f"step,epoch,metric,value\n1,1,test/loss,{loss}\n2,2,test/loss,inf\n3,3,test/loss,{loss}\n"
        Path(tmp_path / f"{seed}" / "metrics.csv").write_text(metrics)
    main([str(tmp_path), "--metric", "test/loss", "--html", str(tmp_path / "page.html")])
    assert "± 7.96e+29" in (tmp_path / "page.html").read_text()


def test_mean_and_interval_go_to_tensorboard_as_a_run_an_arm(runs, tmp_path, capsys):
    for _ in range(2):  # writing again replaces, and does not add points
        main([str(runs), "--where", "norm=bn", "--by", "norm", "--tensorboard", str(tmp_path / "board")])
    (arm,) = (tmp_path / "board").iterdir()
    read = EventAccumulator(str(arm))
    read.Reload()
    points = {
        part: [(point.step, point.value) for point in read.Scalars(f"test/accuracy/{part}")]
        for part in ("mean", "lower", "upper")
    }
    expected = mean_interval(BN)
    assert points["mean"] == [(5, 0.5), (9, pytest.approx(expected.mean))]
    assert points["lower"][1] == (9, pytest.approx(expected.low))
    assert points["upper"][1] == (9, pytest.approx(expected.high))
    layout = Layout.FromString(read.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    series = {chart.title: chart.margin.series[0] for chart in layout.category[0].chart}
    assert series["test/accuracy"].lower == "test/accuracy/lower"


def test_every_number_of_an_arm_leads_to_its_runs(page):
    tags = Reader(page.read_text()).tags
    targets = {attributes["id"] for tag, attributes in tags if tag == "td" and "id" in attributes}
    links = {
        attributes["href"][1:] for tag, attributes in tags if tag == "a" and attributes["href"].startswith("#arm-")
    }
    assert links == targets
    assert len(targets) == 3


@pytest.mark.parametrize("norms", [["bn", "ln"], [f"norm_number_{number}" for number in range(9)]], ids=len)
@pytest.mark.slow
def test_every_line_of_a_figure_has_its_name(tmp_path, norms):
    for norm in norms:
        write_run(tmp_path / "runs" / norm, norm=norm)
    figures.write(tmp_path, compare([str(tmp_path / "runs")]))
    drawn = ElementTree.parse(tmp_path / "curves.svg").iter("{http://www.w3.org/2000/svg}text")
    assert {element.text for element in drawn} >= set(norms)
