"""The table of mutations against the tree and the page as they are now; ``python -m tests.mutations`` tries them."""

from pathlib import Path

import pytest

from tests.mutation_table import MUTATIONS, Mutation
from tests.mutations import markdown, mutated

ROOT = Path(__file__).parents[1]


def test_every_line_stands_once_in_its_file_and_is_still_python_when_it_is_wrong():
    assert len(MUTATIONS) >= 30
    for one in MUTATIONS:
        compile(mutated(one, (ROOT / one.file).read_text()), one.file, "exec")
        assert (ROOT / one.test).exists(), one.test


def test_a_line_that_is_not_there_or_stands_twice_is_refused():
    for source, times in (("", 0), ("x = 1\nx = 1\n", 2)):
        with pytest.raises(ValueError, match=rf"a\.py has the text 'x = 1' {times} times"):
            mutated(Mutation("a.py", "x = 1", "x = 2", "tests/a.py"), source)


def test_the_page_lists_them_all():
    assert (ROOT / "docs" / "mutations.md").read_text() == markdown()
