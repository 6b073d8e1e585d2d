"""Augmentation, compared with torchvision's functions, image by image."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from fpt_ray.config.augmentation import AugmentConfig
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.images.augmentation import Augmentation, augment, draw_augmentation
from tests.images.test_images import photo

AUTHORS = AugmentConfig()
STILL = AugmentConfig(min_area=1.0, horizontal_flip=0.0, jitter=0.0)
"""Nothing happens to an image."""
ALL = AugmentConfig(min_area=0.5, vertical_flip=0.5, rotation_degrees=30, blur_sigma=1.5, jitter=0.4)


def by_hand(image: torch.Tensor, size: int, *, seed: int, epoch: int, row: int) -> torch.Tensor:
    """One image after another: cut out, interpolate, flip, colour with torchvision."""
    draw = draw_augmentation(size, AUTHORS, seed=seed, epoch=epoch, row=row)
    pixels = image.permute(2, 0, 1).float() / 255
    crop = pixels[:, draw.top : draw.top + draw.height, draw.left : draw.left + draw.width]
    out = F.interpolate(crop[None], size=(size, size), mode="bilinear", align_corners=False)[0]
    out = out.flip(2) if draw.flip else out
    steps = [(reference.adjust_brightness, draw.brightness), (reference.adjust_contrast, draw.contrast)]
    for change, factor in steps if draw.brightness_first else steps[::-1]:
        out = change(out, factor)
    return out


def test_augment_equals_a_loop_over_images() -> None:
    size, rows = 48, list(range(24))
    batch = torch.from_numpy(np.stack([photo(row, size, size) for row in rows]))
    expected = torch.stack(
        [by_hand(image, size, seed=3, epoch=5, row=row) for image, row in zip(batch, rows, strict=True)]
    )
    draws = [draw_augmentation(size, AUTHORS, seed=3, epoch=5, row=row) for row in rows]
    assert {draw.flip for draw in draws} == {draw.brightness_first for draw in draws} == {True, False}
    augmented = augment(batch, AUTHORS, seed=3, epoch=5, rows=rows)
    assert augmented.shape == (24, 3, size, size)
    assert augmented.dtype == torch.float32
    assert torch.allclose(augmented, expected, atol=2e-5)


@pytest.mark.parametrize("settings", [AUTHORS, ALL], ids=["authors", "all"])
@pytest.mark.parametrize("size", [32, 256])
def test_a_row_is_augmented_alike_in_every_batch(size: int, settings: AugmentConfig) -> None:
    batch = torch.from_numpy(np.stack([photo(row, size, size) for row in range(6)]))
    together = augment(batch, settings, seed=1, epoch=2, rows=range(6))
    turned = augment(batch.flip(0), settings, seed=1, epoch=2, rows=[5, 4, 3, 2, 1, 0]).flip(0)
    alone = torch.cat([augment(batch[row : row + 1], settings, seed=1, epoch=2, rows=[row]) for row in range(6)])
    assert torch.equal(together, turned)
    assert torch.equal(together, alone)


def test_seed_epoch_and_row_each_change_the_draw() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    draws = {draw_augmentation(128, AUTHORS, seed=seed, epoch=epoch, row=row) for seed, epoch, row in keys}
    assert len(draws) == len(keys)
    assert draw_augmentation(128, AUTHORS, seed=4, epoch=5, row=6) == draw_augmentation(
        128, AUTHORS, seed=4, epoch=5, row=6
    )


def test_draws_keep_to_their_ranges() -> None:
    size, count = 1000, 2000
    draws = [draw_augmentation(size, AUTHORS, seed=0, epoch=0, row=row) for row in range(count)]
    for draw in draws:
        assert 0 <= draw.top <= size - draw.height
        assert 0 <= draw.left <= size - draw.width
        assert 0.798 <= draw.height * draw.width / size**2 <= 1
        assert 0.698 <= draw.width / draw.height <= 1.302
        assert 0.8 <= draw.brightness <= 1.2
        assert 0.8 <= draw.contrast <= 1.2
    for share in (np.mean([draw.flip for draw in draws]), np.mean([draw.brightness_first for draw in draws])):
        assert abs(share - 0.5) < 0.05
    assert min(draw.brightness for draw in draws) < 0.81
    assert max(draw.contrast for draw in draws) > 1.19


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    size, count = 224, 3000
    image = torch.zeros(3, size, size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.8, 1.0], [0.7, 1.3]) for _ in range(count)])
    draws = [draw_augmentation(size, AUTHORS, seed=0, epoch=1, row=row) for row in range(count)]
    ours = np.array([(draw.top, draw.left, draw.height, draw.width) for draw in draws])
    error = np.sqrt(theirs.var(axis=0) / count + ours.var(axis=0) / count)
    assert (np.abs(theirs.mean(axis=0) - ours.mean(axis=0)) < 4 * error).all()
    assert np.allclose(theirs.std(axis=0), ours.std(axis=0), rtol=0.1)


def test_as_many_rows_as_images_are_asked_for() -> None:
    with pytest.raises(ValueError, match="1 images but 2 rows"):
        augment(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), AUTHORS, seed=0, epoch=0, rows=[0, 1])


# --- beyond the authors' ----------------------------------------------------------------------------------------


def test_the_authors_draws_are_those_of_before_there_were_others():
    """Written down then."""
    assert draw_augmentation(128, AUTHORS, seed=3, epoch=5, row=7) == Augmentation(
        top=3,
        left=6,
        height=124,
        width=122,
        flip=True,
        brightness=0.8830456696778388,
        contrast=0.9968038302914578,
        brightness_first=False,
        flip_vertically=False,
        degrees=0.0,
        sigma=0.0,
    )


def test_a_setting_changes_no_other_draw():
    plain = draw_augmentation(128, AUTHORS, seed=3, epoch=5, row=7)
    others = [
        (AugmentConfig(vertical_flip=1.0), {"flip_vertically"}),
        (AugmentConfig(rotation_degrees=10), {"degrees"}),
        (AugmentConfig(blur_sigma=2), {"sigma"}),
        (AugmentConfig(jitter=0.1), {"brightness", "contrast"}),
        (AugmentConfig(horizontal_flip=1.0), {"flip"}),
    ]
    for settings, changed in others:
        found = draw_augmentation(128, settings, seed=3, epoch=5, row=7)
        before, after = dataclasses.asdict(plain), dataclasses.asdict(found)
        assert {name for name in after if after[name] != before[name]} - changed == set()
    turned = [draw_augmentation(9, AugmentConfig(rotation_degrees=10), seed=0, epoch=0, row=row) for row in range(400)]
    assert min(draw.degrees for draw in turned) < -9
    assert 9 < max(draw.degrees for draw in turned) <= 10
    flipped = [draw_augmentation(9, AugmentConfig(vertical_flip=0.2), seed=0, epoch=0, row=row) for row in range(400)]
    assert abs(np.mean([draw.flip_vertically for draw in flipped]) - 0.2) < 0.06


def images_of(size, count=6):
    return torch.from_numpy(np.stack([photo(row, size, size) for row in range(count)]))


def as_floats(batch):
    return batch.permute(0, 3, 1, 2).float() / 255


def test_nothing_happens_where_all_is_off():
    batch = images_of(32)
    assert torch.equal(augment(batch, STILL, seed=0, epoch=0, rows=range(6)), as_floats(batch))


@pytest.mark.parametrize(("name", "axis"), [("vertical_flip", 2), ("horizontal_flip", 3)])
def test_flips_turn_an_axis_round(name, axis):
    batch = images_of(32)
    found = augment(batch, dataclasses.replace(STILL, **{name: 1.0}), seed=0, epoch=0, rows=range(6))
    assert torch.equal(found, as_floats(batch).flip(axis))


def test_a_turn_is_torchvisions_within_the_circle():
    size, settings = 64, dataclasses.replace(STILL, rotation_degrees=90)
    batch = F.interpolate(as_floats(images_of(16)), size=(size, size), mode="bilinear")  # smooth
    batch = (batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found = augment(batch, settings, seed=1, epoch=0, rows=range(6))
    draws = [draw_augmentation(size, settings, seed=1, epoch=0, row=row) for row in range(6)]
    assert min(draw.degrees for draw in draws) < 0 < max(draw.degrees for draw in draws)
    away = np.hypot(*np.mgrid[-31.5:32, -31.5:32])
    inside = torch.from_numpy(away < 30)
    for image, draw, ours in zip(as_floats(batch), draws, found, strict=True):
        bilinear = reference.InterpolationMode.BILINEAR
        theirs = reference.rotate(image, draw.degrees, interpolation=bilinear)
        assert (ours - theirs)[:, inside].abs().max() < 1e-3


def test_corners_that_a_turn_brings_in_are_filled_from_the_edge():
    batch = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    found = augment(batch, dataclasses.replace(STILL, rotation_degrees=180), seed=1, epoch=0, rows=[0])
    assert torch.allclose(found, torch.tensor(200 / 255))


def test_a_blur_is_torchvisions_away_from_the_edge():
    size, settings = 48, dataclasses.replace(STILL, blur_sigma=2.0)
    batch = images_of(size)
    found = augment(batch, settings, seed=1, epoch=0, rows=range(6))
    for row, (image, ours) in enumerate(zip(as_floats(batch), found, strict=True)):
        sigma = draw_augmentation(size, settings, seed=1, epoch=0, row=row).sigma
        assert 0 < sigma < 2
        theirs = reference.gaussian_blur(image, [13, 13], [sigma, sigma])
        assert (ours - theirs)[:, 6:-6, 6:-6].abs().max() < 1e-5
    even = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    assert torch.allclose(augment(even, settings, seed=1, epoch=0, rows=[0]), torch.tensor(200 / 255))


def test_settings_are_searched_as_any_other():
    space = parse_space(
        "space: {augment.rotation_degrees: {low: 0, high: 30}, augment.vertical_flip: {choices: [0.0, 0.5]}}\n"
        "fixed: {augment.blur_sigma: 1.0}"
    )
    trial = space.trial({"augment.rotation_degrees": 12.5, "augment.vertical_flip": 0.5})
    assert trial.augment == AugmentConfig(rotation_degrees=12.5, vertical_flip=0.5, blur_sigma=1.0)
    assert len(space.stores()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_area", 0.0),
        ("min_area", 1.1),
        ("horizontal_flip", -0.1),
        ("vertical_flip", 1.5),
        ("rotation_degrees", 181.0),
        ("blur_sigma", -1.0),
        ("jitter", 1.0),
    ],
)
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"augment\.{name} is {value}"):
        AugmentConfig(**{name: value})
