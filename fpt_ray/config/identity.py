"""Identity: which question a number answers. One digest of all that determines it; the first field in which two differ.

An identity is flat: {field: a plain value}. What may differ without changing numbers, such as paths and the number of
workers, is left out where an identity is made.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Identity = Mapping[str, Any]
_EARLIER = {"loss.weights": ("training.class_weights", {"none": False, "balanced": True})}
"""{field: (the name it had, {its value: the value it had})}: what was asked by that name is the same question."""
_UNSAID = {
    "loss.focal_gamma": (0.0,),
    "training.sampling": ("shuffled",),
    "training.select_by": ("auto", "auc"),
    "features.intensity": ("full",),
    "features.window": (None,),
    "features.percentiles": ((0.5, 99.5),),
    "features.aspect": ("squash",),
    "features.crop_black": (None,),
    "features.srgb": (False,),
    "features.reduced_scale": (False,),
    "augment.min_area": (0.8,),
    "augment.horizontal_flip": (0.5,),
    "augment.vertical_flip": (0.0,),
    "augment.rotation_degrees": (0.0,),
    "augment.blur_sigma": (0.0,),
    "augment.jitter": (0.2,),
}
"""{field: the values that mean what all trials did before there was the field}; with these it is left out."""


def identifying(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values by their dotted names as they count for its identity.

    Trials of before a field was named or added have the identity that they had. Where weights lie does not count; their
    digest does.
    """
    found = {name: value for name, value in values.items() if value not in _UNSAID.get(name, ())}
    del found["backbone.weights"]
    for name, (earlier, meant) in _EARLIER.items():
        found[earlier] = meant[found.pop(name)]
    return found


def as_text(identity: Identity) -> str:
    """An identity as JSON, sorted by field, so that equal ones are equal texts."""
    return json.dumps(dict(identity), sort_keys=True)


def digest_of(identity: Identity) -> str:
    """SHA-256 (hex) of an identity."""
    return hashlib.sha256(as_text(identity).encode()).hexdigest()


def difference(found: Identity, asked: Identity) -> str | None:
    """The first field in which two identities differ, with both values; None where they are equal."""
    one, other = (json.loads(as_text(identity)) for identity in (found, asked))
    for name in sorted({*one, *other}):
        if name not in one or name not in other or one[name] != other[name]:
            has, wants = (_shown(identity, name) for identity in (one, other))
            return f"{name} is {has} there, {wants} is asked"
    return None


def _shown(identity: Identity, name: str) -> str:
    text = json.dumps(identity[name]) if name in identity else "nothing"
    return text if len(text) <= 120 else f"{text[:117]}..."
