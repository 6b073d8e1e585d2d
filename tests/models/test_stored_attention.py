"""fpt_ray.models.stored_attention against autograd of plain attention to what was converted beforehand."""

import pytest
import torch

from fpt_ray.models import stored_attention
from fpt_ray.models.attention_maps import with_attention_maps
from fpt_ray.models.side_block import attend
from fpt_ray.models.side_network import SideNetwork
from fpt_ray.models.stored_attention import StoredAttention

HEADS, WIDTH, TOKENS = 4, 6, 7
IMAGE_BYTES = HEADS * WIDTH * TOKENS * 8
"""An image's keys in float64."""


def numbers(images, asking, stored, arithmetic=torch.float64, networks=()):
    """Queries that learn, and keys and values in a type."""
    torch.manual_seed(0)
    queries = torch.randn(*networks, HEADS, WIDTH, asking, dtype=arithmetic, requires_grad=True)
    keys, values = torch.randn(2, images, HEADS, TOKENS, WIDTH).to(stored).unbind(0)
    return queries, keys, values


def found_and_gradient(attention, queries, keys, values, arithmetic=torch.float64):
    """What is found, and what the queries learn of a sum in which each number has a weight of its own."""
    found = attention(queries, keys, values)
    weights = torch.arange(found.numel(), dtype=arithmetic).view(found.shape).sin()
    (found.to(arithmetic) * weights).sum().backward()
    gradient, queries.grad = queries.grad, None
    return found.detach(), gradient


def attend_converted(queries, keys, values):
    """The same, of whole batches in the type of the queries."""
    return attend(queries, keys.to(queries.dtype), values.to(queries.dtype))


@pytest.mark.parametrize("asking", [3, 20])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("piece_bytes", [1, IMAGE_BYTES // 2, IMAGE_BYTES, 2 * IMAGE_BYTES, 100 * IMAGE_BYTES])
def test_it_finds_and_learns_what_plain_attention_does_whatever_the_pieces(asking, stored, piece_bytes, monkeypatch):
    """Pieces of a head, of half an image, of one, of two (the last of one) and of all five."""
    monkeypatch.setattr(stored_attention, "_PIECE_BYTES", piece_bytes)
    given = numbers(5, asking, stored)
    for ours, theirs in zip(
        found_and_gradient(StoredAttention(), *given), found_and_gradient(attend_converted, *given), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("images", [1, 4, 5])
@pytest.mark.parametrize("asking", [3, 20])
def test_in_halves_as_on_a_gpu_it_finds_and_learns_the_same(images, asking):
    attention, given = StoredAttention(), numbers(images, asking, torch.float16)
    attention.halves = True
    for ours, theirs in zip(
        found_and_gradient(attention, *given), found_and_gradient(attend_converted, *given), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(attention(*given), attend_converted(*given))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_in_mixed_precision_it_computes_in_autocasts_type_and_learns_in_its_own(stored):
    given = numbers(5, 3, stored, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient = found_and_gradient(StoredAttention(), *given, torch.float32)
    exact = found_and_gradient(attend_converted, *given, torch.float32)
    assert (found.dtype, gradient.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found.float(), exact[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(gradient, exact[1], rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("each_has_its_images", [True, False])
@pytest.mark.parametrize("halves", [False, True])
def test_of_several_networks_each_finds_and_learns_its_own(each_has_its_images, halves, monkeypatch):
    """On a GPU, too, nothing is converted that lives until they go backward."""
    monkeypatch.setattr(stored_attention, "attend", None)
    queries, keys, values = numbers(6, 3, torch.float16, networks=(2,))
    images = None
    if each_has_its_images:
        keys, values, images = keys.unflatten(0, (2, 3)), values.unflatten(0, (2, 3)), 0
    one = StoredAttention()
    one.halves = halves
    attention = torch.func.vmap(one, in_dims=(0, images, images))
    both = found_and_gradient(attention, queries, keys, values)
    weights = torch.arange(both[0].numel(), dtype=torch.float64).view(both[0].shape).sin()
    for network in range(2):
        own = (keys[network], values[network]) if each_has_its_images else (keys, values)
        alone = queries[network].detach().requires_grad_()
        found = attend_converted(alone, *own)
        (found * weights[network]).sum().backward()
        torch.testing.assert_close(both[0][network], found.detach())
        torch.testing.assert_close(both[1][network], alone.grad)


def test_keys_and_values_that_learn_have_their_gradients():
    queries, keys, values = numbers(2, 3, torch.float32)
    keys.requires_grad_()
    found = (attention(queries, keys, values) for attention in (StoredAttention(), attend_converted))
    torch.testing.assert_close(*(torch.autograd.grad(one.square().sum(), keys)[0] for one in found))


def test_of_several_networks_keys_that_learn_are_refused():
    queries, keys, values = numbers(2, 3, torch.float16, networks=(2,))
    keys, values = keys.requires_grad_().unflatten(0, (2, 1)), values.unflatten(0, (2, 1))
    found = torch.func.vmap(StoredAttention())(queries, keys, values)
    with pytest.raises(RuntimeError, match="keys and values of several networks do not learn"):
        found.sum().backward()


def test_a_step_after_inference_has_memory_to_write_into():
    stored_attention._kept.memory.clear()
    given = numbers(2, 3, torch.float16)
    with torch.inference_mode():
        StoredAttention()(*(one.detach() for one in given))
    StoredAttention()(*given).sum().backward()
    assert given[0].grad is not None


@pytest.mark.parametrize("halves", [False, True])
def test_of_no_images_nothing_is_found(halves):
    attention, given = StoredAttention(), numbers(0, 3, torch.float16)
    attention.halves = halves
    assert attention(*given).shape == (0, 3, HEADS * WIDTH)


def test_maps_of_stored_features_are_heard_whole(small_trial, small_shape):
    """Read in pieces, they would not pass where maps are heard."""
    model = SideNetwork(small_trial, small_shape, 3).eval()
    keys, values = (
        torch.randn(2, small_trial.side.depth, 2, small_shape.num_heads, TOKENS, small_shape.head_width)
        .half()
        .unbind(0)
    )
    images = torch.randn(2, 3, *[small_trial.side.resolution] * 2)
    stored, converted = (
        with_attention_maps(model, (images, *kinds)) for kinds in ((keys, values), (keys.float(), values.float()))
    )
    torch.testing.assert_close(stored[0], converted[0])
    torch.testing.assert_close(stored[1].of_prompts, converted[1].of_prompts)
    torch.testing.assert_close(stored[0], model(images, keys, values))


def test_no_more_than_a_piece_is_ever_converted(monkeypatch):
    """Neither forward nor backward: the largest tensor in the type of the arithmetic is a piece's."""
    monkeypatch.setattr(stored_attention, "_PIECE_BYTES", IMAGE_BYTES)
    given = numbers(32, 3, torch.float16)
    sizes = set()

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made = isinstance(result, torch.Tensor) and result.dtype == torch.float64
            if made and not func.is_view and result.shape[-2:] == (TOKENS, WIDTH):
                sizes.add(result.numel() * 8)
            return result

    with Sizes():
        StoredAttention()(*given).sum().backward()
    assert sizes == {IMAGE_BYTES}
