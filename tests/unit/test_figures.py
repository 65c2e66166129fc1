import pytest
from matplotlib.figure import Figure

from prm.figures import (
    DARK_GREY,
    GREY,
    MAX_NAME,
    PAGE_WIDTH,
    PALETTE,
    curve_look,
    figure_paths,
    legend_below,
    legend_label,
    log_scale,
    new_figure,
    page_figure,
    short_names,
)


def draw(path_stem):
    with page_figure(path_stem, 2, 2) as figure:
        axes = figure.subplots(1, 2)
        for axis in axes:
            for index in range(15):
                axis.plot([1, 2], [3, 4 + index], label=f"organisation/{'x' * index}", **curve_look(index))
        legend_below(figure, axes, "title")


def test_png_and_svg_are_written_beside_each_other_and_a_dot_in_the_name_is_no_suffix(tmp_path):
    draw(tmp_path / "new" / "asym-0.1")
    assert [path.name for path in figure_paths(tmp_path / "new" / "asym-0.1")] == ["asym-0.1.png", "asym-0.1.svg"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"asym-0.1.png", "asym-0.1.svg"}


def test_the_same_drawing_gives_the_same_bytes(tmp_path):
    draw(tmp_path / "a")
    draw(tmp_path / "b")
    for a, b in zip(figure_paths(tmp_path / "a"), figure_paths(tmp_path / "b"), strict=True):
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("name", ["x$", "$\\frac$", "a_b^c", "$x^$", "_asym", "C:\\prm"])
def test_names_are_no_formulas_and_none_is_missing_from_a_legend(tmp_path, name):
    with new_figure(tmp_path / "a", 3, 2) as figure:
        axis = figure.subplots()
        axis.plot([1, 2], [3, 4], label=legend_label(name))
        axis.set_title(f"{name} of the step scores")
        axis.legend(title=name)
    text = figure_paths(tmp_path / "a")[1].read_text()
    assert f">{legend_label(name)}<" in text
    assert f">{name} of the step scores<" in text
    assert f">{name}<" in text


def test_nothing_is_written_if_drawing_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), new_figure(tmp_path / "a", 3, 2):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_curves_look_different_beyond_the_colors():
    looks = [(look["color"], look["linestyle"]) for look in map(curve_look, range(21))]
    assert len(set(looks)) == 21
    assert {line for _, line in looks[: len(PALETTE)]} == {"-"}
    assert len({(look["color"], look["marker"]) for look in map(curve_look, range(21))}) == 21


@pytest.mark.parametrize("grey", [GREY, DARK_GREY])
def test_greys_stand_out_from_paper(grey):
    value = int(grey[1:3], 16) / 255
    assert 1.05 / (((value + 0.055) / 1.055) ** 2.4 + 0.05) > 3


def test_long_names_lose_their_middle_but_not_what_tells_them_apart():
    assert short_names(["qwen_prm", "x" * MAX_NAME]) == ["qwen_prm", "x" * MAX_NAME]
    assert short_names(["outputs/very/long/path/asymmetric_loss_lr_1e-5", "b"], 20) == ["outputs/ve…s_lr_1e-5", "b"]
    alike = [f"{'a' * 100}/seed_{seed}/{'b' * 60}" for seed in range(3)]
    assert len(set(short_names(alike))) == 3
    assert max(map(len, short_names(alike))) < len(alike[0])


@pytest.mark.parametrize(
    ("labels", "num_columns"),
    [(["a", "b"], 2), ([f"model {i}" for i in range(9)], 4), ([f"{i}{'w' * 40}" for i in range(3)], 1), (["W" * 41 + "x"], 1)],
)
def test_a_legend_stands_under_the_panels_and_within_the_page(tmp_path, labels, num_columns):
    with page_figure(tmp_path / "a", 3, 2) as figure:
        axes = figure.subplots(1, 3)
        for axis in axes:
            for label in labels:
                axis.plot([1, 2], [3, 4], label=label)
            axis.set_xlabel("x")
        legend_below(figure, axes)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert (len(legend.get_texts()), legend._ncols) == (len(labels), num_columns)
    assert figure.get_figwidth() == PAGE_WIDTH
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 <= min(axis.get_tightbbox().y0 for axis in axes)


def test_names_that_differ_only_in_their_middle_widen_the_page(tmp_path):
    with page_figure(tmp_path / "a", 3, 2) as figure:
        axis = figure.subplots()
        for seed in range(2):
            axis.plot([1, 2], [3, 4], label=f"{'w' * 60}{seed}{'w' * 60}")
        legend_below(figure, [axis])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert -1 < box.x0 < box.x1 < figure.bbox.x1 + 1
    assert figure.get_figwidth() > PAGE_WIDTH


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 4, 8, 16], [1, 2, 4, 8, 16]),
        ([2**k for k in range(9)], [1, 4, 16, 64, 256]),
        ([1, 2, 4, 8, 16, 17], [1, 2, 4, 8, 17]),
        ([64, 100, 1, 2, 4, 8, 16, 32], [2, 8, 32, 100]),
        ([8], [8]),
    ],
)
def test_ticks_of_a_logarithmic_axis_have_room(tmp_path, values, ticks):
    with new_figure(tmp_path / "a", 3, 2) as figure:
        axis = figure.subplots()
        axis.plot(values, values)
        log_scale(axis, values)
    assert sorted(axis.get_xticks()) == ticks
    assert [label.get_text() for label in axis.get_xticklabels()] == list(map(str, reversed(ticks)))


def test_a_figure_that_fails_to_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    with new_figure(tmp_path / "a", 3, 2):
        pass
    before = {path: path.read_bytes() for path in figure_paths(tmp_path / "a")}
    save = Figure.savefig

    def fail(figure, path, format, **options):
        save(figure, path, format=format, **options)
        if format == "svg":
            raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"), new_figure(tmp_path / "a", 5, 2):
        pass
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
