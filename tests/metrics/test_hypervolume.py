"""Hyper-volumes by hand and, of random points, against the cells between their coordinates, counted one by one."""

import itertools

import numpy as np
import pytest

from fpt_ray.metrics.hypervolume import hypervolume, volume_history


def by_cells(gains):
    """The sum over all cells of the grid that the points' coordinates span."""
    edges = [sorted({0.0, *column}) for column in gains.T]
    total = 0.0
    for cell in itertools.product(*(range(1, len(edge)) for edge in edges)):
        corner = np.array([edge[at] for edge, at in zip(edges, cell, strict=True)])
        if (gains >= corner).all(axis=1).any():
            total += np.prod([edge[at] - edge[at - 1] for edge, at in zip(edges, cell, strict=True)])
    return total


def drawn(number, dimensions, seed):
    """Random points, some of them equal, some at the edge of nothing, in steps so that coordinates coincide."""
    chance = np.random.default_rng(seed)
    points = np.round(chance.random((number, dimensions)) * 6) / 6
    return np.vstack([points, points[:2]])


def test_by_hand():
    assert hypervolume(np.array([[2.0, 1.0], [1.0, 3.0], [0.0, 3.0]])) == 2 * 1 + 1 * 2
    cube, slab = [1.0, 1.0, 1.0], [2.0, 0.5, 0.5]
    assert hypervolume(np.array([cube, slab])) == 1 + 0.25
    assert hypervolume(np.array([[0.5], [2.0]])) == 2
    assert hypervolume(np.zeros((0, 3))) == hypervolume(np.zeros((0, 2))) == hypervolume(np.zeros((0, 1))) == 0


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_random_points_span_the_cells_below_them(dimensions, seed):
    points = drawn(9, dimensions, seed)
    assert hypervolume(points) == pytest.approx(by_cells(points))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_history_is_that_of_each_beginning(dimensions):
    points = drawn(40, dimensions, 1)
    wanted = [hypervolume(points[: number + 1]) for number in range(len(points))]
    assert volume_history(points) == pytest.approx(wanted)


def test_with_four_objectives_the_history_is_estimated_to_within_a_percent_of_the_box():
    points = drawn(30, 4, 1) * [1, 10, 0.1, 1]
    wanted = [hypervolume(points[: number + 1]) for number in range(len(points))]
    found = volume_history(points)
    assert found == volume_history(points)
    assert found == sorted(found)
    assert found == pytest.approx(wanted, abs=0.01 * np.prod(points.max(axis=0)))
    assert max(abs(np.array(found) - wanted)) > 0


def test_a_front_of_thousands_takes_the_memory_of_its_points():
    """Cells between coordinates would be 8e9. Points on a sphere are all on the front."""
    points = np.abs(np.random.default_rng(0).normal(size=(2000, 3)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    octant = 4 / 3 * np.pi / 8
    assert hypervolume(points) == pytest.approx(octant, rel=0.1)
    assert hypervolume(points) < octant
