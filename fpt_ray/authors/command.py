"""Compares recordings of the authors' code with ours, and converts their checkpoints.

A recording holds inputs, weights, the selected keys and values, logits, loss and gradients of one step.
"""

from pathlib import Path
from typing import Annotated

import tyro

from fpt_ray.config.trial import TrialConfig


def print_comparison(tensors: tyro.conf.Positional[Path], settings: tyro.conf.Positional[Path]) -> int:
    """Print the largest differences between a recording and our code. The exit status is 1 beyond the tolerance.

    Args:
        tensors: The recording's tensors, a .safetensors file.
        settings: The recording's settings, a .json file.
    """
    from fpt_ray.authors.recordings import compare

    found = compare(tensors, settings)
    for difference in found:
        verdict = "ok" if difference.ok else "DIFFERS"
        print(f"{difference.name:<60} {difference.largest:10.3g}  allowed {difference.allowed:<8g} {verdict}")
    return 0 if all(difference.ok for difference in found) else 1


def convert(
    checkpoint: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    num_classes: int,
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = TrialConfig(),  # noqa: B008 (a frozen value)
) -> None:
    """Write the authors' checkpoint as the weights of our side network, and say which keys did not fit.

    Args:
        checkpoint: The authors' checkpoint, a .pth or .safetensors file.
        output: The file to write, a .safetensors file.
        num_classes: The number of classes that the checkpoint tells apart.
        trial: The configuration of the side network.
    """
    from safetensors.torch import save_file

    from fpt_ray.authors.checkpoints import load_authors_checkpoint
    from fpt_ray.models.backbone import backbone_shape
    from fpt_ray.models.side_network import SideNetwork

    model = SideNetwork(trial, backbone_shape(trial.backbone.name), num_classes)
    unfit = load_authors_checkpoint(checkpoint, model)
    save_file(model.state_dict(), output)
    print(f"{output}: {sum(tensor.numel() for tensor in model.state_dict().values()):,} parameters")
    print(f"keys that did not fit: {', '.join(unfit) or 'none'}")


VERBS = {"compare": print_comparison, "convert": convert}
