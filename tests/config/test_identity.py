"""Identities that differ in one field each, against the field, both values and the digest."""

import pytest

from fpt_ray.config.identity import difference, digest_of

ONE = {"b": 2, "a": (1, 2), "c": None}


def test_the_order_of_fields_and_a_tuple_for_a_list_are_no_difference():
    same = {"c": None, "a": [1, 2], "b": 2}
    assert difference(ONE, same) is None
    assert digest_of(ONE) == digest_of(same)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**ONE, "b": 3}, "b is 2 there, 3 is asked"),
        ({**ONE, "a": (2, 1)}, "a is [1, 2] there, [2, 1] is asked"),
        ({"b": 2, "a": (1, 2)}, "c is null there, nothing is asked"),
        ({**ONE, "d": None}, "d is nothing there, null is asked"),
    ],
)
def test_the_first_field_that_differs_is_said_with_both_values(other, said):
    assert difference(ONE, other) == said
    assert digest_of(ONE) != digest_of(other)
