"""The method's modules: shapes, causality, and the adapter's attention against the plain formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from motionrag import ContextConfig, MotionContextTransformer, MotionRAGError, PerceiverResampler, ResamplerConfig
from motionrag.models.adapter import AdapterConfig, AdapterSite, MotionAdapter
from motionrag.models.context import block_causal_mask, block_losses, sinusoidal_positions
from motionrag.models.fusion import FUSIONS, fuse
from motionrag.testing import random_tensor, random_weights

RESAMPLER = ResamplerConfig(input_dim=12, width=16, depth=2, heads=3, head_dim=4, queries=5, output_dim=8)
CONTEXT = ContextConfig(width=8, queries=5, layers=2, heads=2, feed_forward=16, max_positions=53)


# Resampler


@torch.no_grad()
def test_resampler_takes_any_length_and_leading_axes():
    resampler = PerceiverResampler(RESAMPLER)
    features = random_tensor(2, 3, 7, 12)
    tokens = resampler(features)
    assert tokens.shape == (2, 3, 5, 8)
    torch.testing.assert_close(tokens[1, 2], resampler(features[1, 2][None])[0])
    assert resampler(random_tensor(1, 1, 12)).shape == (1, 5, 8)


def test_resampler_refuses_features_of_another_encoder():
    with pytest.raises(MotionRAGError, match="features are 13 wide, this resampler takes 12"):
        PerceiverResampler(RESAMPLER)(torch.zeros(1, 7, 13))
    with pytest.raises(MotionRAGError, match="with a batch axis"):
        PerceiverResampler(RESAMPLER)(torch.zeros(7, 12))


# Context transformer


def context_input(B=2, K=3):
    return random_tensor(B, K, 5, 8, seed=1), random_tensor(B, K + 1, 5, 8, seed=2)


@pytest.fixture
def context():
    torch.manual_seed(0)
    return MotionContextTransformer(CONTEXT).eval()


@torch.no_grad()
@pytest.mark.parametrize("K", range(10))
def test_context_takes_any_number_of_references(context, K):
    motion, appearance = context_input(K=K)
    assert context(motion, appearance).shape == (2, K + 1, 5, 8)


def test_context_refuses_more_references_than_positions(context):
    assert CONTEXT.max_references == 9
    with pytest.raises(MotionRAGError, match="10 references are too many: the position table holds 9"):
        context(*context_input(K=10))


def test_context_refuses_shapes_that_do_not_belong_together(context):
    motion, appearance = context_input()
    for wrong in (
        (motion, motion),
        (motion[0], appearance),
        (motion[:1], appearance),
        (motion[..., :4], appearance),
    ):
        with pytest.raises(MotionRAGError, match=r"must be \[B,K,Q,D\] and \[B,K\+1,Q,D\] with Q=5, D=8"):
            context(*wrong)


def test_published_sizes_hold_nine_references():
    assert ContextConfig().max_references == 9


@torch.no_grad()
@pytest.mark.parametrize("i", range(4))
def test_context_is_causal_over_blocks(context, i):
    """Block i's appearance reaches blocks i and later; its motion reaches blocks i + 1 and later."""
    motion, appearance = context_input()
    before = context(motion, appearance)
    changed = appearance.clone()
    changed[:, i] += 1
    after = context(motion, changed)
    torch.testing.assert_close(after[:, :i], before[:, :i], atol=1e-6, rtol=0)
    assert all((after[:, j] - before[:, j]).abs().max() > 1e-3 for j in range(i, 4))
    if i < 3:
        changed = motion.clone()
        changed[:, i] += 1
        after = context(changed, appearance)
        torch.testing.assert_close(after[:, : i + 1], before[:, : i + 1], atol=1e-6, rtol=0)
        assert all((after[:, j] - before[:, j]).abs().max() > 1e-3 for j in range(i + 1, 4))


@torch.no_grad()
def test_context_rows_of_a_batch_are_independent(context):
    """A batch of different prompts gives what each prompt gives alone."""
    motion, appearance = context_input(B=3)
    together = context(motion, appearance)
    for i in range(3):
        torch.testing.assert_close(together[i], context(motion[i : i + 1], appearance[i : i + 1])[0])


def test_context_gradients_equal_inference(context):
    """Training and inference take different kernels in torch; they must agree."""
    motion, appearance = context_input()
    trained = context.train()(motion, appearance)
    with torch.no_grad():
        torch.testing.assert_close(context.eval()(motion, appearance), trained.detach(), atol=1e-5, rtol=1e-5)
    block_losses(trained, torch.zeros_like(trained)).mean().backward()
    assert all(parameter.grad is not None for parameter in context.parameters())


def test_positions_and_mask():
    table = sinusoidal_positions(3, 4, device=torch.device("cpu"), dtype=torch.float32)
    rate = 10_000 ** (-2 / 4)
    expected = [math.sin(2), math.cos(2), math.sin(2 * rate), math.cos(2 * rate)]
    torch.testing.assert_close(table[2], torch.tensor(expected))
    mask = block_causal_mask(2, 2, torch.device("cpu"))
    assert mask.tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2


def test_context_refuses_settings_that_contradict():
    with pytest.raises(MotionRAGError, match="width=10 is not divisible by heads=4"):
        ContextConfig(width=10, heads=4)
    with pytest.raises(MotionRAGError, match="width=9 is odd"):
        ContextConfig(width=9, heads=3)
    with pytest.raises(MotionRAGError, match="max_positions=20 is less than one block, queries=25"):
        ContextConfig(max_positions=20)


# Fusion


def test_fusions():
    motion, similarity = random_tensor(2, 3, 5, 8), torch.tensor([[0.1, 0.9, 0.3], [2.0, 1.0, 0.0]])
    torch.testing.assert_close(fuse("mean", motion, similarity), motion.mean(1))
    torch.testing.assert_close(fuse("top1", motion, similarity), torch.stack([motion[0, 1], motion[1, 0]]))
    weights = (similarity / 0.07).exp() / (similarity / 0.07).exp().sum(1, keepdim=True)
    torch.testing.assert_close(fuse("weighted", motion, similarity), torch.einsum("bk,bkqd->bqd", weights, motion))
    assert torch.equal(fuse("concatenate", motion, similarity)[:, 5:10], motion[:, 1])
    for name in FUSIONS:
        once = fuse(name, motion[:, :1], similarity[:, :1])
        assert torch.equal(once, motion[:, 0]), f"{name} of a single reference is that reference"


def test_fusion_refuses_the_unknown_and_the_empty():
    with pytest.raises(MotionRAGError, match="did you mean 'mean'"):
        fuse("means", torch.zeros(1, 1, 5, 8), torch.zeros(1, 1))
    with pytest.raises(MotionRAGError, match="at least one reference"):
        fuse("mean", torch.zeros(1, 0, 5, 8), torch.zeros(1, 0))


# Adapter


def plain_formula(site, hidden, motion, heads, scale):
    """The published computation, with queries formed and rows repeated."""
    motion = motion.repeat_interleave(len(hidden) // len(motion), dim=0)
    q, k, v = (
        projection(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, x in ((site.to_q, hidden), (site.to_k, motion), (site.to_v, motion))
    )
    return hidden + scale * F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("R", "N", "heads", "queries"), [(1, 1, 4, 5), (2, 6, 2, 3), (3, 3, 8, 25), (1, 4, 1, 1), (2, 4, 8, 5)]
)
def test_motion_attention_is_the_plain_formula(R, N, heads, queries):
    """Whether the queries are folded into the keys (no more tokens than a head is wide) or not."""
    site = AdapterSite(width=32, motion_dim=12)
    random_weights(site)
    hidden, motion = random_tensor(N, 7, 32, seed=1), random_tensor(R, queries, 12, seed=2)
    attention = site.prepare(motion, heads)
    assert (attention.to_q is None) == (queries <= 32 // heads)
    added = attention.scaled(0.7).add_to(hidden)
    torch.testing.assert_close(added, plain_formula(site, hidden, motion, heads, 0.7), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folded_attention_is_as_exact_in_half_precision(dtype):
    """Folding must not cost precision: errors against float64 stay near those of the plain formula.

    At the published head size and token count, with logits of a standard deviation of 2.
    """
    site = AdapterSite(width=256, motion_dim=64)
    random_weights(site, std=0.125)
    hidden, motion = random_tensor(1, 300, 256, seed=1), random_tensor(1, 25, 64, seed=2)
    true = plain_formula(site.double(), hidden.double(), motion.double(), 4, 1.0) - hidden
    site.to(dtype)
    plain = plain_formula(site, hidden.to(dtype), motion.to(dtype), 4, 1.0)
    folded = site.float().prepare(motion, 4).to(plain).add_to(hidden.to(dtype))
    errors = [((out.double() - hidden) - true).square().mean().sqrt() for out in (plain, folded)]
    assert errors[1] < 1.25 * errors[0], f"plain {errors[0]:.2e}, folded {errors[1]:.2e}"


def test_rows_that_do_not_divide_are_refused():
    site = AdapterSite(width=32, motion_dim=12)
    with pytest.raises(MotionRAGError, match="5 hidden rows cannot be shared among 2 rows"):
        site.prepare(torch.zeros(2, 3, 12), 4).add_to(torch.zeros(5, 7, 32))


def test_adapter_needs_sites():
    with pytest.raises(MotionRAGError, match="at least one site"):
        AdapterConfig(base="svd", motion_dim=8, sites={})
    for until in (0.0, 1.5):
        with pytest.raises(MotionRAGError, match="more than 0 and at most 1"):
            AdapterConfig(base="svd", motion_dim=8, sites={"mid.attn2": 16}, until=until)
    with pytest.raises(MotionRAGError, match="no attention layer of Linear matches the sites 'attn'"):
        MotionAdapter.for_denoiser(torch.nn.Linear(1, 1), base="svd", sites="attn", motion_dim=8)
