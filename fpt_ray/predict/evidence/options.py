"""The options of evidence; they load no large library."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceOptions:
    """What is written of what the networks looked at."""

    evidence: str | None = None
    """A folder to write, for some of the images, what the networks looked at: of each a picture (the important tokens
    that heads keep, the attention that they are paid, what the side network pays to its prompts) and an array file, and
    a table of what this evidence is worth. For fpt+, fpt and probe."""
    evidence_images: int | tuple[str, ...] = 16
    """With evidence: the images, by their paths as out has them; or how many at most, spread over the list, those that
    boxes has first."""
    evidence_orders: int = 3
    """With evidence: the number of random orders that patches are deleted and inserted in beside the order of their
    attention. The LPM is run 17 times for an image, and 14 times more for each order. With 0 nothing is deleted or
    inserted."""
    boxes: str | None = None
    """With evidence: a table (CSV, Parquet) of known findings: image (its path as out has it), x0, y0, x1, y1 in
    pixels."""
    trained_on: str | None = None
    """With evidence: the folder or table of images that it was trained on, the most alike of which are shown, by the
    feature store of workdir. Default: that of images."""
