import numpy as np

from nfields.export.color_map import colorize


def lightness(colors: np.ndarray) -> np.ndarray:
    linear = (colors / 255.0) ** 2.2
    return np.cbrt(linear @ [0.2126, 0.7152, 0.0722])


def test_magma_gets_lighter_all_the_way_in_even_steps():
    steps = np.diff(lightness(colorize(np.linspace(0, 1, 18), "magma"))[1:])
    assert steps.min() > 0.5 * steps.mean()


def test_turbo_never_repeats_a_colour():
    colors = colorize(np.linspace(0, 1, 65), "turbo").astype(float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1e3 * np.eye(65)
    assert distance.min() > 4


def test_ends_are_those_of_the_published_maps():
    ends = np.array([0.0, 1.0])
    np.testing.assert_array_equal(colorize(ends, "magma"), [[0, 0, 4], [252, 253, 191]])
    np.testing.assert_array_equal(colorize(ends, "turbo"), [[48, 18, 59], [122, 4, 3]])


def test_values_outside_the_range_take_the_end_colours():
    wild = colorize(np.array([[-3.0, np.nan, -np.inf], [1.5, np.inf, 1.0]]), "magma")
    assert wild.shape == (2, 3, 3)
    assert (wild[0] == wild[0, 0]).all() and (wild[1] == wild[1, 2]).all()
