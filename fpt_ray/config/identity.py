"""Identity: which question a number answers. One digest of all that determines it; the first field in which two differ.

An identity is flat: {field: a plain value}. What may differ without changing numbers, such as paths and the number of
workers, is left out where an identity is made.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Identity = Mapping[str, Any]


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
