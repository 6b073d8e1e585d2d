"""Which images are predicted, what their labels are, and what the answers are worth by these."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fpt_ray.config.tasks import Target
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import write_table
from fpt_ray.predict.classifier import load
from fpt_ray.predict.evidence.alike import label_text
from fpt_ray.predict.listing import known_labels, listed
from fpt_ray.predict.pipeline import answer_rows
from fpt_ray.predict.summary import summary_text
from fpt_ray.predict.trained_on import learnt_from
from fpt_ray.train.bundle import read_bundle
from tests.predict.bundles import table_of_images

TARGET = Target(task="multiclass", classes=("c0", "c1", "c2"))


def test_labels_come_from_a_table_or_from_folders_that_are_called_as_classes(images, tmp_path):
    found = listed(images, (), TARGET)
    assert [TARGET.classes[at] for at in found.labels] == [path.split("/")[1] for path in found.paths]
    assert listed(images, (), Target(task="binary", classes=("c0", "c1"))).labels is None
    table = tmp_path / "t.csv"
    table.write_text("file,kind\na.png,c1\nb.png,c1\n")
    two = Target(task="binary", classes=("c0", "c1"))
    named = listed(str(table), ("path=file", "label=kind"), two)
    assert (list(named.paths), named.labels.tolist()) == (["a.png", "b.png"], [1, 1])
    assert listed(str(table), ("path=file",), two).labels is None
    with pytest.raises(ConfigError, match=r"has the label 'c1', which is none of the bundle's \(c0, c2\)"):
        listed(str(table), ("path=file", "label=kind"), Target(task="binary", classes=("c0", "c2")))
    table.write_text("path,label\na.png,strange\n")
    with pytest.raises(ConfigError, match=r"has the label 'strange', .* have labels left out by --columns label=$"):
        listed(str(table), (), two)
    assert listed(str(table), ("label=",), two).labels is None
    assert listed(images, ("label=",), TARGET).labels is None


def test_rows_without_a_label_are_left_out_of_the_scores(bundle, images, tmp_path):
    whole = listed(images, (), TARGET)
    table = tmp_path / "t.csv"
    names = ["" if at % 3 == 0 else TARGET.classes[label] for at, label in enumerate(whole.labels)]
    table.write_text(
        "path,label\n" + "".join(f"{path},{name}\n" for path, name in zip(whole.paths, names, strict=True))
    )
    listing = listed(str(table), (), TARGET)
    empty = np.arange(60) % 3 == 0
    np.testing.assert_array_equal(listing.labels, np.where(empty, -1, whole.labels))
    answers, blank = load(bundle).predict([Path(images, path) for path in whole.paths]), [""] * 60
    text = summary_text(answer_rows(answers, whole.paths, blank, blank), read_bundle(bundle), listing, "o")
    assert "20 of 60 images have no label, and are left out of the scores\n" in text
    right = np.mean(answers.probabilities.argmax(axis=1)[~empty] == whole.labels[~empty])
    assert f"accuracy {right:.4f} (" in text
    assert [label_text(TARGET, label) for label in listing.labels[:2]] == ["", names[1]]
    table.write_text("path,label\na.png,\n")
    assert listed(str(table), (), TARGET).labels is None
    table.write_text("path,label\na.png,\nb.png,2.5\n")
    number = Target(task="regression", classes=("mm",))
    labels = listed(str(table), (), number).labels
    assert known_labels(labels, number).tolist() == [False, True]
    assert [label_text(number, label) for label in labels] == ["", "2.5"]
    table.write_text("path,label\na.png,\nb.png,inf\n")
    with pytest.raises(ConfigError, match=r"row 1 has the label .inf..* \(rows without a label are not counted\)$"):
        listed(str(table), (), number)
    several = Target(task="multilabel", classes=("x", "y"))
    assert known_labels(np.array([[np.nan, 0], [np.nan, np.nan]]), several).tolist() == [True, False]


def test_scores_of_images_that_a_model_is_made_with_are_warned_of(bundle, images, tmp_path):
    read, everything = read_bundle(bundle), listed(images, (), TARGET)
    answers = answer_rows(
        load(bundle).predict([Path(images, path) for path in everything.paths]), everything.paths, [""] * 60, [""] * 60
    )
    learnt = sum(not path.startswith("test/") for path in everything.paths)
    said = f"warning: {learnt} of 60 images are of the splits train and val; if the model was made with them"
    assert 0 < learnt < 60
    assert said in summary_text(answers, read, everything, "o")
    table = tmp_path / "t.csv"
    rows = [
        f"{path},{TARGET.classes[label]},{path.partition('/')[0]}"
        for path, label in zip(everything.paths, everything.labels, strict=True)
    ]
    table.write_text("\n".join(["path,label,split", *rows]))
    assert said in summary_text(answers, read, listed(str(table), (), TARGET), "o")
    assert listed(f"{images}/test", (), TARGET).learnt == 0


def test_images_that_a_model_is_made_with_are_known_by_their_content(bundle, images, tmp_path):
    """Whatever their names and folders say; where the table is not there, it is said that nobody knows."""
    read, table = read_bundle(bundle), table_of_images(images)
    assert read.data["images_digest"] == table.digest()
    hashes = [row.sha256 for row in table.rows()]
    assert learnt_from(hashes, read, str(tmp_path)) is None
    write_table(table, f"{tmp_path}/tables/{table.digest()[:12]}.parquet")
    made_with = len(table.of("train")) + len(table.of("val"))
    assert 0 < made_with < len(hashes)
    assert learnt_from([*hashes, "", "f" * 64], read, str(tmp_path)) == made_with
    of_test = [row.sha256 for row in table.take(table.of("test")).rows()]
    assert learnt_from(of_test, read, str(tmp_path)) == 0
    listing = listed(f"{images}/test", (), TARGET)
    answers = answer_rows(
        load(bundle).predict([Path(images, "test", path) for path in listing.paths]),
        listing.paths,
        of_test,
        [""] * len(of_test),
    )
    assert "these scores are too good" in summary_text(answers, read, listing, "o", learnt=3)
    assert "warning: 3 of 12 images are training or validation" in summary_text(answers, read, listing, "o", learnt=3)
    assert "too good" not in summary_text(answers, read, listing, "o", learnt=0)
    assert "the table of its images: scores of such images would be too good" in summary_text(
        answers, read, listing, "o"
    )
    unlabelled = dataclasses.replace(listing, labels=None)
    assert "too good" not in summary_text(answers, read, unlabelled, "o")


def test_files_that_are_no_images_by_their_names_are_counted(images, tmp_path, capsys):
    Path(tmp_path, "a.png").write_bytes(Path(images, listed(images, (), TARGET).paths[0]).read_bytes())
    Path(tmp_path, "IM0001").write_bytes(b"a DICOM file without a suffix, for instance")
    assert listed(str(tmp_path), (), TARGET).paths == ["a.png"]
    assert "images: files passed over, hidden or without an image's suffix: 1" in capsys.readouterr().err


def test_several_labels_and_values_come_from_their_columns(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,y,x,size\na.png,1,,2.5\nb.png,0,1,3\n")
    several = listed(str(table), ("label=y,x",), Target(task="multilabel", classes=("w", "x", "y")))
    np.testing.assert_array_equal(several.labels, [[np.nan, np.nan, 1], [np.nan, 1, 0]])
    values = listed(str(table), ("label=size",), Target(task="regression", classes=("mm",)))
    assert values.labels.tolist() == [2.5, 3.0]


def test_where_labels_are_known_the_answers_are_scored(bundle, images):
    """By the library's own AUC of what is in the table; of a class without an image nothing is said."""
    read, listing = read_bundle(bundle), listed(images, (), TARGET)
    answers = load(bundle).predict([Path(images, path) for path in listing.paths])
    blank = [""] * len(listing.paths)
    table = answer_rows(answers, listing.paths, blank, blank)
    text = summary_text(table, read, listing, "out.csv")
    area = roc_auc_score(listing.labels, answers.probabilities, multi_class="ovr", labels=[0, 1, 2])
    assert f"AUC {area:.4f} (" in text
    right = np.mean(answers.probabilities.argmax(axis=1) == listing.labels)
    assert f"accuracy {right:.4f} (" in text
    assert "unlike the training images" not in text
    strange = answers.familiarity.copy()
    strange[:7] = 0.0
    unlike = answer_rows(dataclasses.replace(answers, familiarity=strange), listing.paths, blank, blank)
    said = summary_text(unlike, read, listing, "out.csv")
    assert "warning: 7 of 60 images are unlike the training images (familiarity below 0.01; of images like" in said
    assert "them, about 7.7% are to be expected)" in said
    alone = np.flatnonzero(listing.labels == 2)
    assert "no scores: " in summary_text(
        table.take(alone), read, dataclasses.replace(listing, labels=listing.labels[alone]), "out.csv"
    )
    broken = answer_rows(load(bundle).answers(np.zeros((0, 64, 64, 3), np.uint8)), ["a"], [""], ["why"])
    assert "1 image could not be read:\n  a: why\n" in summary_text(
        broken, read, dataclasses.replace(listing, labels=np.zeros(1, np.int64)), "out.csv"
    )
