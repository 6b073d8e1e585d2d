"""Whether a head keeps the same places of an image and of its mirror image: for that, the LPM is run again."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from fpt_ray.config.trial import BackboneConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.measures import kept_of
from fpt_ray.features.spec import StoreSpec
from fpt_ray.images.decoding import read_square
from fpt_ray.images.file import image_bytes
from fpt_ray.images.pixels import normalise
from fpt_ray.images.table import ImageTable
from fpt_ray.models.backbone import kept_tokens
from fpt_ray.models.importance import extract
from fpt_ray.models.weights import load_backbone, weights_digest


def kept_when_flipped(
    table: ImageTable, spec: StoreSpec, weights: str | None, ratios: Sequence[float]
) -> dict[tuple[int, float], float]:
    """{(block, ratio): of the tokens that a head keeps, the share that it keeps when the image is mirrored}.

    In float32; every image of the table is read.

    Raises:
        ConfigError: the weights are not those of the store, or an image cannot be read.
    """
    model = load_backbone(BackboneConfig(name=spec.backbone, weights=weights), spec.resolution)
    if (digest := weights_digest(model)) != spec.weights_digest:
        raise ConfigError(
            f"weights: {weights or spec.backbone} has the SHA-256 {digest}, the store was made with "
            f"{spec.weights_digest}; give that file"
        )
    numbers = {ratio: kept_tokens(spec.num_tokens, ratio) for ratio in ratios}
    shares = {(block, ratio): 0.0 for block in spec.blocks for ratio in ratios}
    mirrored = mirrored_tokens(spec.num_tokens, model.num_prefix_tokens)
    for row in tqdm(table.rows(), desc="running the LPM on images and mirror images", unit="image", mininterval=1):
        square = read_square(image_bytes(table.root, row), f"{table.root}/{row.path}", spec.preparation)
        image = normalise(torch.from_numpy(square)[None], spec.mean, spec.std)
        found = extract(
            model,
            torch.cat([image, image.flip(-1)]),
            blocks=spec.blocks,
            num_kept=max(numbers.values()),
            importance=spec.importance,
        )
        for block, tokens in zip(spec.blocks, found.tokens.numpy(), strict=True):
            for ratio, number in numbers.items():
                plain, flipped = kept_of(tokens[:, :, :number], spec.num_tokens)
                shares[block, ratio] += float((plain & flipped[:, mirrored]).sum() / (spec.num_heads * number))
    return {key: share / len(table) for key, share in shares.items()}


def mirrored_tokens(num_tokens: int, num_prefix: int) -> np.ndarray:
    """For each token, the one at its place in the mirror image; the prefix has no place."""
    side = math.isqrt(num_tokens - num_prefix)
    patches = np.arange(side * side).reshape(side, side)[:, ::-1].ravel()
    return np.concatenate([np.arange(num_prefix), num_prefix + patches])
