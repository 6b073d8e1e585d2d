"""How much each searched parameter mattered, as a study stores it beside its pictures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

FILE = "importances.json"
"""In the study's folder, and beside its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Importances:
    """What each parameter did for each target."""

    title: str
    """What the shares are of, and how they were estimated."""
    shares: Mapping[str, Mapping[str, float]]
    """{target: {parameter: its share}}; those of a target add up to 1, the largest first for the first target."""


def as_json(found: Importances) -> str:
    """As JSON."""
    return json.dumps(asdict(found), indent=1)


def importances_from(text: str) -> Importances:
    """What ``as_json`` has written."""
    return Importances(**json.loads(text))
