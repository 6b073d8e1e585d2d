"""A side network with the LPM beside it, run anew in every step: the rungs of Figure 7 before preloading."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.backbone import ViT, backbone_shape, blocks_read, kept_tokens
from fpt_ray.models.importance import extract
from fpt_ray.models.side_network import SideNetwork


class OnlineNetwork(nn.Module):
    """Reads images at the LPM's resolution; the side network's input is down-sampled from them (section 3.3).

    Without prompts there is nothing the side network could read, and the LPM is left out.
    """

    def __init__(self, trial: TrialConfig, vit: ViT, num_outputs: int) -> None:
        super().__init__()
        shape = backbone_shape(trial.backbone.name)
        self.method, self.resolution = trial.method, trial.side.resolution
        self.blocks = blocks_read(trial.side, shape)
        self.importance = trial.features.importance
        self.num_kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
        self.side = SideNetwork(trial, shape, num_outputs)
        self.score_bytes: int | None = None
        """Of ``extract``. A prediction for another device sets that one's."""
        self.lpm = vit.requires_grad_(False) if self.side.fusion is not None else None

    def train(self, mode: bool = True) -> "OnlineNetwork":
        """The LPM stays in evaluation mode."""
        super().train(mode)
        if self.lpm is not None:
            self.lpm.eval()
        return self

    def forward(
        self, images: Float[Tensor, "B 3 R R"], keep_masks: Float[Tensor, "L B P W"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Logits."""
        low = images
        if images.shape[-1] != self.resolution:
            low = F.interpolate(images, (self.resolution, self.resolution), mode="bicubic", antialias=True)
        if self.lpm is None:
            return self.side(low)
        with torch.no_grad():
            keys, values = self._features(images)
        return self.side(low, keys, values, keep_masks)

    def _features(self, images: Tensor) -> tuple[Float[Tensor, "L B H T E"], Float[Tensor, "L B H T E"]]:
        assert self.lpm is not None
        if self.method == "mlp_transfer":
            tokens = self._block_outputs(images).unsqueeze(2)
            return tokens, tokens
        found = extract(
            self.lpm,
            images,
            blocks=self.blocks,
            num_kept=self.num_kept,
            importance=self.importance,  # type: ignore[arg-type]
            score_bytes=self.score_bytes,
        )
        return found.keys, found.values

    def _block_outputs(self, images: Tensor) -> Float[Tensor, "L B N D"]:
        """All tokens after each of the blocks."""
        assert self.lpm is not None
        outputs = self.lpm.forward_intermediates(
            images,
            indices=list(self.blocks),
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return torch.stack([torch.cat([prefix, patches], dim=1) for patches, prefix in outputs])  # type: ignore[misc]
