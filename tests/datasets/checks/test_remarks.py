"""Remarks on tables that are made so that each is due; a table without fault has none."""

import time

import numpy as np
import pyarrow as pa
import pytest

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checks.pictures import require_intensity
from fpt_ray.datasets.checks.table_remarks import remarks_on
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageTable
from tests.datasets.checks.made import made_findings, made_table

SOUND = [
    (f"{split}/{label}{n}.png", label, split, f"{split}{label}{n}")
    for split in SPLITS
    for label in (0, 1)
    for n in (0, 1)
]


def remarks(table, findings=None, **asked):
    return remarks_on(table, made_findings(table) if findings is None else findings, **asked)


def only(found):
    (one,) = found
    return one


def test_nothing_is_said_of_a_sound_table():
    assert (
        remarks(made_table(SOUND, groups=[path for path, *_ in SOUND]), preparations=[Preparation(resolution=480)])
        == []
    )


# --- contents, labels, groups ---------------------------------------------------------------------------------


def test_an_image_in_several_splits_makes_results_untrue():
    rows = [*SOUND, ("train/x.png", 0, "train", "test00"), ("train/y.png", 0, "train", "test00")]
    one = only(remarks(made_table(rows)))
    assert (one.doubt, one.number) == ("duplicates", 1)
    assert "1 image in several splits (3 files of the same pixels)" in one.text
    assert one.examples == ["train/x.png (train) = train/y.png (train) = test/00.png (test)"]
    assert only(remarks_on(made_table(rows), None)) == one


def test_other_files_of_the_same_pixels_are_one_image():
    table = made_table(SOUND)
    pixels = [str(row).encode().ljust(16) for row in range(len(SOUND))]
    pixels[0] = pixels[-4]
    one = only(remarks(table, made_findings(table, pixels=pixels)))
    assert (one.doubt, one.examples) == ("duplicates", ["train/00.png (train) = test/00.png (test)"])


def test_an_image_that_stands_twice_in_a_split_is_told():
    one = only(remarks(made_table([*SOUND, ("train/x.png", 0, "train", "train00")])))
    assert (one.doubt, one.examples) == (None, ["train/00.png (train) = train/x.png (train)"])


def test_labels_that_contradict_each_other():
    rows = [*SOUND, *((f"train/{n}.png", n > 2, "train", "same") for n in range(4))]
    first, second = remarks(made_table(rows))
    assert (first.doubt, first.number) == ("labels", 1)
    assert first.examples[0].endswith("train/1.png (train, a) = train/3.png (train, b) = 1 more")
    assert second.doubt is None


def test_a_missing_label_contradicts_none():
    nan = float("nan")
    rows = [(str(n), labels, split, split) for split in SPLITS for n, labels in enumerate([(1, nan), (nan, 0), (1, 0)])]
    kind = {"task": "multilabel", "classes": ("edema", "effusion")}
    assert all(one.doubt != "labels" for one in remarks(made_table(rows, **kind)))
    rows[2] = ("2", (0, 0), "train", "train")
    one = only(one for one in remarks(made_table(rows, **kind)) if one.doubt == "labels")
    assert one.examples == ["2 (train, none) = 0 (train, edema)"]


def test_targets_of_one_content_are_equal():
    rows = [("a", 1.5, "train", "x"), ("b", 2.5, "train", "x"), ("c", 1.0, "val", "y"), ("d", 1.0, "test", "z")]
    rows += [("e", 2.0, "val", "v"), ("f", 2.0, "test", "t")]
    first, _ = remarks(made_table(rows, task="regression", classes=("age",)))
    assert (first.doubt, first.examples) == ("labels", ["a (train, 1.5) = b (train, 2.5)"])


def test_a_group_in_several_splits_makes_results_untrue():
    groups = [path for path, *_ in SOUND]
    groups[0] = groups[1] = groups[-1] = "Müller"
    one = only(remarks(made_table(SOUND, groups=groups)))
    assert (one.doubt, one.number) == ("groups", 1)
    assert "1 group in several splits (3 images)" in one.text
    assert one.examples == ["Müller (2 train, 1 test)"]


def test_paths_that_differ_in_case_alone():
    one = only(remarks(made_table([*SOUND, ("Train/00.PNG", 0, "train", "other")])))
    assert (one.doubt, one.examples) == (None, ["train/00.png (train) = Train/00.PNG (train)"])


def test_a_few_unreadable_images_are_told_and_more_make_results_untrue():
    few = made_table(SOUND * 20, skipped=(("x.png", "it is bad"),))
    one = next(one for one in remarks(few) if "cannot be read" in one.text)
    assert (one.doubt, one.examples) == (None, ["x.png: it is bad"])
    many = made_table(SOUND, skipped=(("x.png", "it is bad"),))
    one = only(remarks(many))
    assert one.doubt == "unreadable"
    assert "1 of 13 images cannot be read, more than 1%" in one.text


# --- classes --------------------------------------------------------------------------------------------------


def test_a_class_that_train_lacks_makes_results_untrue():
    rows = [row for row in SOUND if not (row[1] == 1 and row[2] == "train")]
    one = only(remarks(made_table(rows)))
    assert (one.doubt, one.examples) == ("classes", ["b"])


def test_a_class_that_another_split_lacks_is_told():
    more = [(f"{split}/2.png", 2, split, f"{split}2") for split in SPLITS[:2]]
    one = only(remarks(made_table([*SOUND, *more], classes="abc")))
    assert (one.doubt, one.examples) == (None, ["c"])
    assert "test lacks 1 of 3 classes" in one.text


def test_a_split_of_one_class_makes_results_untrue():
    rows = [row for row in SOUND if not (row[1] == 1 and row[2] == "test")]
    one = only(remarks(made_table(rows)))
    assert (one.doubt, one.examples, one.can_be_allowed) == ("classes", ["a"], False)
    assert "test has images of one class alone" in one.text


def test_labels_of_several_count_where_they_are():
    rows = [(path, (label, 1 - label), split, content) for path, label, split, content in SOUND]
    assert remarks(made_table(rows, task="multilabel")) == []
    rows = [
        (path, (label if split != "train" else float("nan"), 1 - label), split, content)
        for path, label, split, content in SOUND
    ]
    assert only(remarks(made_table(rows, task="multilabel"))).examples == ["a"]


@pytest.mark.parametrize("test", [(1.0, 1.0), (0.0, 0.0), (1.0, float("nan"))])
def test_several_labels_of_which_a_split_has_one_kind(test):
    """Every label as in train, but for those of the two kinds of test images; the second label, then both."""
    both = {split: {0: (0, 0), 1: (1, 1)} for split in SPLITS}
    both["test"] = {label: (label, test[label]) for label in (0, 1)}
    rows = [(path, both[split][label], split, content) for path, label, split, content in SOUND]
    one = only(remarks(made_table(rows, task="multilabel")))
    assert (one.doubt, one.examples) == (None, ["b"])
    assert "test has not both images with and images without 1 of 2 classes" in one.text
    both["test"] = {label: (test[label], test[label]) for label in (0, 1)}
    rows = [(path, both[split][label], split, content) for path, label, split, content in SOUND]
    one = only(remarks(made_table(rows, task="multilabel")))
    assert (one.doubt, one.can_be_allowed) == ("classes", False)
    assert "test has no label that some of its images have and others have not" in one.text


@pytest.mark.parametrize("split", ["val", "test"])
def test_numbers_that_are_all_one_in_a_split(split):
    rows = [(path, 2.5 if own == split else n, own, content) for n, (path, _, own, content) in enumerate(SOUND)]
    one = only(remarks(made_table(rows, task="regression", classes=("age",))))
    assert (one.doubt, one.can_be_allowed, one.examples) == ("classes", False, ["2.5"])
    assert f"{split} has one value alone" in one.text
    rows[-1 if split == "test" else 4] = ("other.png", 3.5, split, "x")
    assert remarks(made_table(rows, task="regression", classes=("age",))) == []


def test_one_image_of_each_class():
    rows = [(f"{n}.png", n, SPLITS[n % 3], str(n)) for n in range(9)]
    found = remarks(made_table(rows, classes=list("abcdefghi")))
    assert found[0].doubt == "classes"
    assert found[0].examples == ["b", "c", "e", "f", "h", "i"]
    assert "9 of 9 classes with one image alone" in found[-1].text


def test_names_of_classes_that_differ_in_case_or_spaces():
    one = only(remarks(made_table(SOUND, classes=("Yes", " yes"))))
    assert one.examples == ["'Yes' = ' yes'"]


def test_a_million_rows_of_ten_thousand_classes_are_checked_in_seconds():
    rows = 1_000_000
    generator = np.random.default_rng(0)
    table = ImageTable(
        root="/images",
        task="multiclass",
        classes=tuple(map(str, range(10_000))),
        paths=pa.array([f"{row}.png" for row in range(rows)]),
        labels=np.arange(rows) % 10_000,
        splits=np.repeat(np.array([0, 1, 2], np.int8), [rows - 20_000, 10_000, 10_000]),
        groups=pa.array((np.arange(rows) // 4).astype(str)).dictionary_encode(),
        hashes_=generator.integers(0, 256, (rows, 32), np.uint8),
    )
    began = time.process_time()
    one = only(remarks_on(table, None))
    assert time.process_time() - began < 30
    assert "10,000 classes, of 100 images in the median" in one.text


# --- pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"one_colour": [True] + [False] * 11}, "1 image of one colour"),
        ({"high": [4095.0] * 12, "white": [65535.0] + [255.0] * 11}, "1 image of less than 25% of the values that"),
        ({"bits": [16] + [8] * 11}, "1 image of colours of 16 bits, of which the upper 8 are read"),
        ({"bits": [16] + [8] * 11, "high": [15.0] + [255.0] * 11}, "they use less than 25% of these values"),
        ({"frames": [3] + [1] * 11}, "1 image of several pages"),
        ({"width": [99] + [640] * 11}, "1 image with a side of fewer than the 480 pixels"),
    ],
)
def test_odd_pictures_are_told(columns, text):
    table = made_table(SOUND)
    one = only(remarks(table, made_findings(table, **columns), preparations=[Preparation(resolution=480)]))
    assert text in one.text
    assert (one.doubt, one.examples, one.number) == (None, ["train/00.png"], 1)


def test_few_grey_levels_are_told_where_the_whole_range_is_taken():
    table = made_table(SOUND)
    findings = made_findings(table, high=[4095.0] * 12, white=[65535.0] * 12)
    assert "12 images of less than 25%" in only(remarks(table, findings)).text
    assert not remarks(table, findings, preparations=[Preparation(resolution=48, intensity="percentile")])
    span = made_findings(table, low=[20000.0] * 12, high=[61000.0] * 12, white=[65535.0] * 12)
    assert not remarks(table, span)
    narrow = made_findings(table, low=[50000.0] * 12, high=[60000.0] * 12, white=[65535.0] * 12)
    assert "12 images of less than 25%" in only(remarks(table, narrow)).text


def test_missing_windows_are_an_error_for_all_files_at_once():
    table = made_table(SOUND)
    findings = made_findings(table, window=[True, False, False] + [True] * 9)
    asked = Preparation(resolution=48, intensity="window")
    with pytest.raises(ConfigError, match=r"features\.intensity is window, and 2 images have none .* as train/01\.png"):
        require_intensity(table, findings, [asked])
    require_intensity(table, findings, [Preparation(resolution=48, intensity="window", window=(2, 4)), Preparation()])
    require_intensity(table, made_findings(table), [asked])


@pytest.mark.parametrize(
    ("name", "value", "intensity"), [("window", (40, 400), "window"), ("percentiles", (1, 99), "percentile")]
)
def test_what_no_intensity_uses_is_refused(name, value, intensity):
    table = made_table(SOUND)
    unused, used = (Preparation(resolution=48, intensity=one, **{name: value}) for one in ("full", intensity))
    with pytest.raises(
        ConfigError, match=rf"features\.{name} is .* no say while features\.intensity is full; .*{intensity}"
    ):
        require_intensity(table, made_findings(table), [unused])
    require_intensity(table, made_findings(table), [unused, used])


def test_pictures_that_look_alike_are_told():
    table, close = made_table(SOUND), [0b1111, 0] + [1 << (10 + 5 * row) for row in range(10)]
    close[2:] = [one * 0b11111 for one in close[2:]]
    close[-1] = 0b11111111
    one = only(remarks(table, made_findings(table, perceptual=close)))
    assert one.doubt is None
    assert one.examples == ["train/00.png (train) ~ train/01.png (train) ~ test/11.png (test)"]
    assert "3 images that look like another one" in one.text
    assert "1 of them in several splits" in one.text


def test_pictures_of_one_colour_look_like_nothing():
    table = made_table(SOUND)
    found = remarks(table, made_findings(table, perceptual=[0] * 12, one_colour=[True] * 12))
    assert only(found).number == 12
