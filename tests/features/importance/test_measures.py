"""What is measured of kept tokens, against counts written out and against tokens drawn at random."""

import math
from itertools import permutations

import numpy as np
import pytest

from fpt_ray.features.importance.flips import mirrored_tokens
from fpt_ray.features.importance.measures import (
    beside_kept,
    chance_of_touching,
    kept_of,
    shared_by_heads,
    shared_by_images,
    touched,
)

TOKENS = 17  # a class token and 4 x 4 patches


def drawn(images=5, heads=3, number=6, tokens=TOKENS, seed=0):
    random = np.random.default_rng(seed)
    return np.stack([[random.permutation(tokens)[:number] for _ in range(heads)] for _ in range(images)])


def test_shares_are_those_counted_pair_by_pair():
    tokens = drawn()
    kept = kept_of(tokens, TOKENS)
    assert all(set(np.flatnonzero(kept[i, h])) == set(tokens[i, h]) for i in range(5) for h in range(3))
    heads = [len({*image[one]} & {*image[other]}) / 6 for image in tokens for one, other in permutations(range(3), 2)]
    assert shared_by_heads(kept) == pytest.approx(np.mean(heads))
    images = [
        len({*tokens[one, head]} & {*tokens[other, head]}) / 6
        for head in range(3)
        for one, other in permutations(range(5), 2)
    ]
    assert shared_by_images(kept.sum(axis=0), 5, 6) == pytest.approx(np.mean(images))
    beside = possible = 0
    for image in tokens:
        for head in image:
            for token in head[head > 0]:
                y, x = divmod(int(token) - 1, 4)
                near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                near = [1 + 4 * y + x for y, x in near if 0 <= y < 4 and 0 <= x < 4]
                possible += len(near)
                beside += len({*near} & {*head})
    assert beside_kept(kept, 1) == (beside, possible)


def test_at_random_they_are_what_chance_is_said_to_be():
    tokens = drawn(images=400, heads=6, number=20, tokens=101, seed=1)
    kept = kept_of(tokens, 101)
    assert shared_by_heads(kept) == pytest.approx(20 / 101, abs=0.005)
    assert shared_by_images(kept.sum(axis=0), 400, 20) == pytest.approx(20 / 101, abs=0.005)
    beside, possible = beside_kept(kept, 1)
    assert beside / possible == pytest.approx(19 / 100, abs=0.005)
    patches = np.array([7, 8, 17, 18])
    share = np.mean([touched(image, patches) for image in kept])
    assert share == pytest.approx(chance_of_touching(101, 20, 4), abs=0.02)


def test_chance_is_counted_exactly():
    """Of 6 pairs of 4 tokens, 5 hold one of 2 patches; of all tokens, none is left out."""
    assert chance_of_touching(4, 2, 2) == pytest.approx(5 / 6)
    assert chance_of_touching(4, 4, 1) == 1
    assert chance_of_touching(785, 39, 1) == pytest.approx(39 / 785)


def test_one_head_or_one_image_shares_with_none():
    kept = kept_of(drawn(images=1, heads=1), TOKENS)
    assert math.isnan(shared_by_heads(kept))
    assert math.isnan(shared_by_images(kept.sum(axis=0), 1, 6))


def test_a_mirror_image_has_its_tokens_at_the_other_side():
    assert mirrored_tokens(11, 2).tolist() == [0, 1, 4, 3, 2, 7, 6, 5, 10, 9, 8]
