"""Equal values and images that look alike: compared with every pair by hand, and perceptual hashes with their steps."""

import io
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.fft import dctn

from fpt_ray.datasets.checks import alike
from fpt_ray.datasets.checks.alike import as_binary, look_alike, numbered, perceptual_hash, repeated, torn


def smooth(seed=0, size=(90, 120)):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def apart(one, other):
    return (one ^ other).bit_count()


# --- equal values ---------------------------------------------------------------------------------------------


def test_equal_values_have_one_number_whatever_they_are():
    texts = numbered(pa.array(["b", "a", "b", "c"]))
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3
    hashes = np.arange(128, dtype=np.uint8).reshape(4, 32)
    hashes[3] = hashes[1]
    rows = numbered(as_binary(hashes))
    assert rows[1] == rows[3]
    assert len(set(rows)) == 3
    assert numbered(pa.array(["x", "y", "x"]).dictionary_encode()).tolist() == [0, 1, 0]
    assert numbered(pa.chunked_array([["x"], ["y", "x"]])).tolist() == [0, 1, 0]


def test_repeated_and_torn():
    numbers = np.array([0, 1, 0, 2, 2, 1])
    assert repeated(numbers).tolist() == [True] * 6
    assert repeated(np.array([0, 1, 0])).tolist() == [True, False, True]
    assert torn(numbers, np.array([0, 0, 2, 1, 1, -1])).tolist() == [True, True, True, False, False, True]
    assert torn(numbers, np.array([0.5, 1.5, 0.5, 2.0, 2.5, 1.5])).tolist() == [False, False, False, True, True, False]
    assert not len(repeated(np.zeros(0, int)))
    assert not len(torn(np.zeros(0, int), np.zeros(0, int)))


# --- one hash -------------------------------------------------------------------------------------------------


def test_a_hash_is_that_of_its_definition():
    """Zauner 2010, as ImageHash has it: the lowest 64 frequencies of 32 x 32 grey values against their median."""
    pixels = smooth(size=(32, 32))
    grey = np.array(Image.fromarray(pixels).convert("L"), float)
    low = dctn(grey)[:8, :8].ravel()
    bits = "".join("1" if one > np.median(low) else "0" for one in low)
    assert perceptual_hash(pixels) == int(bits, 2)


def test_a_hash_stays_where_an_image_is_stored_or_lit_otherwise():
    pixels = smooth(size=(360, 480))
    image, own = Image.fromarray(pixels), perceptual_hash(pixels)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=40)
    others = [Image.open(jpeg), image.resize((240, 180)), image.point(lambda value: int(value * 0.8))]
    assert all(apart(own, perceptual_hash(np.array(other.convert("RGB")))) <= alike.MOST_BITS for other in others)
    assert all(apart(own, perceptual_hash(smooth(seed, (360, 480)))) > alike.MOST_BITS for seed in range(1, 20))


# --- many hashes ----------------------------------------------------------------------------------------------


def by_hand(hashes, most_bits):
    """Groups by comparing every pair, as long as that joins some."""
    groups = list(range(len(hashes)))
    for place, one in enumerate(hashes):
        for other in range(place):
            if apart(int(one), int(hashes[other])) <= most_bits and groups[other] != groups[place]:
                groups = [groups[other] if group == groups[place] else group for group in groups]
    return groups


def same_groups(one, other):
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


@pytest.mark.parametrize("most_bits", [0, 1, 4, 7])
def test_those_that_look_alike_are_found_as_by_comparing_all(most_bits):
    generator = np.random.default_rng(most_bits)
    hashes = generator.integers(0, 2**63, 150, np.uint64) * np.uint64(2)
    for changed in range(60):  # copies of earlier ones, with up to nine bits changed
        bits = generator.permutation(64)[: generator.integers(0, 10)]
        hashes[90 + changed] = hashes[changed] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    found = look_alike(hashes, most_bits)
    assert found.exhaustive
    assert same_groups(found.groups.tolist(), by_hand(hashes, most_bits))
    assert 90 <= len(set(found.groups.tolist())) < 150


def test_hashes_that_have_much_in_common_are_compared_with_their_neighbours(monkeypatch):
    close = np.random.default_rng(0).integers(0, 2**9, 300, np.uint64)
    assert same_groups(look_alike(close).groups.tolist(), by_hand(close, 4))
    monkeypatch.setattr(alike, "_COMPARISONS", 600)
    found = look_alike(close)
    assert not found.exhaustive
    assert 1 < len(set(found.groups.tolist())) < 20


def test_a_hundred_thousand_images_take_a_second():
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000, np.uint64)
    hashes[:1000] = hashes[1000:2000] ^ np.uint64(0b1011)
    began = time.process_time()
    found = look_alike(hashes)
    assert time.process_time() - began < 5  # all pairs would take a minute
    assert len(np.unique(found.groups)) == 99_000
