"""Keys, values and importance of the LPM's tokens, heard on the way of its own attention: no model is forked.

Dimension letters stand in ``side_network.py``; here additionally R is the resolution in pixels and N the number of
tokens, prefix tokens (class token, registers) included.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers.attention import Attention
from torch import Tensor

from fpt_ray.config.trial import Importance
from fpt_ray.models.backbone import ViT
from fpt_ray.models.lpm_attention import (
    Heard,
    Listening,
    Way,
    attention_and_mean,
    attention_and_mean_twice,
    mean_attention,
    way_for,
)


class Extracted(NamedTuple):
    """Features of L blocks; tokens are sorted by importance, best first, for each head by its own scores."""

    keys: Float[Tensor, "L B H T E"]
    values: Float[Tensor, "L B H T E"]
    tokens: Int[Tensor, "L B H T"]
    summaries: Float[Tensor, "M 2 B D"] | None = None
    """What each of the LPM's M blocks puts out: its class token (without one, what the LPM would pool of it after the
    last norm), and the mean of its patch tokens."""


class _Captured(Exception):
    """Ends the forward pass once the last of the blocks has made its keys and values."""


@torch.no_grad()
def extract(
    model: ViT,
    images: Float[Tensor, "B 3 R R"],
    *,
    blocks: Sequence[int],
    num_kept: int,
    importance: Importance = "global",
    summarised: bool = False,
    score_bytes: int | None = None,
    way: Way | None = None,
) -> Extracted:
    """Keys and values of the important tokens in some blocks, in rising order (Eq. 3, sections 3.4 and 3.5).

    They are what the LPM's own attention multiplies: with its biases, norms and rotary positions. What it adds to the
    products, such as BEiT's bias of relative positions, counts for importance.

    Images are normalised; arithmetic is in the model's own type, importance is summed in float32. Memory grows with N.
    ``summarised`` asks for the class token and the mean patch token of every block, too, for which the LPM is run to
    its end. ``score_bytes`` is how many bytes of scores are held at once, ``way`` how attention is computed. Defaults:
    what suits the device and the model's type.
    """
    layers: list[Any] = list(model.blocks)
    images = images.to(next(model.parameters()).dtype)
    way = way or way_for(images)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    summaries: list[Tensor] = []

    def hear(heard: Heard) -> Tensor | None:
        whole = summarised or torch.compiler.is_exporting()  # to a file goes no exception, and nothing that is not read
        is_last = len(found) + 1 == len(blocks) and not whole
        output = None
        if importance == "class_token":
            scores = mean_attention(heard.of_first_query(), score_bytes)
        elif way is Way.KERNEL_TWICE and heard.bias is None:
            output, scores = attention_and_mean_twice(heard)
        elif way is not Way.PRODUCTS or is_last:
            scores = mean_attention(heard, score_bytes)
        else:
            output, scores = attention_and_mean(heard, score_bytes)
        found.append(_important(heard, scores, num_kept))
        if is_last:
            raise _Captured
        return output

    if way is not Way.KERNEL:
        for layer in layers:
            layer.attn.fused_attn = True  # whatever timm's settings say: ``Listening`` stands in its place
    listening = Listening(hear, way=way, score_bytes=score_bytes)
    handles = [listening.listen(layers[block].attn) for block in blocks]
    hooks_hear = way is Way.KERNEL and all(isinstance(layers[block].attn, Attention) for block in blocks)
    if summarised:
        handles += [
            layer.register_forward_hook(lambda _, __, out: summaries.append(_summary(model, out))) for layer in layers
        ]
    try:
        with nullcontext() if hooks_hear else listening:
            model.forward_features(images)
    except _Captured:
        pass
    finally:
        for handle in handles:
            handle.remove()
    keys, values, tokens = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Extracted(keys, values, tokens, torch.stack(summaries) if summarised else None)


def _summary(model: ViT, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "2 B D"]:
    first = tokens[:, 0]
    if model.cls_token is None:
        first = model.pool(model.norm(tokens))  # type: ignore[operator]  # BEiT, which has no such, has a class token
    return torch.stack([first, tokens[:, model.num_prefix_tokens :].mean(dim=1)])


def _important(
    heard: Heard, scores: Float[Tensor, "B H N"], num_kept: int
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T E"], Int[Tensor, "B H T"]]:
    if torch.compiler.is_exporting():  # for a file, whose format has no stable sort; of one trial nothing is a prefix
        tokens = scores.topk(num_kept, dim=-1).indices
    else:
        # A stable sort, not top-k: ties keep their order, so that fewer tokens are always a prefix of more.
        tokens = scores.argsort(dim=-1, descending=True, stable=True)[..., :num_kept]
    at = tokens.unsqueeze(-1).expand(-1, -1, -1, heard.keys.shape[-1])
    return heard.keys.gather(2, at), heard.values.gather(2, at), tokens
