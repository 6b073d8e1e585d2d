"""A bundle: the folder that a trained trial leaves for those who only want to use it.

``model.safetensors`` is what was learnt, ``bundle.json`` all that is needed to apply it (and the digests of the other
files), ``README.md`` what it is and what it must not be used for. Nothing in it is pickled. The LPM is not in it,
unless asked for: it is known by its name and the digest of its weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import need_of
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import BackboneConfig, TrialConfig, trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import WIDTH
from fpt_ray.features.spec import StoreSpec, spec_from, store_spec
from fpt_ray.metrics.familiarity import Familiarity
from fpt_ray.metrics.operating_points import OperatingPoint
from fpt_ray.storage.files import absolute, exists, read_bytes, write
from fpt_ray.train.checkpoint import State

SCHEMA_VERSION = 3
"""1: thresholds of two classes alone, and no familiarity. 2: operating points of labels as well. Both are read, but of
grades, whose log odds of being passed are divided by temperatures since 3."""
BUNDLE_FILE, MODEL_FILE, CARD_FILE = "bundle.json", "model.safetensors", "README.md"
FAMILIARITY_FILE = "familiarity.safetensors"
FRONT_FILE = "front.json"
"""Beside the bundles of a study: the names of those whose trials are on its front."""
BACKBONE_FILE = "backbone.safetensors"
_WITHIN = "/"
"""Between the names of nested states, as AdaLoRA and the nearest neighbours keep them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What is needed to apply a trained trial to new images."""

    trial: TrialConfig
    target: Target
    spec: StoreSpec
    """How the LPM's features of an image are computed: no wider than this trial reads them."""
    weights_digest: str
    """Of the LPM."""
    states: tuple[State, ...]
    """What was learnt, with each seed."""
    temperatures: tuple[tuple[float, ...], ...]
    """By which the logits of each seed's network are divided, of each label where there are several; chosen on the
    validation split. Values have none."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Of two classes, or of labels; chosen on the validation split."""
    metrics: Mapping[str, float]
    """{name with its split: value}."""
    data: Mapping[str, Any]
    """What it was trained on: digest of the image table, sizes of the splits, what must be said about the images."""
    identity: str
    """Digest of all that determines the trial's numbers."""
    versions: Mapping[str, str]
    confirms: int | None = None
    """The number of the trial of its study that was trained again with other seeds; None: it confirms none."""
    familiarity: Familiarity | None = None
    """What tells images like the training images from others; None where no LPM looks at a new image, or of a bundle
    that is older than this."""


def write_bundle(
    bundle: Bundle,
    uri: str,
    card: str,
    backbone: bytes | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a bundle's folder, locally or on S3; what makes it a bundle comes last, so that none is ever half one.

    Args:
        bundle: what it holds.
        uri: its folder.
        card: the text of its README.md.
        backbone: the file of the LPM's weights (``models.weights.backbone_bytes``), for a bundle that needs no other.
        pictures: {file: content} of what the card shows.
    """
    tensors, plain = _taken_apart(bundle.states)
    files = {MODEL_FILE: save(tensors), CARD_FILE: card.encode(), **(pictures or {})}
    if backbone is not None:
        files[BACKBONE_FILE] = backbone
    if (known := bundle.familiarity) is not None:
        files[FAMILIARITY_FILE] = save(
            {item.name: torch.from_numpy(getattr(known, item.name)) for item in dataclasses.fields(known)}
        )
    trial = {name: value for name, value in flatten(bundle.trial).items() if name != "backbone.weights"}
    document = {
        "schema_version": SCHEMA_VERSION,
        "trial": trial,
        "task": bundle.target.task,
        "classes": bundle.target.classes,
        "features": dataclasses.asdict(bundle.spec),
        "backbone": {"weights": bundle.trial.backbone.weights, "weights_digest": bundle.weights_digest},
        "seeds": len(bundle.states),
        "state": plain,
        **{
            name: getattr(bundle, name)
            for name in ("temperatures", "metrics", "data", "identity", "versions", "confirms")
        },
        "operating_points": [dataclasses.asdict(point) for point in bundle.operating_points],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    for name, content in files.items():
        write(f"{uri}/{name}", content)
    write(f"{uri}/{BUNDLE_FILE}", json.dumps(document, indent=1).encode())


def read_bundle(uri: str) -> Bundle:
    """The bundle in a folder, the digests of its files checked; that of the LPM's weights is when they are loaded.

    Raises:
        ConfigError: there is none, it is of another version, a file of it is missing or changed, or it prepares images
            otherwise than its trial did.
    """
    folder = absolute(uri)
    if not exists(f"{folder}/{BUNDLE_FILE}"):
        raise ConfigError(f"{uri} is no bundle: it has no {BUNDLE_FILE}; give the folder that a trial left")
    try:
        document = json.loads(read_bytes(f"{folder}/{BUNDLE_FILE}"))
        version = document["schema_version"]
        if version not in range(1, SCHEMA_VERSION + 1):
            raise ConfigError(
                f"{uri}: schema_version is {version}, this program reads 1 to {SCHEMA_VERSION}; update fpt_ray"
            )
        if document["task"] == "ordinal" and version < 3:
            raise ConfigError(
                f"{uri}: schema_version is {version}, and its grades were calibrated so that its scores are not of its"
                " answers; have the study or the run leave it anew, in another working directory"
            )
        digests = document["sha256"]
        for name in digests.keys() - {MODEL_FILE, FAMILIARITY_FILE, BACKBONE_FILE}:
            _checked(folder, name, digests)
        tensors = load(_checked(folder, MODEL_FILE, digests))
        backbone = {**document["backbone"], "own": BACKBONE_FILE in digests}
        trial = trial_from({**document["trial"], "backbone.weights": _weights(folder, backbone)})
        spec = spec_from(document["features"])
        _check_features(folder, spec, trial)
        return Bundle(
            trial=trial,
            target=Target(task=document["task"], classes=tuple(document["classes"])),
            spec=spec,
            weights_digest=backbone["weights_digest"],
            states=_put_together(tensors, document["state"], document["seeds"]),
            temperatures=tuple(map(tuple, document["temperatures"])),
            operating_points=_operating_points(document),
            metrics=document["metrics"],
            data=document["data"],
            identity=document["identity"],
            versions=document["versions"],
            confirms=document.get("confirms"),
            familiarity=_familiarity(folder, digests),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{uri}/{BUNDLE_FILE} cannot be used ({why}); copy it again") from None


def _check_features(folder: str, spec: StoreSpec, trial: TrialConfig) -> None:
    """ConfigError, by the field, where features would be computed otherwise than the trial asks for."""
    asked = store_spec(need_of(trial), weights_digest=spec.weights_digest, precision=spec.precision)
    for name in {item.name for item in dataclasses.fields(spec)} - {*WIDTH, "schema_version"}:
        has, wants = getattr(spec, name), getattr(asked, name)
        if has != wants:
            raise ConfigError(
                f"{folder}/{BUNDLE_FILE}: features has {name} {has}, and its trial was trained with {wants}: they are "
                "of different trials, or one was changed; copy the bundle again"
            )


def _operating_points(document: Mapping[str, Any]) -> tuple[OperatingPoint, ...]:
    if document["schema_version"] == 1:
        found = document["thresholds"].items()
        return tuple(OperatingPoint(name=name, of=document["classes"][1], threshold=least) for name, least in found)
    return tuple(OperatingPoint(**point) for point in document["operating_points"])


def _weights(folder: str, backbone: Mapping[str, Any]) -> str | None:
    """Where the LPM's weights are: in the bundle, or where they were; None: timm has them."""
    if backbone["own"]:
        return f"{folder}/{BACKBONE_FILE}"
    return backbone["weights"]


def _familiarity(folder: str, digests: Mapping[str, str]) -> Familiarity | None:
    if FAMILIARITY_FILE not in digests:
        return None
    return Familiarity(**{name: one.numpy() for name, one in load(_checked(folder, FAMILIARITY_FILE, digests)).items()})


def _checked(folder: str, name: str, digests: Mapping[str, str]) -> bytes:
    try:
        content = read_bytes(f"{folder}/{name}")
    except FileNotFoundError:
        raise ConfigError(f"{folder}/{name} is missing; copy the bundle again") from None
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise ConfigError(f"{folder}/{name} is not the file that {BUNDLE_FILE} names by its sha256; copy it again")
    return content


def bundle_digest(uri: str) -> str:
    """SHA-256 (hex) of all that a bundle holds: its JSON has the digests of the other files."""
    return hashlib.sha256(read_bytes(f"{absolute(uri)}/{BUNDLE_FILE}")).hexdigest()


def with_backbone_at(bundle: Bundle, weights: str | None) -> Bundle:
    """The bundle with its LPM's weights read from another place; None: from where the bundle says."""
    if weights is None:
        return bundle
    backbone = BackboneConfig(name=bundle.trial.backbone.name, weights=weights)
    return dataclasses.replace(bundle, trial=dataclasses.replace(bundle.trial, backbone=backbone))


# --- states as plain tensors --------------------------------------------------------------------------------------


def _taken_apart(states: Sequence[State]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """({seed/name: tensor}, {seed/name: what is no tensor}) of nested states."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}

    def take(value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, dict) and value:
            for name, inner in value.items():
                take(inner, f"{path}{_WITHIN}{name}")
        else:
            plain[path] = value

    for seed, state in enumerate(states):
        take(state, str(seed))
    return tensors, plain


def _put_together(tensors: Mapping[str, Tensor], plain: Mapping[str, Any], seeds: int) -> tuple[State, ...]:
    states: tuple[State, ...] = tuple({} for _ in range(seeds))
    for path, value in {**tensors, **plain}.items():
        seed, *names = path.split(_WITHIN)
        inner = states[int(seed)]
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        if names:
            inner[names[-1]] = value
    return states
