"""Splits by hash and stratified ones, compared with their definitions and with themselves after images were added."""

import dataclasses
import hashlib
from collections import Counter

import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.splits import imbalance, split_of, stratified, with_hashed_splits
from fpt_ray.images.table import ImageRow
from tests.stores import image_table


def table_of(number, *, groups=0):
    rows = [
        ImageRow(
            path=f"{i}.png",
            label=i % 2,
            split="",
            sha256=hashlib.sha256(str(i).encode()).hexdigest(),
            group=f"patient {i % groups}" if groups else "",
        )
        for i in range(number)
    ]
    return image_table(rows)


def splits_of(table):
    return {row.path: row.split for row in table.rows()}


def test_an_added_image_moves_no_other():
    before, after = splits_of(with_hashed_splits(table_of(1000))), splits_of(with_hashed_splits(table_of(1300)))
    assert before == {path: split for path, split in after.items() if path in before}
    shares = [Counter(after.values())[split] / 1300 for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_the_split_is_of_seed_and_content_not_of_names():
    table = table_of(200)
    rows = [dataclasses.replace(row, path=f"x/{row.path}", label=1) for row in table.rows()]
    renamed = image_table(rows)
    found = {row.sha256: row.split for row in with_hashed_splits(renamed).rows()}
    assert found == {row.sha256: row.split for row in with_hashed_splits(table).rows()}
    assert found != {
        row.sha256: row.split for row in with_hashed_splits(dataclasses.replace(table, split_seed=1)).rows()
    }


def test_by_hand():
    """SHA-256 of "3:abc" begins with 2ddca0a8..., 0.18 of all, which lies in the first fifth: test."""
    share = int(hashlib.sha256(b"3:abc").hexdigest()[:12], 16) / 16**12
    assert split_of(3, "abc") == ("test" if share < 0.2 else "val" if share < 0.3 else "train")
    assert {split_of(0, str(key)) for key in range(50)} == set(SPLITS)


def test_a_group_stays_together_and_decides_alone():
    table = with_hashed_splits(table_of(300, groups=40))
    splits = {}
    for row in table.rows():
        splits.setdefault(row.group, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == set(SPLITS)


def test_given_splits_stay():
    table = image_table([ImageRow(path="a", label=0, split="val", sha256="ab" * 32)])
    assert with_hashed_splits(table) == table


def test_the_imbalance_is_told():
    rows = [("train", 0)] * 6 + [("train", 1)] + [("val", 0), ("test", 1), ("test", 1)]
    rows = [ImageRow(path=str(i), label=label, split=split) for i, (split, label) in enumerate(rows)]
    told = imbalance(image_table(rows))
    assert told.startswith("70.0% train, 10.0% val, 20.0% test (meant are 70/10/20); most uneven is class 'a': ")
    assert told.endswith("85.7% of train, 100.0% of val, 0.0% of test")


# --- stratified -----------------------------------------------------------------------------------------------


def divided(table, seed):
    """Stratified by groups, or by paths where there are none."""
    return stratified(table, table.paths.dictionary_encode() if table.groups is None else table.groups, seed)


def labelled(counts, group=lambda name, i: ""):
    classes = sorted(counts)
    rows = [
        ImageRow(path=f"{name}/{i:03}.png", label=classes.index(name), split="", group=group(name, i))
        for name, n in counts.items()
        for i in range(n)
    ]
    return image_table(rows, classes)


def test_every_class_is_divided_by_itself():
    counts = {"a": 100, "b": 50, "c": 3, "d": 7}
    sizes = Counter((list(counts)[image.label], image.split) for image in divided(labelled(counts), 0).rows())
    wanted = {"a": (70, 10, 20), "b": (35, 5, 10), "c": (1, 1, 1), "d": (5, 1, 1)}
    assert {name: tuple(sizes[name, split] for split in SPLITS) for name in counts} == wanted
    assert divided(labelled(counts), 0) != divided(labelled(counts), 1)


def test_groups_are_divided_whole():
    images = divided(labelled({"a": 300, "b": 300}, lambda name, i: f"{name}{i % 50}"), 0)
    splits = {}
    for image in images.rows():
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert Counter(image.split for image in images.rows()) == {"train": 420, "val": 60, "test": 120}


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_too_small_to_be_split_is_named(count):
    with pytest.raises(ConfigError, match=f"class 'rare' has {count} images or groups; a split needs at least 3"):
        divided(labelled({"common": 9, "rare": count}), 0)
