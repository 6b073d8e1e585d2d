"""`features importance` on stores whose tokens and findings are known: counts by hand, faults by name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.trial import BackboneConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.command import Importance, run
from fpt_ray.features.importance.findings import read_findings
from fpt_ray.features.importance.flips import kept_when_flipped
from fpt_ray.features.importance.survey import sampled, stored_table, survey
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.store import add_shards, empty_store, shard_path
from fpt_ray.images.decoding import decode, image_size
from fpt_ray.images.table import content_hashes, read_images
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.importance import Extracted
from fpt_ray.models.weights import load_backbone, weights_digest
from tests.conftest import SMALL
from tests.images.test_dicom import grey_file
from tests.stores import low_res, make_spec

SHAPE = backbone_shape(SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images of two classes, 64 x 48 pixels, four a split."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(4):
            path = folder / split / f"c{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def spec():
    config = BackboneConfig(name=SMALL, weights="random")
    digest = weights_digest(load_backbone(config, 64))
    return make_spec(
        backbone=SMALL,
        weights_digest=digest,
        blocks=(3, 8),
        num_kept=8,
        backbone_depth=12,
        num_heads=3,
        head_width=64,
        num_tokens=17,
    )


@pytest.fixture(scope="module")
def store(images, spec, tmp_path_factory):
    """Every head keeps the tokens 1, 2, ... of block 3; those of block 8 are drawn at random."""
    store = empty_store(str(tmp_path_factory.mktemp("store")), spec)
    rows = stored_rows(images)
    random, added = np.random.default_rng(1), []
    for first in range(0, len(rows), 5):
        part = rows[first : first + 5]
        ordered = np.tile(np.arange(1, 9), (len(part), 3, 1))
        drawn = np.stack([[random.permutation(17)[:8] for _ in range(3)] for _ in part])
        tokens = torch.from_numpy(np.stack([ordered, drawn]))
        keys = torch.zeros(2, len(part), 3, 8, 64).half()
        summaries = torch.zeros(12, 2, len(part), 192).half()
        table = shard_table(part, low_res(spec, len(part)), Extracted(keys, keys, tokens, summaries), spec)
        hashes = content_hashes(part)
        added.append((write_shard(f"{store.uri}/{shard_path(store, hashes)}", table, spec), hashes))
    return add_shards(store, added)


def stored_rows(images):
    from fpt_ray.datasets.usable import inspected_here

    return sorted(inspected_here(read_images(str(images))).rows(), key=lambda row: row.sha256)


def boxes_file(images, lines):
    path = images / "boxes.csv"
    path.write_text("\n".join(["image,x0,y0,x1,y1", *lines]))
    return str(path)


def test_a_survey_counts_what_the_store_holds(images, store):
    """Of 4 x 4 patches over 64 x 48 pixels, the first row is y < 12; tokens 1 to 4 are its patches."""
    table = stored_table(read_images(str(images)), store)
    lines = [
        "train/c0/0.png,0,0,16,12",
        "train/c0/0.png,0,36,64,48",
        "val/c1/1.png,15,11,17,13",
        "test/c0/0.png,0,0,9,9",
    ]
    findings = read_findings(boxes_file(images, lines), table, sampled(table, 100), SHAPE, Preparation(resolution=64))
    patches = {tuple(patches) for boxes in findings.values() for patches in boxes}
    assert patches == {(1,), (13, 14, 15, 16), (1, 2, 5, 6)}
    found = survey(store, sampled(table, 100), (0.1, 0.48), findings)
    assert (found.num_images, found.num_findings) == (8, 3)
    ordered = [one for one in found.figures if one.block == 3]
    assert [(one.ratio, one.kept) for one in ordered] == [(0.1, 1), (0.48, 8)]
    for one in ordered:
        assert (one.heads, one.images) == (1, 1)
        assert one.touched == one.touched_by_best == pytest.approx(2 / 3)
    assert [one.neighbours for one in ordered] == pytest.approx([0, 20 / 24])
    assert ordered[0].chance == pytest.approx((1 / 17 + 4 / 17 + 4 / 17) / 3)
    drawn = [one for one in found.figures if (one.block, one.ratio) == (8, 0.48)]
    assert 0.3 < drawn[0].heads < 0.65


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aspect": "pad"}, {(1, 5)}),  # 8 px of bars above: y in 8..20 of 64
        ({"aspect": "crop"}, {(1,)}),  # from x = 8 to 56: the second box lies beyond
        ({"crop_black": 10}, {(1,), (13,)}),  # the photo has no border
    ],
)
def test_findings_lie_where_the_square_shows_them(images, store, changes, expected):
    table = stored_table(read_images(str(images)), store)
    lines = ["train/c0/0.png,0,0,16,12", "train/c0/2.png,0,37,8,48"]
    preparation = Preparation(resolution=64, **changes)
    findings = read_findings(boxes_file(images, lines), table, sampled(table, 100), SHAPE, preparation)
    found = {tuple(patches) for boxes in findings.values() for patches in boxes}
    assert found == expected | ({(9, 13)} if changes.get("aspect") == "pad" else set())


def test_of_many_images_some_are_taken_and_none_of_the_test_split(images, store):
    table = stored_table(read_images(str(images)), store)
    few = sampled(table, 3)
    assert {row.split for row in sampled(table, 100).rows()} == {"train", "val"}
    rest = [row.sha256 for row in sampled(table, 100).rows() if row not in few.rows()]
    assert max(row.sha256 for row in few.rows()) < min(rest)
    assert survey(store, few, (0.1,), None).num_images == 3


def test_the_mirror_image_is_compared_place_by_place(images, store, spec):
    """With a LPM that only looks at positions, the places stay, so that mirrored ones differ; by hand from extract."""
    from fpt_ray.images.picture import resize
    from fpt_ray.images.pixels import normalise
    from fpt_ray.models.importance import extract

    table = sampled(stored_table(read_images(str(images)), store), 2)
    found = kept_when_flipped(table, spec, "random", (0.3,))
    model = load_backbone(BackboneConfig(name=SMALL, weights="random"), 64)
    shares = []
    for row in table.rows():
        pixels = resize(decode((images / row.path).read_bytes(), row.path), 64)
        sets = []
        for turned in (pixels, pixels[:, ::-1].copy()):
            image = normalise(torch.from_numpy(turned)[None], spec.mean, spec.std)
            sets.append(extract(model, image, blocks=spec.blocks, num_kept=5).tokens[1, 0].tolist())
        back = [{0 if t == 0 else 1 + (t - 1) // 4 * 4 + 3 - (t - 1) % 4 for t in head} for head in sets[1]]
        shares += [len({*head} & other) / 5 for head, other in zip(sets[0], back, strict=True)]
    assert found[8, 0.3] == pytest.approx(np.mean(shares))


def test_the_command_prints_a_table_and_draws_a_picture(images, store, tmp_path, capsys):
    boxes = boxes_file(images, ["train/c0/0.png,0,0,16,12"])
    picture = tmp_path / "importance.png"
    options = {"images": str(images), "boxes": boxes, "ratios": (0.1, 0.3), "picture": picture, "form": "json"}
    assert run(Importance(uri=store.uri, flips=2, weights="random", **options)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["block"], row["ratio"]) for row in rows] == [("3", 0.1), ("3", 0.3), ("8", 0.1), ("8", 0.3)]
    assert rows[0]["touched"] == 1
    assert 0 <= rows[0]["flipped"] <= 1
    with Image.open(picture) as drawn:
        assert drawn.width > 1000


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train/c0/9.png,0,0,1,1"], r"row 1 has the image 'train/c0/9\.png', which the image table has not"),
        (["train/c0/0.png,0,0,65,1"], r"row 1 is \[0\.0, 0\.0, 65\.0, 1\.0\] in train/c0/0\.png, which is 64x48"),
        (["train/c0/0.png,5,0,5,1"], "give x0 < x1"),
        (["train/c0/0.png,0,0,,1"], "1 rows without x1"),
        (["train/c0/0.png,a,0,1,1"], "cannot be read"),
        (["test/c0/0.png,0,0,1,1"], "none in the 8 images that are measured"),
    ],
)
def test_faults_of_a_boxes_table_are_named(images, store, lines, message):
    table = stored_table(read_images(str(images)), store)
    with pytest.raises(ConfigError, match=message):
        read_findings(boxes_file(images, lines), table, sampled(table, 100), SHAPE, Preparation(resolution=64))


def test_what_cannot_be_measured_is_said(images, store, tmp_path, spec):
    table = stored_table(read_images(str(images)), store)
    with pytest.raises(ConfigError, match=r"0\.6 is 10 tokens, .* holds 8"):
        survey(store, table, (0.6,), None)
    (tmp_path / "b.csv").write_text("image,x0,y0\na,1,2")
    with pytest.raises(ConfigError, match="lacks the column x1, y1"):
        read_findings(str(tmp_path / "b.csv"), table, table, SHAPE, Preparation(resolution=64))
    other = tmp_path / "other"
    for name, colour in (("a", 1), ("b", 2)):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (colour,) * 3).save(other / name / "0.png")
    with pytest.raises(ConfigError, match="has none of the images"):
        stored_table(read_images(str(other)), store)
    torch.save(load_backbone(BackboneConfig(name=SMALL, weights="random"), 64).state_dict(), tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    state["cls_token"] += 1
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="the store was made with"):
        kept_when_flipped(sampled(table, 1), spec, str(tmp_path / "w.pth"), (0.1,))


@pytest.mark.parametrize("hashed", [False, True])
def test_dicom_files_that_preload_divides_by_patient_are_refused(store, tmp_path, hashed):
    """By content they would be divided otherwise, and images that preload puts into test be measured."""
    files = {f"{name}/{number}.DCM": name for name in "ab" for number in range(3)}
    for path in files:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(grey_file(np.zeros((8, 8), np.uint8), PatientID=path))
    head = "path,label"
    rows = [f"{path},{name}" for path, name in files.items()]
    if hashed:
        head, rows = "path,label,sha256", [f"{row},{'0' * 64}" for row in rows]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    with pytest.raises(ConfigError, match="divided by the patients that they name; give the table of a study"):
        stored_table(read_images(str(tmp_path / "t.csv")), store)
    grouped = [f"{row},{number}" for number, row in enumerate(rows)]
    (tmp_path / "g.csv").write_text("\n".join([f"{head},group", *grouped]) + "\n")
    with pytest.raises(ConfigError, match="has none of the images"):
        stored_table(read_images(str(tmp_path / "g.csv")), store)


def test_an_images_size_is_that_of_its_pixels_upright(tmp_path):
    for orientation in (None, 1, 3, 6, 8):
        exif = Image.Exif()
        if orientation:
            exif[274] = orientation
        Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
        data = (tmp_path / "a.jpg").read_bytes()
        height, width, _ = decode(data, "a.jpg").shape
        assert image_size(data, "a.jpg") == (width, height)
    with pytest.raises(ConfigError, match="its header cannot be read"):
        image_size(b"nothing", "a.jpg")
