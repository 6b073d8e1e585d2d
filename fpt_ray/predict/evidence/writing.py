"""The evidence of some images of a prediction: which they are, and the files that are written of them."""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from tqdm.auto import tqdm

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import Target
from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import typeset
from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.findings import OnSquare, read_boxes
from fpt_ray.images.labels import CLASS_TASKS
from fpt_ray.metrics.scores import predicted
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.predict.classifier import Classifier
from fpt_ray.predict.evidence.alike import TrainingImages, alike, label_text, pixels_of, training_images
from fpt_ray.predict.evidence.attention import check_evidence, evidence_of_square, heat
from fpt_ray.predict.evidence.curves import SHARES, curves_of
from fpt_ray.predict.evidence.findings import check_known, finding_scores, placed_findings
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.evidence.picture import Looked, picture_of
from fpt_ray.predict.evidence.worth import Worth, worth_table
from fpt_ray.predict.inputs import square_of_input
from fpt_ray.predict.listing import Listing
from fpt_ray.storage.files import absolute, exists, list_files, write
from fpt_ray.train.bundle import Bundle

TABLE_FILE = "evidence.csv"
PICTURE = re.compile(r"(\d{5,}-[^/]*)\.(npz|png)")
"""The files of an image."""
_NAME_BYTES = 100
_ALIKE = 4
"""Training images beside a picture."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """Which images evidence is written of, as far as it is known before they are predicted."""

    folder: str
    chosen: tuple[int, ...]
    """Numbers of the listing's images."""
    places: Mapping[str, tuple[OnSquare, ...]]
    """{path: where its findings lie} of those that have some."""
    options: EvidenceOptions


def planned_evidence(bundle: Bundle, listing: Listing, options: EvidenceOptions) -> Plan | None:
    """What is to be written, checked before anything is computed; None: nothing is asked for.

    Raises:
        ConfigError: the bundle's method has no evidence, an image is not in the list, a number is too small, the boxes
            cannot be used, or the folder has evidence already, or pictures of other images.
        StorageError: S3 fails.
    """
    if options.evidence is None:
        return None
    check_evidence(bundle.trial)
    folder, preparation = absolute(options.evidence), bundle.spec.preparation
    if exists(f"{folder}/{TABLE_FILE}"):  # written last; a study's page shows all pictures that lie there
        raise ConfigError(f"evidence: {folder} has evidence already; remove it, or give another folder")
    if options.evidence_orders < 0:
        raise ConfigError(f"evidence_orders is {options.evidence_orders}; it must be 0 or more")
    boxes = () if options.boxes is None else tuple(read_boxes(options.boxes))
    if boxes:
        check_known(boxes, listing.paths)
    chosen = chosen_images(options.evidence_images, listing.paths, {box.path for box in boxes})
    if len(chosen) < len(listing.paths) and isinstance(options.evidence_images, int):
        say(f"evidence: of {len(chosen)} of {len(listing.paths)} images, spread over the list (--evidence_images)")
    named = {_stem(number, listing.paths[number]) for number in chosen}
    others = [file.path for file in list_files(folder) if (of := PICTURE.fullmatch(file.path)) and of[1] not in named]
    if others:
        raise ConfigError(
            f"evidence: {folder} has {others[0]}, of an image that is not asked for, perhaps by a run that did not "
            "end; remove such files, or give another folder"
        )
    side = preparation.resolution // backbone_shape(bundle.spec.backbone).patch_size
    places = placed_findings(boxes, listing.root, [listing.paths[number] for number in chosen], preparation, side)
    if options.trained_on is not None:
        options = dataclasses.replace(options, trained_on=absolute(options.trained_on))
    return Plan(folder=folder, chosen=chosen, places=places, options=options)


def chosen_images(asked: int | Sequence[str], paths: Sequence[str], with_findings: set[str]) -> tuple[int, ...]:
    """The numbers of the images that are asked for by name; or of so many, spread evenly, those with findings first.

    Raises:
        ConfigError: there is no such image, or fewer than one is asked for.
    """
    if not isinstance(asked, int):
        numbers = {path: number for number, path in enumerate(paths)}
        if unknown := [path for path in asked if path not in numbers]:
            raise ConfigError(
                f"evidence_images: {unknown[0]} is none of the images; give paths as these have them, such as "
                f"{paths[0]}",
                fields=("evidence_images",),
            )
        return tuple(sorted({numbers[path] for path in asked}))
    if asked < 1:
        raise ConfigError(f"evidence_images is {asked}; it must be 1 or more", fields=("evidence_images",))
    first = [number for number, path in enumerate(paths) if path in with_findings]
    rest = [number for number, path in enumerate(paths) if path not in with_findings]
    found = _spread(first, asked)
    return tuple(sorted([*found, *_spread(rest, asked - len(found))]))


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """All, or so many at even distances, the first and the last among them."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[at] for at in np.linspace(0, len(numbers) - 1, most).round().astype(int)]


# --- writing --------------------------------------------------------------------------------------------------


def write_evidence(classifier: Classifier, listing: Listing, plan: Plan, answers: pa.Table, workdir: str) -> str:
    """Writes a picture and an array file for each image that is planned, and a table of all; returns it as text.

    Args:
        classifier: what looks.
        listing: all images.
        plan: of which of them, and what.
        answers: the rows of ``pipeline.answer_rows`` of all images; those with an error are passed over.
        workdir: where the store of the training images lies, if it does.

    Raises:
        ConfigError: an image has gone.
        StorageError: S3 fails.
    """
    bundle, options = classifier.bundle, plan.options
    errors, hashes = (answers[name].to_pylist() for name in ("error", "sha256"))
    numbers = [number for number in plan.chosen if not errors[number]]
    preparation = bundle.spec.preparation
    trained, remark = _training_images(bundle, workdir, options.trained_on, listing)
    found = []
    for number in tqdm(numbers, desc="evidence", unit="image", mininterval=1):
        looked = looked_at(classifier, listing, number, options.evidence_orders)
        looked = _beside(trained, looked, hashes[number], preparation)
        looked = dataclasses.replace(looked, places=plan.places.get(looked.path, ()))
        stem = f"{plan.folder}/{_stem(number, looked.path)}"
        write(f"{stem}.npz", array_file(looked))
        write(f"{stem}.png", picture_of(looked))
        found.append(_worth(looked))
    rows = typeset(worth_table(found, with_mean=False), "csv")
    write(f"{plan.folder}/{TABLE_FILE}", f"{rows}\n".encode())
    return f"{typeset(worth_table(found, with_mean=True), 'text')}\n{remark}\nwritten to {plan.folder}"


def _stem(number: int, path: str) -> str:
    """What an image's files are called: at most so many bytes of its name that the rest fits into a file's."""
    return f"{number:05d}-{PurePosixPath(path).stem.encode()[:_NAME_BYTES].decode(errors='ignore')}"


def _training_images(
    bundle: Bundle, workdir: str, source: str | None, listing: Listing
) -> tuple[TrainingImages | None, str]:
    """Those of the bundle; and where they cannot be had, why: a worker's stderr is seen by nobody."""
    uri = listing.root if source is None else source
    root = uri.rpartition("/")[0] if uri.endswith((".csv", ".parquet")) else uri
    try:
        return training_images(bundle, workdir, root), ""
    except ConfigError as error:
        return None, f"\nno training images stand beside the pictures: {error}\n"


def looked_at(classifier: Classifier, listing: Listing, number: int, orders: int) -> Looked:
    """What was looked at in an image of a list, and, with random orders, whether that matters.

    Raises:
        ImageError: it cannot be read.
    """
    target, path = classifier.bundle.target, listing.paths[number]
    square = square_of_input(f"{listing.root}/{path}", path, classifier.bundle.spec.preparation)
    evidence = evidence_of_square(classifier, square)
    said, column = answer_of(target, evidence.probabilities)
    curves = curves_of(classifier, square, heat(evidence), column, orders) if orders else None
    label = "" if listing.labels is None else label_text(target, listing.labels[number])
    return Looked(path=path, square=square, answer=said, label=label, evidence=evidence, curves=curves)


def answer_of(target: Target, probabilities: Float[np.ndarray, " C"]) -> tuple[str, int]:
    """(the answer as text, the column of it): the class that is called, the most probable label, or the value."""
    if target.task == "regression":
        return f"{target.classes[0]} {probabilities[0]:.4g}", 0
    if target.task in CLASS_TASKS:
        column = int(predicted(probabilities[None], target.task)[0])
    else:
        column = int(probabilities.argmax())
    return f"{target.classes[column]} {probabilities[column]:.2f}", column


def array_file(looked: Looked) -> bytes:
    """All numbers of a picture as .npz, which ``numpy.load`` reads without pickle."""
    evidence, curves = looked.evidence, looked.curves
    arrays = {
        "blocks": np.array(evidence.blocks),
        "num_prefix": np.array(evidence.num_prefix),
        "tokens": evidence.tokens,
        "attention": evidence.attention,
        "heat": heat(evidence),
        "said": evidence.said,
        "probabilities": evidence.probabilities,
        "findings": np.array(looked.places, np.float64).reshape(-1, 4),
    }
    if evidence.to_prompts is not None:
        arrays |= {"to_prompts": evidence.to_prompts, "uniform_to_prompts": np.array(evidence.uniform_to_prompts)}
    if curves is not None:
        arrays |= {"shares": np.array(SHARES)}
        arrays |= {one.name: getattr(curves, one.name) for one in dataclasses.fields(curves)}
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def _beside(trained: TrainingImages | None, looked: Looked, sha256: str, preparation: Preparation) -> Looked:
    """With the training images that look most like it."""
    if trained is None:
        return looked
    found = alike(trained, looked.evidence.class_token, sha256, _ALIKE)
    pixels = [(one, pixels_of(one, preparation)) for one in found]
    shown = tuple((f"{one.label} {one.cosine:.3f}", square) for one, square in pixels if square is not None)
    return dataclasses.replace(looked, alike=shown)


def _worth(looked: Looked) -> Worth:
    return Worth(
        path=looked.path,
        answer=looked.answer,
        label=looked.label,
        areas=None if looked.curves is None else looked.curves.areas(),
        findings=finding_scores(looked.evidence, looked.places) if looked.places else None,
    )
