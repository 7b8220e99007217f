from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.report import figures
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.figures import histogram_bins, roc_figure, score_histograms, thin_steps
from mlflow_privacy.types import Scores


def _image(png: bytes):
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def _with_scores(result, values, title="RMIA"):
    scores = Scores(np.asarray(values, np.float64))
    roc, metrics = evaluate_scores(scores, result.membership)
    attack = dataclasses.replace(result.attacks[0], scores=scores, roc=roc, metrics=metrics, title=title)
    return dataclasses.replace(result, attacks=(attack,))


@pytest.mark.parametrize("draw", [roc_figure, score_histograms])
def test_figure_is_a_png_of_the_width_that_the_page_halves(result, draw):
    image = _image(draw(result))
    assert image.format == "PNG"
    assert image.width == 1400
    assert 500 < image.height < 1400


def test_figures_of_100000_records_and_4_attacks_stay_under_200_kb():
    large = example_result(n=50_000)
    assert len(roc_figure(large)) < 200_000
    assert len(score_histograms(large)) < 200_000


def test_figures_drawn_in_threads_at_once_are_the_same_as_alone(result):
    alone = roc_figure(result), score_histograms(result)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(draw, result) for draw in (roc_figure, score_histograms) * 2]
        assert [f.result() for f in futures] == list(alone) * 2


def test_figures_leave_pyplot_and_rcparams_alone():
    code = (
        "import sys; from mlflow_privacy.report.example import example_result as e;"
        "from mlflow_privacy.report import figures as f; assert 'matplotlib' not in sys.modules; r = e(n=50);"
        "import matplotlib; before = dict(matplotlib.rcParams); f.roc_figure(r); f.score_histograms(r);"
        "assert dict(matplotlib.rcParams) == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_thinned_curve_draws_the_same_picture(monkeypatch):
    result = example_result(n=20_000)
    # One solid curve: the phase of a dash pattern depends on the length of the path, which thinning shortens.
    result = dataclasses.replace(result, attacks=result.attacks[:1])
    thinned = np.asarray(_image(roc_figure(result)).convert("L"), np.int16)
    monkeypatch.setattr(figures, "thin_steps", lambda cell: np.ones(len(cell), bool))
    full = np.asarray(_image(roc_figure(result)).convert("L"), np.int16)
    assert thinned.shape == full.shape
    differs = np.abs(thinned - full) > 64  # beyond a quarter of full contrast: more than antialiasing
    assert differs.mean() < 0.001
    # The comparison can fail: every 200th vertex is another picture.
    monkeypatch.setattr(figures, "thin_steps", lambda cell: np.arange(len(cell)) % 200 == 0)
    coarse = np.asarray(_image(roc_figure(result)).convert("L"), np.int16)
    assert (np.abs(coarse - full) > 64).mean() > 0.003


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_thinning_keeps_the_first_and_last_vertex_of_every_cell(cells):
    cell = np.sort(np.array(cells))
    kept = np.flatnonzero(thin_steps(cell))
    for c in np.unique(cell):
        inside = np.flatnonzero(cell == c)
        assert {inside[0], inside[-1]} <= set(kept)
        assert len(set(inside) & set(kept)) <= 2


@pytest.mark.parametrize(
    "values",
    [
        lambda r, m: np.zeros(len(m)),
        lambda r, m: m.astype(float),
        lambda r, m: r.standard_cauchy(len(m)) + m,
        lambda r, m: np.where(r.random(len(m)) < 0.01, np.inf, r.normal(size=len(m))),
        lambda r, m: np.where(r.random(len(m)) < 0.95, 1.0, r.random(len(m))),
        lambda r, m: 1e-300 * r.normal(size=len(m)),
        lambda r, m: 1e300 * r.normal(size=len(m)),
    ],
    ids=["constant", "perfect", "heavy", "infinite", "atom", "tiny", "huge"],
)
def test_scores_of_any_shape_can_be_drawn(result, values):
    odd = _with_scores(result, values(np.random.default_rng(0), result.membership))
    assert _image(roc_figure(odd)).width == _image(score_histograms(odd)).width == 1400


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", [r"a$\frac{$b", "$", "x" * 500, "<b>|`", "名前", "a\nb\x00"])
def test_names_from_the_registry_cannot_break_a_figure(result, name):
    hostile = dataclasses.replace(result, model=dataclasses.replace(result.model, name=name))
    hostile = dataclasses.replace(hostile, attacks=(dataclasses.replace(result.attacks[0], title=name),))
    assert _image(roc_figure(hostile)).width == _image(score_histograms(hostile)).width == 1400


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_pool_of_a_few_records_can_be_drawn(n):
    tiny = example_result(n=n)
    assert _image(roc_figure(tiny)).width == _image(score_histograms(tiny)).width == 1400


@settings(max_examples=50)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_histogram_bins_ascend_and_hold_the_median(values):
    values = np.array(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        edges = histogram_bins(values)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    finite = np.clip(values[np.isfinite(values)], -1e300, 1e300)
    if finite.size:
        assert edges[0] <= np.quantile(finite, 0.5, method="lower") <= edges[-1]


def test_colours_are_told_apart_with_any_colour_vision():
    # Simulated dichromacy (Viénot, Brettel and Mollon 1999, https://doi.org/10.1002/(SICI)1520-6378), linear RGB.
    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    linear = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figures.PALETTE[:4]]) ** 2.2
    for matrix in (np.eye(3), protan, deutan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 9 * np.eye(4)
        assert distance.min() > 0.1


def test_a_picture_of_few_colours_keeps_each_of_them():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 4)).astype(np.uint8)
    colours[:, 3] = 255
    pixels = np.repeat(np.repeat(colours[rng.integers(0, 40, (30, 50))], 4, 0), 4, 1)
    np.testing.assert_array_equal(np.asarray(figures._with_palette(pixels).convert("RGB")), pixels[..., :3])
    plain = np.full((20, 30, 4), 255, np.uint8)
    np.testing.assert_array_equal(np.asarray(figures._with_palette(plain).convert("RGB")), plain[..., :3])


def test_a_picture_of_many_colours_stays_within_a_few_levels():
    ramp = np.zeros((64, 256, 4), np.uint8)
    ramp[..., 0], ramp[..., 1], ramp[..., 3] = np.arange(256), np.arange(64)[:, None], 255
    found = np.asarray(figures._with_palette(ramp).convert("RGB")).astype(int)
    assert np.abs(found - ramp[..., :3]).max() <= 16


@pytest.mark.parametrize("low", [5e-5, 1e-3, 0.01, 0.2])
def test_minor_ticks_are_where_and_as_matplotlib_puts_them(low):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = []
    for own in (False, True):
        figure = Figure(figsize=(4, 3), dpi=140)
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(figures._percent)
            if own:
                figures._minor_ticks(axes, axis, low)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()).astype(int)[..., :3])
    assert (pictures[0] < 128).sum() > 1000
    differ = np.abs(pictures[0] - pictures[1]).max(-1) > 64
    assert differ.sum() <= 6  # an end of an axis


def test_a_histogram_with_one_great_bin_has_minor_ticks_inside_its_axis_alone(result, monkeypatch):
    drawn, original = [], figures._minor_ticks

    def kept(axes, axis, low, high=1.0):
        original(axes, axis, low, high)
        drawn.append((axes.lines[-1].get_ydata(), *axes.get_ylim()))

    monkeypatch.setattr(figures, "_minor_ticks", kept)
    attack = result.attacks[0]
    value = np.where(np.arange(len(result.membership)) % 10 < 6, 0.0, attack.scores.value)
    scores = dataclasses.replace(attack.scores, value=value)
    score_histograms(dataclasses.replace(result, attacks=(dataclasses.replace(attack, scores=scores),)))
    ((ticks, low, high),) = drawn
    assert len(ticks) > 10
    assert low <= ticks.min() < ticks.max() <= high < 1


def test_panels_titles_lie_where_matplotlib_would_put_them(result):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = []
    for fixed in (False, True):
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot()
        figures._style(axes, "title") if fixed else axes.set_title("title", loc="left", fontsize=figures._FONT + 0.5)
        axes.grid(True)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        heights.append(axes._left_title.get_window_extent().y0)
    assert heights[0] == pytest.approx(heights[1], abs=0.01)
