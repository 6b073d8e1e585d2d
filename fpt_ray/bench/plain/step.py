"""A training step as the authors' procedure takes it, written from the paper and from facts of their code.

From one float32 tensor an image that are collated, it brings layers first and moves keys and values to the device;
every layer's attention keeps its maps, on all tokens; prompts are repeated for every image; AdamW runs over lists of
tensors. Its blocks project queries, keys and values in one product, as ours do, which is in its favour.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.execution import fuse_at_once, run_whole_blocks, unfuse_attention
from fpt_ray.errors import ConfigError
from fpt_ray.images.pixels import normalise
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.methods import make_model
from fpt_ray.models.side_network import FusionModule, SideNetwork

Collated = tuple[Tensor, Tensor, Tensor, Tensor]
"""Low-resolution images (bytes, or numbers in 0..1 with channels first), keys and values image by image, labels."""


def plain_network(trial: TrialConfig, num_outputs: int) -> SideNetwork:
    """The trial's network with the same weights, run as the authors run theirs.

    Raises:
        ConfigError: it is not FPT+ with one norm and one projector.
    """
    side = trial.side
    if trial.method != "fpt+" or not (side.shared_norm and side.shared_projector and side.num_prompts):
        raise ConfigError("the authors' way is compared for --method fpt+ alone, with prompts and shared modules")
    network = make_model(trial, num_outputs)
    assert isinstance(network, SideNetwork)
    unfuse_attention(network, scores_stay=True)
    run_whole_blocks(network)
    fuse_at_once(network)
    return network


def plain_step(network: SideNetwork, trial: TrialConfig, total_steps: int) -> Callable[[Collated], Float[Tensor, ""]]:
    """One step after another as the authors take it; each gives the loss that it began with."""
    training, parameters = trial.training, list(network.parameters())
    rate, decay = training.learning_rate, training.weight_decay
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps)

    def step(batch: Collated) -> Tensor:
        logits = _logits(network, batch, trial)
        loss = F.cross_entropy(logits, batch[3].to(logits.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        schedule.step()
        return loss.detach()

    return step


@torch.no_grad()
def plain_probabilities(network: SideNetwork, batch: Collated, trial: TrialConfig) -> Float[Tensor, "B C"]:
    """What the network says of a batch; it is left in evaluation mode."""
    network.eval()
    assert isinstance(network.fusion, FusionModule)
    dropout = network.fusion.dropout
    probability, dropout.p = dropout.p, 0.0  # fused at once, it is dropped whatever the mode
    logits = _logits(network, batch, trial)
    dropout.p = probability
    return logits.softmax(-1).cpu()


def _logits(network: SideNetwork, batch: Collated, trial: TrialConfig) -> Float[Tensor, "B C"]:
    low_res, keys, values, _ = batch
    device, shape = network.cls_token.device, backbone_shape(trial.backbone.name)
    features = (kind.transpose(0, 1).to(device) for kind in (keys, values))
    return network(normalise(low_res.to(device), shape.mean, shape.std), *features, None)
