"""Evidence against attention that is multiplied out here, findings counted by hand, and answers that are known.

One data set is made so that a single patch decides what an image is called.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import Method, override, trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.findings import OnSquare, read_boxes
from fpt_ray.images.pixels import normalise
from fpt_ray.images.table import write_table
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.predict.classifier import Answers, Classifier, load
from fpt_ray.predict.evidence.alike import alike, pixels_of, training_images
from fpt_ray.predict.evidence.attention import Evidence, check_evidence, evidence_of, heat, times_selected
from fpt_ray.predict.evidence.curves import SHARES, by_attention, composed, curves_of
from fpt_ray.predict.evidence.findings import check_known, finding_scores, placed_findings
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.evidence.writing import answer_of, chosen_images, looked_at, planned_evidence, write_evidence
from fpt_ray.predict.listing import listed
from fpt_ray.preload.batches import extract_batches
from fpt_ray.train.bundle import read_bundle
from tests.predict.bundles import TRIAL, left, squared, stored, table_of_images
from tests.stores import draw_images

METHODS = ("fpt+", "fpt", "probe")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images"), per_class=(4, 2, 2)))


@pytest.fixture(scope="module")
def bundles(table, tmp_path_factory):
    """{method: a bundle of two seeds}; FPT+ in a working directory, with its store and its table."""
    found = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("bundle")
        trial = override(TRIAL, {"method": method, "features.token_ratio": 0.4})
        trial = override(trial, {"side.depth": 12}) if method == "fpt" else trial
        store = stored(trial, table, folder / "features/store")
        found[method] = left(trial, store, folder, seeds=2)
        Path(folder, "features/store").rename(folder / "features" / store.spec.name)
        write_table(table, f"{folder}/tables/{table.digest()[:12]}.parquet")
    return found


# --- attention ----------------------------------------------------------------------------------------------------


def queries_of(model, method, layer):
    """What asks in a layer: [heads, queries, head width], by the model's own weights."""
    if method == "probe":
        return model.queries[layer].transpose(1, 2) * 0.5 * 64**0.5  # scaled by one half, and not as attention is
    fusion = model.fusion
    prompts = fusion.prompts[layer]
    if method == "fpt":
        asked = prompts @ fusion.in_proj[0].weight.T + fusion.in_proj[0].bias
    else:
        norm = fusion.norms[0]
        centred = prompts - prompts.mean(dim=1, keepdim=True)
        asked = centred / (centred.pow(2).mean(dim=1, keepdim=True) + 1e-12).sqrt() * norm.weight + norm.bias
    return torch.stack([asked[:, head * 64 : head * 64 + 64] for head in range(3)])


def paid_to_prompts(model, low, keys, values):
    """Figure 5 by hand: each layer as timm's own block would compute it, of all tokens and prompts."""
    patches = model.patch_embed(low).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token, patches], dim=1) + model.pos_embed
    number, found = tokens.shape[1], []
    for layer, block in enumerate(model.blocks):
        whole = torch.cat([tokens, model.fusion(layer, keys[layer], values[layer])], dim=1)
        parts = block.attn.qkv(block.norm1(whole))[0].view(whole.shape[1], 3, 3, -1)
        paid, out = [], []
        for head in range(3):
            query, key, value = parts[:, :, head].unbind(1)
            maps = torch.softmax(query @ key.T / query.shape[1] ** 0.5, dim=1)
            asking = number if layer < len(model.blocks) - 1 else 1
            paid.append(maps[:asking, number:].sum(dim=1).mean())
            out.append(maps @ value)
        whole = whole + block.attn.proj(torch.cat(out, dim=1))
        tokens = (whole + block.mlp(block.norm2(whole)))[:, :number]
        found.append(torch.stack(paid))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_attention_is_that_of_the_forward_pass_of_every_seed(method, bundles, table):
    classifier = load(bundles[method])
    row = table.row(0)
    evidence = evidence_of(classifier, Path(table.root, row.path))
    square = squared(table, row, 64)
    features = extract_batches(classifier.lpm, square[None], classifier.bundle.spec)
    keys, values = features.keys.float(), features.values.float()
    np.testing.assert_array_equal(evidence.tokens, features.tokens[:, 0])
    np.testing.assert_allclose(evidence.class_token, features.summaries[-1, 0, 0].float(), atol=1e-6)
    small = Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC)
    low = normalise(torch.from_numpy(np.array(small))[None], classifier.bundle.spec.mean, classifier.bundle.spec.std)
    for seed, state in enumerate(classifier.bundle.states):
        load_learnable_state(classifier.model, state)
        for layer in range(len(evidence.blocks)):
            asked = queries_of(classifier.model, method, layer)
            expected = torch.softmax(asked @ keys[layer, 0].transpose(1, 2) / 64**0.5, dim=2)
            np.testing.assert_allclose(evidence.attention[seed, layer], expected, atol=1e-5)
        if method != "probe":
            by_hand = paid_to_prompts(classifier.model, low, keys, values)
            np.testing.assert_allclose(evidence.to_prompts[seed], by_hand, atol=1e-5)
    np.testing.assert_allclose(evidence.attention.sum(axis=-1), 1, atol=1e-5)
    assert np.abs(evidence.attention[0] - evidence.attention[1]).max() > 1e-5, "each seed has its own"
    np.testing.assert_allclose(evidence.said, classifier.probabilities(square[None])[:, 0], atol=1e-5)
    np.testing.assert_allclose(evidence.probabilities, classifier.answers(square[None]).probabilities[0], atol=1e-5)
    if method == "probe":
        assert (evidence.to_prompts, evidence.uniform_to_prompts) == (None, None)
    else:
        assert evidence.uniform_to_prompts == pytest.approx(2 / 7), "2 prompts beside 4 patches and a class token"


def made_evidence(**changes):
    """Of 4 x 4 patches and a class token: one layer, two heads that keep three tokens each, one seed, one prompt."""
    evidence = Evidence(
        blocks=(8,),
        num_tokens=17,
        num_prefix=1,
        tokens=np.array([[[0, 1, 6], [6, 11, 16]]]),
        attention=np.array([0.5, 0.3, 0.2, 0.6, 0.1, 0.3], np.float32).reshape(1, 1, 2, 1, 3),
        to_prompts=None,
        uniform_to_prompts=None,
        said=np.array([[0.3, 0.7]], np.float32),
        probabilities=np.array([0.3, 0.7]),
        class_token=np.ones(2, np.float32),
    )
    return dataclasses.replace(evidence, **changes)


def test_heat_lies_on_the_patches_that_were_paid():
    found = heat(made_evidence()).ravel()
    expected = {0: 0.15, 5: (0.2 + 0.6) / 2, 10: 0.05, 15: 0.15}
    np.testing.assert_allclose(found, [expected.get(patch, 0) for patch in range(16)], atol=1e-6)
    np.testing.assert_allclose(heat(made_evidence(), 0, 1).ravel()[[5, 10, 15]], [0.6, 0.1, 0.3], atol=1e-6)
    np.testing.assert_allclose(heat(made_evidence(), -1, 0).sum(), 0.5, atol=1e-6)
    assert times_selected(made_evidence(), -1).ravel().tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert times_selected(made_evidence(), -1, 0).ravel()[[0, 5, 15]].tolist() == [1, 1, 0]


@pytest.mark.parametrize("method", [name for name in Method.__args__ if name not in METHODS])
def test_methods_that_attend_to_no_selected_token_are_refused_by_name(method):
    preloaded = method in ("layer_fusion", "stored_linear_probe", "knn")
    trial = trial_from({"method": method, "features.preloaded": preloaded})
    why = "reads class tokens and mean patch tokens" if preloaded else "runs the LPM in every step"
    with pytest.raises(ConfigError, match=rf"evidence: the bundle's method is {method}, which {why}.*; fpt\+, fpt and"):
        check_evidence(trial)


def test_a_side_network_that_sees_no_stored_token_is_refused():
    with pytest.raises(ConfigError, match=r"fpt\+, which with side.num_prompts 0 does not see the LPM"):
        check_evidence(trial_from({"side.num_prompts": 0}))
    with pytest.raises(ConfigError, match=r"fpt\+, which with features.preloaded false runs the LPM"):
        check_evidence(trial_from({"features.preloaded": False}))
    for method in METHODS:
        check_evidence(trial_from({"method": method}))


# --- deletion and insertion ---------------------------------------------------------------------------------------


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


# --- findings -----------------------------------------------------------------------------------------------------


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


# --- what is written ----------------------------------------------------------------------------------------------


def answered(listing):
    """What of a prediction's rows is read."""
    hashes = [hashlib.sha256(Path(listing.root, path).read_bytes()).hexdigest() for path in listing.paths]
    return pa.table({"error": [""] * len(hashes), "sha256": hashes})


@pytest.mark.parametrize("method", ["fpt+", "probe"])
def test_a_picture_an_array_file_and_a_table_are_written(method, bundles, table, tmp_path, capsys):
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
    assert "no training images" not in capsys.readouterr().err


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


def test_what_cannot_be_planned_is_refused_and_of_many_images_the_number_is_said(bundles, table, capsys):
    bundle = read_bundle(bundles["probe"])
    listing = listed(table.root, (), bundle.target)
    assert planned_evidence(bundle, listing, EvidenceOptions()) is None
    planned_evidence(bundle, listing, EvidenceOptions(evidence="out", evidence_images=2))
    assert "evidence: of 2 of 24 images, spread over the list" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="evidence_orders is -1; it must be 0 or more"):
        planned_evidence(bundle, listing, EvidenceOptions(evidence="out", evidence_orders=-1))
    knn = dataclasses.replace(bundle, trial=override(bundle.trial, {"method": "knn"}))
    with pytest.raises(ConfigError, match="the bundle's method is knn"):
        planned_evidence(knn, listing, EvidenceOptions(evidence="out"))


def test_the_answer_that_is_followed_is_the_one_that_is_given():
    two = Target(task="binary", classes=("no", "yes"))
    assert answer_of(two, np.array([0.2, 0.8])) == ("yes 0.80", 1)
    several = Target(task="multilabel", classes=("a", "b"))
    assert answer_of(several, np.array([0.4, 0.3])) == ("a 0.40", 0)
    assert answer_of(Target(task="regression", classes=("mm",)), np.array([41.25])) == ("mm 41.25", 0)
