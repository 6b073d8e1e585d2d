"""Whether what was looked at is what there is to be seen: known findings, and the attention that they were paid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fpt_ray.config.preparation import Preparation
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.findings import Box, OnSquare, Sized, on_square, overlapped, size_of
from fpt_ray.features.importance.measures import chance_of_touching, kept_of, touched
from fpt_ray.predict.evidence.attention import Evidence, heat
from fpt_ray.storage.errors import StorageError


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingScores:
    """How what was looked at in an image agrees with its findings; shares are in 0..1."""

    findings: int
    touched: float
    """Of findings, layers and heads, the share where the head keeps a token of a patch that the finding overlaps."""
    touched_by_chance: float
    """What that would be of tokens drawn at random."""
    mass: float
    """The attention on patches that findings overlap, of all attention."""
    mass_if_even: float
    """What that would be if all selected tokens were paid alike: their share that lies on findings."""
    area: float
    """The share of all patches that findings overlap."""
    pointed: bool
    """Whether the patch that is paid most is one of them: the pointing game (Zhang et al., arXiv 1608.00507), whose
    chance is the area."""


def placed_findings(
    boxes: Sequence[Box], root: str, chosen: Sequence[str], preparation: Preparation, patches_a_side: int
) -> Mapping[str, tuple[OnSquare, ...]]:
    """{path: where its findings lie} of those of the chosen images below a root that have findings.

    Of each of these the file is read for its size; one that cannot be read is named and passed over, as by predictions.
    Boxes of other images are passed over.

    Raises:
        ConfigError: a box is empty or lies outside its image.
        StorageError: S3 fails, which says nothing of an image.
    """
    found: dict[str, list[OnSquare]] = {}
    sizes: dict[str, Sized] = {}
    for path in sorted({box.path for box in boxes} & set(chosen)):
        try:
            sizes[path] = size_of(root, path, preparation)
        except StorageError:
            raise
        except ConfigError as error:
            say(f"evidence: {error}")
    for box in boxes:
        if box.path in sizes:
            place = on_square(box, sizes[box.path], patches_a_side)
            if len(overlapped(place, patches_a_side)):
                found.setdefault(box.path, []).append(place)
    return {path: tuple(places) for path, places in found.items()}


def check_known(boxes: Sequence[Box], paths: Sequence[str]) -> None:
    """ConfigError if no box is in any of these images: then its paths are others."""
    if not {box.path for box in boxes} & set(paths):
        raise ConfigError(
            f"boxes: none is in the images; give paths as these have them, such as {paths[0]}", fields=("boxes",)
        )


def finding_scores(evidence: Evidence, places: Sequence[OnSquare]) -> FindingScores:
    """The scores of an image with at least one finding on its square."""
    side, (layers, heads, number) = evidence.patches_a_side, evidence.tokens.shape
    each = [overlapped(place, side) for place in places]
    kept = kept_of(evidence.tokens.reshape(1, layers * heads, number).astype(np.int64), evidence.num_tokens)[0]
    union = np.unique(np.concatenate(each))
    on_findings = np.isin(evidence.tokens, union + evidence.num_prefix)
    paid = evidence.attention.mean(axis=(0, 3))
    return FindingScores(
        findings=len(each),
        touched=float(np.mean([touched(kept, patches + evidence.num_prefix) for patches in each])),
        touched_by_chance=float(
            np.mean([chance_of_touching(evidence.num_tokens, number, len(patches)) for patches in each])
        ),
        mass=float((paid * on_findings).sum() / (layers * heads)),
        mass_if_even=float(on_findings.mean()),
        area=len(union) / side**2,
        pointed=bool(np.isin(heat(evidence).argmax(), union)),
    )
