"""Images are read once: what inspection decodes goes to extraction.

Compared with extraction that reads every image itself: the same bytes in every shard.
"""

import dataclasses
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image, ImageCms

from fpt_ray.cluster import worker_asked
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import override
from fpt_ray.datasets import decoded as keeping
from fpt_ray.datasets import inspection as inspecting
from fpt_ray.datasets.checking import Inspection, inspected
from fpt_ray.datasets.decoded import keep, kept_bytes, room_for_decoded
from fpt_ray.errors import ConfigError
from fpt_ray.images.picture import Picture, square_of
from fpt_ray.images.table import read_images
from fpt_ray.models.hardware import hardware_here
from fpt_ray.preload import pipeline as preloading
from fpt_ray.preload.decoded import (
    ImageSource,
    ShardPlan,
    image_at,
    read_image,
    read_shard,
    shard_of,
)
from fpt_ray.preload.pipeline import frozen_lpm, preload, preload_table, preparations
from tests.conftest import SMOKE
from tests.stores import draw_images

NEED = load_space(SMOKE).stores()[0]
RESOLUTION = NEED.trial.features.resolution
SQUARE = Preparation(resolution=64)
SIZE = 220


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Of a size that is kept."""
    return draw_images(tmp_path_factory.mktemp("images"), size=SIZE)


# --- one image ------------------------------------------------------------------------------------------------


def test_a_file_that_changes_between_check_and_preload_is_named_with_the_remedy(tmp_path):
    """Without Ray: what a task of extraction does."""
    folder = draw_images(tmp_path / "images")
    row = read_images(folder).row(0)
    finding, picture = inspecting.inspect_image(folder, row.path)
    row, path = dataclasses.replace(row, sha256=finding.sha256.hex()), Path(folder, row.path)
    assert np.array_equal(read_image(folder, row, SQUARE), square_of(picture, SQUARE))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole + b"0"):
        path.write_bytes(content)
        with pytest.raises(
            ConfigError,
            match=rf"{row.path} is another image than the table says .* otherwise run the command again",
        ):
            read_image(folder, row, SQUARE)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{row.path} is gone; put it back, or take it out of the image table"):
        read_image(folder, row, SQUARE)


@pytest.fixture(scope="module")
def source(images):
    return ImageSource(root=images, preparation=SQUARE, sides=(64, 32), with_high=True)


@pytest.fixture(scope="module")
def table(cluster, images, tmp_path_factory):
    return inspected(read_images(images), str(tmp_path_factory.mktemp("work"))).table


def test_what_was_lost_is_read_again_and_a_changed_file_is_refused(table, source, tmp_path):
    row = table.row(0)
    expected = read_image(source.root, row, SQUARE)
    lost = ray.remote(max_retries=0)(lambda: os._exit(1)).remote()
    assert np.array_equal(image_at(source, row, lost), expected)
    other = Picture(source="", colours=Image.fromarray(expected + 1))
    assert np.array_equal(image_at(source, row, ray.put(keep(other, SQUARE))), expected + 1)
    changed = dataclasses.replace(row, sha256="0" * 64)
    with pytest.raises(ConfigError, match="another image than the table says"):
        image_at(source, changed, None)


def test_a_shards_row_holds_its_images_in_every_size_or_says_what_is_wrong(table, source):
    plan = ShardPlan(uri="u", path="p", images=table.take(np.arange(3)))
    (block,) = read_shard(source, plan, [None] * 3)
    shard = shard_of(block, source.sides)
    high = np.stack([read_image(source.root, row, SQUARE) for row in table.rows_at(range(3))])
    assert shard.plan == plan
    assert np.array_equal(shard.high, high)
    assert np.array_equal(shard.low[0], high)
    assert [low.shape for low in shard.low] == [(3, 64, 64, 3), (3, 32, 32, 3)]
    paths = pa.array([*plan.images.paths.to_pylist()[:2], "gone.png"])
    gone = dataclasses.replace(plan, images=dataclasses.replace(plan.images, paths=paths))
    (block,) = read_shard(source, gone, [None] * 3)
    assert "gone.png is gone" in shard_of(block, source.sides).error
    (block,) = read_shard(dataclasses.replace(source, with_high=False), plan, [None] * 3)
    assert shard_of(block, source.sides).high is None


# --- from inspection to extraction ----------------------------------------------------------------------------


def digests(features):
    return {shard.path: shard.sha256 for shard in features.shards}


@pytest.fixture(scope="module")
def read_again(cluster, images, tmp_path_factory):
    """Features of images that extraction has read itself."""
    work = str(tmp_path_factory.mktemp("again"))
    inspection = inspected(read_images(images), work)
    assert inspection.decoded == {}
    return preload_table(inspection, NEED, frozen_lpm(NEED), work, hardware_here())


def test_decoded_images_give_the_same_features_and_no_file_is_read_again(images, read_again, tmp_path):
    copy = shutil.copytree(images, tmp_path / "images")
    inspection = inspected(read_images(str(copy)), str(tmp_path), preparations([NEED]))
    assert len(inspection.decoded) == len(inspection.table)
    shutil.rmtree(copy)
    kept = preload_table(inspection, NEED, frozen_lpm(NEED), str(tmp_path), hardware_here())
    assert digests(kept) == digests(read_again)


@pytest.mark.slow
def test_what_there_is_no_room_for_is_read_again(images, read_again, tmp_path, monkeypatch):
    """A task of inspection keeps all of its images or none."""
    monkeypatch.setattr(inspecting, "room_for_decoded", lambda: 40 * kept_bytes(RESOLUTION))
    inspection = inspected(read_images(images), str(tmp_path), preparations([NEED]))
    assert len(inspection.decoded) == inspecting._CHUNK
    partly = preload_table(inspection, NEED, frozen_lpm(NEED), str(tmp_path), hardware_here())
    assert digests(partly) == digests(read_again)


def test_hosts_with_a_folder_of_their_own_are_refused_before_anything_is_extracted(
    cluster, images, tmp_path, monkeypatch
):
    """Two hosts of this machine's disk leave nothing; of one with a disk of its own no mark is seen here."""
    preloading._require_shared(str(tmp_path / "one"))
    assert not list(tmp_path.glob("**/*.tmp"))
    inspection = inspected(read_images(images), str(tmp_path))
    monkeypatch.setattr(
        preloading,
        "on_every_host",
        lambda call: [call(), (".elsewhere.tmp", "far")] if call.func is preloading._mark else [],
    )
    monkeypatch.setattr(preloading, "_announced", lambda *_: pytest.fail("it has gone on"))
    with pytest.raises(ConfigError, match=r"workdir: what far writes to .* is not seen where the command was started"):
        preload_table(inspection, NEED, frozen_lpm(NEED), str(tmp_path), hardware_here())
    assert not list(tmp_path.glob("**/*.tmp"))


@pytest.mark.slow
def test_the_table_beside_the_features_is_that_of_the_last_command(images, tmp_path):
    """Its name is a digest, which says nothing of groups."""
    inspection = inspected(read_images(images), str(tmp_path))
    model, hardware = frozen_lpm(NEED), hardware_here()
    preload_table(inspection, NEED, model, str(tmp_path), hardware)
    groups = pa.array([f"p{number}" for number in range(len(inspection.table))]).dictionary_encode()
    grouped = Inspection(table=dataclasses.replace(inspection.table, groups=groups))
    preload_table(grouped, NEED, model, str(tmp_path), hardware)
    (file,) = tmp_path.glob("tables/*.parquet")
    assert read_images(str(file)).groups.equals(groups)


def test_small_images_are_read_again_in_less_time_than_it_takes_to_keep_them(cluster, tmp_path):
    """What is kept takes 131 kB at least: a hundred thousand of 32 px filled 13 GB, of 3 kB each."""
    folder = draw_images(tmp_path / "images", size=SIZE)
    small = Path(folder, "train", "c0", "3.png")
    Image.open(small).resize((209, 209)).save(small)
    inspection = inspected(read_images(folder), str(tmp_path), preparations([NEED]))
    kept = {sha256 for sha256, _ in inspection.decoded}
    assert [row.path for row in inspection.table.rows() if row.sha256 not in kept] == ["train/c0/3.png"]
    assert 3 * 209**2 < kept_bytes(RESOLUTION) <= 3 * SIZE**2


def test_every_resolution_and_shape_of_a_space_is_kept(cluster, images, tmp_path):
    others = {"features.resolution": 2 * RESOLUTION}, {"features.aspect": "pad", "features.crop_black": 30}
    needs = [NEED, *(dataclasses.replace(NEED, trial=override(NEED.trial, other)) for other in others)]
    inspection = inspected(read_images(images), str(tmp_path), asked := preparations(needs))
    assert {one for _, one in inspection.decoded} == set(asked)
    assert len(asked) == 3
    for (sha256, preparation), reference in list(inspection.decoded.items())[::10]:
        (row,) = [row for row in inspection.table.rows() if row.sha256 == sha256]
        source = ImageSource(root="nowhere", preparation=preparation, sides=(), with_high=True)
        assert np.array_equal(image_at(source, row, reference), read_image(images, row, preparation))


def found_within(file, seconds):
    """Whether a file comes, where a worker waits for it."""
    end = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return file.exists()


def test_a_worker_answers_while_the_driver_goes_on(cluster, tmp_path):
    file = tmp_path / "made meanwhile"
    answer = worker_asked(partial(found_within, file, 60.0))
    file.touch()
    assert answer()


def test_unreadable_images_are_told_and_keep_nothing(cluster, tmp_path):
    folder = draw_images(tmp_path / "images", (40, 4, 4), SIZE)
    Path(folder, "train", "c0", "3.png").write_bytes(b"no image")
    inspection = inspected(read_images(folder), str(tmp_path), preparations([NEED]), allow=("unreadable",))
    assert [path for path, _ in inspection.table.skipped] == ["train/c0/3.png"]
    assert {sha256 for sha256, _ in inspection.decoded} == {row.sha256 for row in inspection.table.rows()}


def test_an_image_that_cannot_be_prepared_as_asked_ends_no_task_of_inspection(cluster, tmp_path):
    folder = draw_images(tmp_path / "images", (40, 4, 4), SIZE)
    path = Path(folder, "train", "c0", "3.png")
    Image.open(path).convert("L").save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    asked = dataclasses.replace(SQUARE, srgb=True)
    found = inspected(read_images(folder), str(tmp_path), [asked])
    assert [path for path, _ in found.table.skipped] == ["train/c0/3.png"]


def test_room_follows_from_memory_and_disk(cluster, monkeypatch):
    monkeypatch.setattr(keeping, "on_every_host", lambda _: [4000, 1000])
    monkeypatch.setattr(keeping, "computing_hosts", lambda: [{"object_store_memory": 600.0}, {"CPU": 1.0}])
    assert room_for_decoded() == 300 + 2 * 250


def test_a_table_with_hashes_is_taken_as_it_is(read_again, tmp_path):
    table = read_images(str(next(Path(read_again.uri).parents[1].glob("tables/*.parquet"))))
    assert inspected(table, str(tmp_path)) == Inspection(table=table)
    assert not (tmp_path / "inspected").exists()


# --- what is said ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_of_rays_reaches_stderr(cluster, images, tmp_path, capfd):
    preload(images, NEED, str(tmp_path))
    said = capfd.readouterr().err
    assert "about" in said
    assert "constructor" not in said
