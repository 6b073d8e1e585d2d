"""What is written of evidence, and what is refused before."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.predict.classifier import load
from fpt_ray.predict.evidence.attention import evidence_of, heat
from fpt_ray.predict.evidence.curves import SHARES
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.evidence.writing import answer_of, chosen_images, planned_evidence, write_evidence
from fpt_ray.predict.listing import listed
from fpt_ray.storage.errors import StorageError
from fpt_ray.train.bundle import read_bundle


def answered(listing):
    """What of a prediction's rows is read."""
    hashes = [hashlib.sha256(Path(listing.root, path).read_bytes()).hexdigest() for path in listing.paths]
    return pa.table({"error": [""] * len(hashes), "sha256": hashes})


@pytest.mark.parametrize("method", ["fpt+", "probe"])
def test_a_picture_an_array_file_and_a_table_are_written(method, bundles, table, tmp_path):
    classifier = load(bundles[method])
    listing = listed(table.root, (), classifier.bundle.target)
    path, other = listing.paths[3], listing.paths[5]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"image,x0,y0,x1,y1\n{path},20,20,60,60\n")
    options = EvidenceOptions(
        evidence=str(tmp_path / "out"), evidence_images=(other, path), evidence_orders=1, boxes=str(boxes)
    )
    plan = planned_evidence(classifier.bundle, listing, options)
    text = write_evidence(classifier, listing, plan, answered(listing), str(Path(bundles[method]).parent))
    names = [f"{number:05d}-{Path(listing.paths[number]).stem}" for number in (3, 5)]
    wanted = ["evidence.csv", *(f"{name}{end}" for name in names for end in (".npz", ".png"))]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(wanted)
    with np.load(tmp_path / "out" / f"{names[0]}.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays}
    evidence = evidence_of(classifier, Path(listing.root, path))
    np.testing.assert_allclose(found["attention"], evidence.attention, atol=1e-6)
    np.testing.assert_array_equal(found["tokens"], evidence.tokens)
    np.testing.assert_allclose(found["heat"], heat(evidence), atol=1e-6)
    assert ("to_prompts" in found) == (method != "probe")
    assert found["findings"].shape == (1, 4)
    assert found["random_deletion"].shape == (1, len(SHARES))
    assert found["deletion"][0] == pytest.approx(evidence.probabilities.max(), abs=1e-5)
    with Image.open(tmp_path / "out" / f"{names[0]}.png") as picture:
        assert path in picture.info["Title"]
        assert np.asarray(picture).std() > 20
    lines = Path(tmp_path, "out", "evidence.csv").read_text().splitlines()
    assert lines[0].startswith(
        "image,answer,label,deletion,random_deletion,insertion,random_insertion,findings,touched"
    )
    assert [line.split(",")[0] for line in lines[1:]] == [path, other]
    assert lines[2].endswith(",,,,,,,"), "no finding is known of the other"
    assert "mean of 2" in text
    with pytest.raises(ConfigError, match=r"out has evidence already; remove it, or give another folder"):
        planned_evidence(classifier.bundle, listing, options)
    assert "no training images" not in text


def test_long_names_are_cut_and_why_no_training_images_are_there_is_in_the_text(bundles, table, tmp_path):
    """A worker writes them, whose stderr nobody sees; of a file's name, number and writer take 48 bytes of 255."""
    classifier = load(bundles["probe"])
    root = tmp_path / "images"
    root.mkdir()
    (root / f"{'ü' * 120}.png").write_bytes(Path(table.root, table.row(0).path).read_bytes())
    listing = listed(str(root), (), classifier.bundle.target)
    options = EvidenceOptions(evidence=str(tmp_path / "out"), evidence_orders=0)
    plan = planned_evidence(classifier.bundle, listing, options)
    text = write_evidence(classifier, listing, plan, answered(listing), str(tmp_path / "no store"))
    assert (tmp_path / "out" / f"00000-{'ü' * 50}.png").exists()
    assert "\nno training images stand beside the pictures: " in text


def test_images_are_chosen_by_name_or_spread_over_the_list_with_findings_first():
    paths = [f"{number}.png" for number in range(100)]
    assert chosen_images(5, paths, set()) == (0, 25, 50, 74, 99)
    assert chosen_images(200, paths, set()) == tuple(range(100))
    assert chosen_images(3, paths, {"7.png", "8.png"}) == (0, 7, 8)
    assert chosen_images(1, paths, {"7.png", "8.png"}) == (7,)
    assert chosen_images(("9.png", "2.png"), paths, set()) == (2, 9)
    with pytest.raises(ConfigError, match=r"evidence_images: x.png is none of the images; .* such as 0.png"):
        chosen_images(("x.png",), paths, set())
    with pytest.raises(ConfigError, match=r"evidence_images is 0; it must be 1 or more"):
        chosen_images(0, paths, set())


def test_what_cannot_be_planned_is_refused_and_of_many_images_the_number_is_said(bundles, table, tmp_path, capsys):
    bundle = read_bundle(bundles["probe"])
    listing = listed(table.root, (), bundle.target)
    assert planned_evidence(bundle, listing, EvidenceOptions()) is None
    planned_evidence(bundle, listing, EvidenceOptions(evidence="out", evidence_images=2))
    assert "evidence: of 2 of 24 images, spread over the list" in capsys.readouterr().err
    for name in (f"00000-{Path(listing.paths[0]).stem}.png", "0012-mine.png", "notes.txt"):
        Path(tmp_path, name).write_bytes(b"")
    planned_evidence(bundle, listing, EvidenceOptions(evidence=str(tmp_path), evidence_images=2))  # of the same images
    Path(tmp_path, "00001-another.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"has 00001-another.npz, of an image that is not asked for, .*; remove such"):
        planned_evidence(bundle, listing, EvidenceOptions(evidence=str(tmp_path), evidence_images=2))
    with pytest.raises(ConfigError, match="evidence_orders is -1; it must be 0 or more"):
        planned_evidence(bundle, listing, EvidenceOptions(evidence="out", evidence_orders=-1))
    knn = dataclasses.replace(bundle, trial=override(bundle.trial, {"method": "knn"}))
    with pytest.raises(ConfigError, match="the bundle's method is knn"):
        planned_evidence(knn, listing, EvidenceOptions(evidence="out"))


def test_boxes_are_placed_before_anything_is_predicted(bundles, table, tmp_path, capsys, monkeypatch):
    """One that lies outside its image ends the command then; of an image that cannot be read the answers say why."""
    bundle = read_bundle(bundles["probe"])
    listing = listed(table.root, (), bundle.target)
    (tmp_path / "none.png").write_bytes(b"no image")
    both = dataclasses.replace(listing, root=str(tmp_path), paths=("none.png", "a.png"))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,x0,y0,x1,y1\nnone.png,0,0,1,1\na.png,16,0,32,16\n")
    options = EvidenceOptions(evidence=str(tmp_path / "out"), boxes=str(boxes))
    assert planned_evidence(bundle, both, options).places == {"a.png": ((1.0, 0.0, 2.0, 1.0),)}
    assert "evidence: none.png: its header cannot be read" in capsys.readouterr().err
    boxes.write_text("image,x0,y0,x1,y1\na.png,16,0,32,65\n")
    with pytest.raises(ConfigError, match=r"row 1 is \[16.0, 0.0, 32.0, 65.0\] in a.png, which is 64x64"):
        planned_evidence(bundle, both, options)

    def away(*_):
        raise StorageError("S3 is away")

    monkeypatch.setattr("fpt_ray.predict.evidence.findings.size_of", away)
    with pytest.raises(StorageError, match="S3 is away"):
        planned_evidence(bundle, both, options)


def test_the_answer_that_is_followed_is_the_one_that_is_given():
    two = Target(task="binary", classes=("no", "yes"))
    assert answer_of(two, np.array([0.2, 0.8])) == ("yes 0.80", 1)
    several = Target(task="multilabel", classes=("a", "b"))
    assert answer_of(several, np.array([0.4, 0.3])) == ("a 0.40", 0)
    assert answer_of(Target(task="regression", classes=("mm",)), np.array([41.25])) == ("mm 41.25", 0)
