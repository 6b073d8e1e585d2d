"""A bundle that needs nothing else: a copy in which the LPM's weights lie, too."""

from fpt_ray.errors import ConfigError
from fpt_ray.models.weights import backbone_bytes
from fpt_ray.storage.files import absolute, list_files, read_bytes
from fpt_ray.train.bundle import read_bundle, with_backbone_at, write_bundle
from fpt_ray.train.card import model_card


def write_packed(bundle: str, out: str, backbone: str | None = None) -> str:
    """Writes the copy of a bundle's folder; returns what was written, in a line.

    Args:
        bundle: the folder of the bundle.
        out: the folder of the copy.
        backbone: the file of the LPM's weights, if they are not where they were.

    Raises:
        ConfigError: there is something at ``out``, or the LPM's weights cannot be had or are others.
    """
    folder = absolute(out)
    if list_files(folder):
        raise ConfigError(f"out: {out} holds files already; give another folder")
    read = with_backbone_at(read_bundle(bundle), backbone)
    weights = backbone_bytes(read.trial.backbone, read.weights_digest)
    own = [file.path for file in list_files(bundle) if file.path.endswith(".png") and "/" not in file.path]
    pictures = {name: read_bytes(f"{bundle}/{name}") for name in own}
    write_bundle(read, folder, model_card(read, folder, whole=True), weights, pictures)
    return (
        f"written to {folder}: the bundle and the weights of {read.trial.backbone.name}, {len(weights) / 1e6:,.0f} MB"
    )
