"""Folds of training and validation images, compared with their definition and with each other."""

import dataclasses
import hashlib

import pytest

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.datasets.stratification import write_stratified
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import planned
from fpt_ray.images.splits import imbalance, with_hashed_splits
from fpt_ray.images.table import ImageRow, read_images, write_table
from tests.stores import image_table, make_spec

OF = 4


def row_of(i, split="", patients=0):
    digest = hashlib.sha256(str(i).encode()).hexdigest()
    group = f"patient {i % patients}" if patients else ""
    return ImageRow(path=f"{i:04}.png", label=i // 4 % 2, split=split, sha256=digest, group=group)


def read(folder, rows, fold=None):
    """The table of these rows as Parquet, read with a fold and divided."""
    table = image_table(rows)
    if not table.is_divided:
        (folder / "set.csv").write_text(
            "path,label,group,sha256\n"
            + "".join(f"{row.path},{'ab'[row.label]},{row.group or row.path},{row.sha256}\n" for row in rows)
        )
        uri = f"{folder}/set.csv"
    else:
        uri = f"{folder}/set.parquet"
        write_table(table, uri)
    return with_hashed_splits(read_images(uri, ImagesOptions(folds=OF if fold else None, fold=fold)))


def splits_of(table):
    return {row.path: row.split for row in table.rows()}


@pytest.mark.parametrize("given", [True, False])
def test_each_image_validates_once_and_test_images_never(tmp_path, given):
    names = ("train", "train", "val", "test") if given else ("",)
    rows = [row_of(i, names[i % len(names)]) for i in range(800)]
    before = splits_of(read(tmp_path, rows))
    tables = [read(tmp_path, rows, fold) for fold in range(1, OF + 1)]
    found = [splits_of(table) for table in tables]
    for path, split in before.items():
        assert sorted(one[path] for one in found) == (["test"] * OF if split == "test" else ["train"] * 3 + ["val"])
    sizes = [len(table.of("val")) for table in tables]
    assert sizes == pytest.approx([sum(sizes) / OF] * OF, rel=0.2)
    assert len({table.digest() for table in tables}) == OF
    assert imbalance(tables[1]).split("; ")[0].endswith("(fold 2 of 4)")


def test_a_group_validates_whole(tmp_path):
    for fold in range(1, OF + 1):
        splits = {}
        for row in read(tmp_path, [row_of(i, patients=60) for i in range(600)], fold).rows():
            splits.setdefault(row.group, set()).add(row.split)
        assert sorted({len(found) for found in splits.values()}) == [1]
        assert set.union(*splits.values()) == {"train", "val", "test"}


def test_an_added_image_moves_no_other_and_it_is_by_hand(tmp_path):
    """The number of an image is the first 48 bits of SHA-256 of "0:folds:" and its content hash."""
    few, many = ([row_of(i, "test" if i < 9 else "train") for i in range(n)] for n in (200, 300))
    before, after = (splits_of(read(tmp_path, rows, 3)) for rows in (few, many))
    assert before == {path: split for path, split in after.items() if path in before}
    for row in few[9:]:
        share = int(hashlib.sha256(f"0:folds:{row.sha256}".encode()).hexdigest()[:12], 16) / 16**12
        assert before[row.path] == ("val" if int(OF * share) == 2 else "train")


def test_a_written_fold_is_read_as_it_is_and_may_be_changed(tmp_path):
    rows = [row_of(i) for i in range(200)]
    second, third = (read(tmp_path, rows, fold) for fold in (2, 3))
    write_table(second, f"{tmp_path}/second.parquet")
    again = read_images(f"{tmp_path}/second.parquet")
    assert (again.fold, again.digest()) == ("2 of 4", second.digest())
    changed = with_hashed_splits(read_images(f"{tmp_path}/second.parquet", ImagesOptions(folds=OF, fold=3)))
    assert (changed.fold, splits_of(changed)) == ("3 of 4", splits_of(third))


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (1, 1, "folds is 1; give at least 2"),
        (None, 2, "folds is None; give at least 2 with fold 2"),
        (5, 0, "fold is 0; give one from 1 to 5"),
        (5, 6, "fold is 6; give one from 1 to 5"),
        (5, None, "fold is None; give one from 1 to 5"),
    ],
)
def test_folds_that_are_not_there_are_refused(tmp_path, folds, fold, message):
    write_table(image_table([row_of(i, "test") for i in range(4)]), f"{tmp_path}/set.parquet")
    with pytest.raises(ConfigError, match=message):
        read_images(f"{tmp_path}/set.parquet", ImagesOptions(folds=folds, fold=fold))


def test_test_images_are_given_or_drawn_and_folds_stand_in_no_table_of_text(tmp_path):
    with pytest.raises(ConfigError, match="has no image in test, and folds take none; give some the split test"):
        read(tmp_path, [row_of(i, ("train", "val")[i % 2]) for i in range(40)], 1)
    read(tmp_path, [row_of(i) for i in range(40)])
    with pytest.raises(ConfigError, match="folds: they are not written down"):
        write_stratified(f"{tmp_path}/set.csv", None, 0, ImagesOptions(folds=OF, fold=1))


def test_a_seed_gives_other_splits_and_other_folds_and_none_where_all_are_given(tmp_path):
    rows = [row_of(i) for i in range(400)]
    (tmp_path / "set.csv").write_text(
        "path,label,sha256\n" + "".join(f"{row.path},{'ab'[row.label]},{row.sha256}\n" for row in rows)
    )
    of_seed = {
        (seed, fold): splits_of(
            with_hashed_splits(
                read_images(f"{tmp_path}/set.csv", ImagesOptions(split_seed=seed, folds=fold and OF, fold=fold))
            )
        )
        for seed in (0, 7)
        for fold in (None, 2)
    }
    for path, row in ((row.path, row) for row in rows):
        share = int(hashlib.sha256(f"7:{row.sha256}".encode()).hexdigest()[:12], 16) / 16**12
        assert of_seed[7, None][path] == ("test" if share < 0.2 else "val" if share < 0.3 else "train")
    assert of_seed[7, 2] != of_seed[0, 2]
    write_table(read(tmp_path, rows), f"{tmp_path}/divided.parquet")
    with pytest.raises(ConfigError, match=r"split_seed is 7, and .* has splits already; leave it out"):
        read_images(f"{tmp_path}/divided.parquet", ImagesOptions(split_seed=7))
    with pytest.raises(ConfigError, match="split_seed: it is of a hash; give --seed to divide class by class"):
        write_stratified(f"{tmp_path}/set.csv", None, 0, ImagesOptions(split_seed=7))


def test_which_fold_validates_is_said_wherever_numbers_stand(tmp_path):
    rows = [row_of(i) for i in range(200)]
    tables = [read(tmp_path, rows, fold) for fold in (1, 2)]
    noted = dataclasses.replace(tables[1], note="Not of people.")
    features = [planned("uri", make_spec(), table) for table in (*tables, noted)]
    assert [one.data_note for one in features] == [
        "validated by fold 1 of 4",
        "validated by fold 2 of 4",
        "Not of people; validated by fold 2 of 4",
    ]
    assert [one.fold for one in features] == ["1 of 4", "2 of 4", "2 of 4"]
