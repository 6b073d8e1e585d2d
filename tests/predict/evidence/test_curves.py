"""Deletion and insertion against answers that are known; in one data set a single patch decides the class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.trial import override
from fpt_ray.predict.classifier import Answers, Classifier, load
from fpt_ray.predict.evidence.attention import heat
from fpt_ray.predict.evidence.curves import SHARES, by_attention, composed, curves_of
from fpt_ray.predict.evidence.writing import looked_at
from fpt_ray.predict.listing import listed
from tests.predict.bundles import TRIAL, left, stored, table_of_images


def test_curves_follow_the_answer_while_patches_go_and_come(bundles, monkeypatch):
    """The answer is how much of one white patch is to be seen."""
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:32, 32:48] = 255
    seen = []

    def answers(self, images):
        seen.append(images)
        shown = (images[:, 16:32, 32:48].mean(axis=(1, 2, 3)) > 200).astype(float)
        both = np.stack([1 - shown, shown], axis=1)
        return Answers(target=self.bundle.target, probabilities=both, spread=np.zeros(len(both)), familiarity=None)

    monkeypatch.setattr(Classifier, "answers", answers)
    attended = np.zeros((4, 4))
    attended[1, 2], attended[0, 0] = 0.9, 0.1
    classifier = load(bundles["probe"])
    curves = curves_of(classifier, square, attended, 1, 4)
    first = [round(share * 16) >= 1 for share in SHARES]
    np.testing.assert_array_equal(curves.deletion, np.logical_not(first))
    np.testing.assert_array_equal(curves.insertion, first)
    areas = curves.areas()
    assert areas["deletion"] == pytest.approx(0.02 + 0.03 / 2), "one of 16 patches is nearest to 5 %; 2 % are none"
    assert areas["insertion"] == pytest.approx(1 - 0.035)
    ranks = [np.random.default_rng(seed).permutation(16).tolist().index(6) for seed in range(4)]
    for own, rank in zip(curves.random_deletion, ranks, strict=True):
        np.testing.assert_array_equal(own, [round(share * 16) <= rank for share in SHARES])
    assert areas["deletion"] < areas["random_deletion"]
    assert areas["insertion"] > areas["random_insertion"]
    whole, grey, blurred = seen[0]
    assert (whole == square).all()
    assert np.unique(grey).tolist() == [16], "255 of 16 patches, rounded"
    assert 0 < blurred[16:32, 32:48].mean() < 200


def test_of_patches_that_nobody_attends_to_the_order_is_drawn_and_always_the_same():
    attended = np.zeros((3, 3))
    attended[2, 1], attended[0, 2] = 0.5, 0.4
    order = by_attention(attended)
    assert order[:2].tolist() == [7, 2]
    assert sorted(order) == list(range(9))
    assert order[2:].tolist() != sorted(order[2:])
    np.testing.assert_array_equal(order, by_attention(attended))
    below, above = np.zeros((6, 6, 3), np.uint8), np.full((6, 6, 3), 9, np.uint8)
    found = composed(below, above, np.array([1, 5]), 3)[..., 0]
    assert found.tolist() == [[0, 0, 9, 9, 0, 0]] * 2 + [[0, 0, 0, 0, 9, 9]] * 2 + [[0] * 6] * 2


@pytest.fixture(scope="module")
def one_patch(tmp_path_factory):
    """(folder, bundle of a probe): whether one of 4 x 4 patches, somewhere, is red or blue decides the class."""
    folder, random = tmp_path_factory.mktemp("patch"), np.random.default_rng(0)
    for split, number in (("train", 40), ("val", 10), ("test", 6)):
        for label, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            for at in range(number):
                pixels = random.integers(100, 130, (64, 64, 3)).astype(np.uint8)
                row, column = 16 * random.integers(0, 4, 2)
                pixels[row : row + 16, column : column + 16] = colour
                path = folder / "images" / split / label / f"{at}-{row}-{column}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    changes = {"method": "probe", "features.token_ratio": 1.0, "side.depth": 1, "side.blocks": "0"}
    changes |= {"training.epochs": 30, "training.learning_rate": 0.05, "probe.num_queries": 1}
    trial, table = override(TRIAL, changes), table_of_images(str(folder / "images"))
    return folder / "images", left(trial, stored(trial, table, folder / "store"), folder)


def test_where_one_patch_decides_its_deletion_is_felt_before_that_of_others(one_patch):
    """A colour outlives any blur, so that insertion tells nothing here."""
    folder, bundle = one_patch
    classifier = load(bundle)
    listing = listed(str(folder / "test"), (), classifier.bundle.target)
    found, pointed = [], 0
    for number, path in enumerate(listing.paths):
        looked = looked_at(classifier, listing, number, 2)
        row, column = (int(part) // 16 for part in Path(path).stem.split("-")[1:])
        pointed += divmod(int(heat(looked.evidence).argmax()), 4) == (row, column)
        assert looked.answer.split()[0] == looked.label == Path(path).parent.name
        found.append(looked.curves.areas())
    means = {name: np.mean([one[name] for one in found]) for name in found[0]}
    assert pointed >= 11, "of 12 images"
    assert means["deletion"] < means["random_deletion"] - 0.05
