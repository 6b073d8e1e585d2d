"""Findings counted by hand, and training images by their class tokens."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.findings import OnSquare, read_boxes
from fpt_ray.predict.classifier import load
from fpt_ray.predict.evidence.alike import alike, pixels_of, training_images
from fpt_ray.predict.evidence.attention import evidence_of
from fpt_ray.predict.evidence.findings import check_known, finding_scores, placed_findings
from fpt_ray.preload.batches import extract_batches
from fpt_ray.train.bundle import read_bundle
from tests.predict.bundles import squared
from tests.predict.evidence.made import made_evidence


def test_findings_are_scored_as_counted_by_hand():
    """Head 0 keeps the class token, patches 0 and 5; head 1 patches 5, 10 and 15."""
    places = (OnSquare(1.0, 1.0, 2.0, 2.0), OnSquare(2.5, 3.2, 4.5, 3.8))  # patch 5; patches 14 and 15, and beyond
    found = finding_scores(made_evidence(), places)
    assert (found.findings, found.pointed) == (2, True)
    assert found.touched == pytest.approx(3 / 4), "the first by both heads, the second by one"
    assert found.touched_by_chance == pytest.approx((3 / 17 + (1 - 15 * 14 * 13 / (17 * 16 * 15))) / 2)
    assert found.mass == pytest.approx((0.2 + 0.6 + 0.3) / 2)
    assert found.mass_if_even == pytest.approx(3 / 6)
    assert found.area == pytest.approx(3 / 16)
    assert not finding_scores(made_evidence(), places[1:]).pointed


def test_boxes_lie_where_the_square_shows_them(tmp_path):
    """64 x 32 pixels with bars above and below, 4 patches a side: 16 pixels a patch, the image from the second row."""
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    file = tmp_path / "boxes.csv"
    file.write_text("image,x0,y0,x1,y1\na.png,16,0,32,16\nother.png,0,0,1,1\na.png,0,8,8,32\n")
    boxes = read_boxes(str(file))
    preparation = Preparation(resolution=64, aspect="pad")
    found = placed_findings(boxes, str(tmp_path), ["a.png", "b.png"], preparation, 4)
    assert found == {"a.png": ((1.0, 1.0, 2.0, 2.0), (0.0, 1.5, 0.5, 3.0))}
    file.write_text("image,x0,y0,x1,y1\na.png,16,0,32,33\n")
    with pytest.raises(ConfigError, match=r"row 1 is \[16.0, 0.0, 32.0, 33.0\] in a.png, which is 64x32"):
        placed_findings(read_boxes(str(file)), str(tmp_path), ["a.png"], preparation, 4)
    with pytest.raises(ConfigError, match=r"boxes: none is in the images; give paths .* such as x/a.png"):
        check_known(boxes, ["x/a.png"])


# --- images alike -------------------------------------------------------------------------------------------------


def test_the_training_images_most_alike_are_found_by_their_class_tokens(bundles, table):
    bundle, workdir = read_bundle(bundles["fpt+"]), Path(bundles["fpt+"]).parent
    classifier = load(bundles["fpt+"])
    rows = table.rows_at(table.of("train"))
    squares = np.stack([squared(table, row, 64) for row in rows])
    tokens = extract_batches(classifier.lpm, squares, bundle.spec).summaries[-1, 0].float().numpy()
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    trained = training_images(bundle, str(workdir), table.root)
    for own in (0, 7):
        evidence = evidence_of(classifier, squares[own])
        cosines = {f"{table.root}/{row.path}": value for row, value in zip(rows, tokens @ tokens[own], strict=True)}
        del cosines[f"{table.root}/{rows[own].path}"]
        found = alike(trained, evidence.class_token, rows[own].sha256, 4)
        assert [one.uri for one in found] == sorted(cosines, key=cosines.__getitem__, reverse=True)[:4]
        assert [one.cosine for one in found] == pytest.approx(sorted(cosines.values(), reverse=True)[:4], abs=2e-3)
        assert [one.label for one in found] == [one.uri.split("/")[-2] for one in found]
    np.testing.assert_array_equal(
        pixels_of(found[0], bundle.spec.preparation),
        squares[[f"{table.root}/{row.path}" for row in rows].index(found[0].uri)],
    )
    assert pixels_of(dataclasses.replace(found[0], sha256="0" * 64), bundle.spec.preparation) is None
    assert pixels_of(dataclasses.replace(found[0], uri="nowhere.png"), bundle.spec.preparation) is None


def test_without_the_training_images_that_is_said(bundles, table, tmp_path):
    bundle, workdir = read_bundle(bundles["fpt+"]), Path(bundles["fpt+"]).parent
    with pytest.raises(ConfigError, match=r"has no tables/.*.parquet, the table that it was trained on"):
        training_images(bundle, str(tmp_path), table.root)
    with pytest.raises(ConfigError, match=r"has no train/c./.*.png, which it was trained on; give --trained_on"):
        training_images(bundle, str(workdir), str(tmp_path))
