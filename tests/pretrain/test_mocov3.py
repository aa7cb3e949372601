"""MoCo v3 against its algorithm, on one rank and on several."""

import copy

import pytest
import torch
import torch.nn.functional as F

from pretrain.architecture import MocoConfig
from pretrain.augment import AugmentConfig
from pretrain.mocov3 import BatchNorm, Mlp, contrast
from pretrain.objective import Alone, Views
from tests.pretrain.objectives import MOCO, VIEWS, build, pairs, prepared
from tests.pretrain.ranks import on_ranks


def literal_contrast(q1, q2, k1, k2, temperature: float = 0.2) -> float:
    """Chen, Xie, He, Algorithm 1, in float64 with loops over queries."""

    def ctr(q, k):
        total = 0.0
        for i in range(len(q)):
            logits = torch.stack([F.cosine_similarity(q[i], k[j], dim=0) for j in range(len(k))]) / temperature
            total += (torch.logsumexp(logits, 0) - logits[i]).item()
        return 2 * temperature * total / len(q)

    return ctr(q1.double(), k2.double()) + ctr(q2.double(), k1.double())


def test_contrast_is_algorithm_1() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    loss, top1 = contrast(q, F.normalize(k, dim=-1), 0.2, rank=0)
    assert abs(loss.item() - literal_contrast(q[0], q[1], k[0], k[1])) < 1e-5
    nearest = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).flip(0).mT).argmax(-1)
    assert torch.isclose(top1, (nearest == torch.arange(5)).float().mean())


def test_equal_views_of_different_frames_have_the_closed_form() -> None:
    eye = torch.eye(4).expand(2, -1, -1)
    loss, top1 = contrast(3 * eye, eye, 0.5, rank=0)
    expected = 2 * 2 * 0.5 * torch.log(1 + 3 * torch.exp(torch.tensor(-1 / 0.5)))
    assert torch.isclose(loss, expected) and top1 == 1


def test_batch_norm_is_torchs_of_each_view() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5) * 3 + 2
    ours, theirs = BatchNorm(5, affine=True), torch.nn.BatchNorm1d(5)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.arange(5.0))
            norm.bias.fill_(0.5)
    expected = torch.stack([theirs(view) for view in x])
    assert torch.allclose(ours(x, Alone()), expected, atol=1e-5)
    assert dict(ours.named_buffers()) == {}, "no running statistics"
    assert torch.allclose(ours.eval()(x, Alone()), expected, atol=1e-5), "nor another mode"


def test_heads_have_the_papers_layers() -> None:
    model = build("mocov3", mocov3=MocoConfig())
    assert [tuple(layer.weight.shape) for layer in model.projector.linear] == [(4096, 32), (4096, 4096), (256, 4096)]
    assert [tuple(layer.weight.shape) for layer in model.predictor.linear] == [(4096, 256), (256, 4096)]
    for head in (model.projector, model.predictor):
        assert [norm.weight is not None for norm in head.norm] == [True] * (len(head.norm) - 1) + [False]
        assert all(layer.bias is None for layer in head.linear)


def test_whole_loss_from_encoder_heads_and_keys() -> None:
    model = build("mocov3")
    batch = prepared(model)
    losses = model(batch)
    queries, keys = [], []
    for view in batch.views:
        z = _head(model.projector, model.encoder(view)[:, 0])
        queries.append(_head(model.predictor, z))
        keys.append(z)  # the teacher starts as the student
    assert abs(losses.total.item() - literal_contrast(*queries, *keys)) < 1e-4


def _head(mlp: Mlp, x: torch.Tensor) -> torch.Tensor:
    """A head with torch's own batch norm, one view."""
    last, x = len(mlp.linear) - 1, x.float()
    for i, (linear, norm) in enumerate(zip(mlp.linear, mlp.norm, strict=True)):
        x = F.batch_norm(F.linear(x, linear.weight), None, None, norm.weight, norm.bias, training=True)
        x = x if i == last else F.relu(x)
    return x


def _rank_step(template, frames, seeds, group):
    """One rank's loss terms and gradients on its own rows."""
    model = copy.deepcopy(template)
    model.group = group
    rows = slice(group.rank * len(frames) // group.size, (group.rank + 1) * len(frames) // group.size)
    batch = model.views(frames[rows], seeds[rows], VIEWS)
    teacher = model.make_teacher(torch.device("cpu"))
    teacher.prepare(batch)
    losses = model(batch)
    losses.total.backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_one_two_and_four_ranks_agree_in_losses_and_gradients() -> None:
    template = build("mocov3")
    frames, seeds = pairs(8)
    whole, gradients = _rank_step(template, frames, seeds, Alone())
    for size in (2, 4):
        parts = on_ranks(size, lambda group: _rank_step(template, frames, seeds, group))
        total = torch.stack([losses.total for losses, _ in parts]).mean()
        top1 = torch.stack([losses.terms["top1"] for losses, _ in parts]).mean()
        assert torch.isclose(total, whole.total, rtol=1e-5) and torch.isclose(top1, whole.terms["top1"])
        for name, expected in gradients.items():
            mean = torch.stack([grad[name] for _, grad in parts]).mean(0)  # as data parallelism averages them
            assert torch.allclose(mean, expected, rtol=1e-3, atol=2e-6), name
        alone = torch.stack([_rank_step(template, frames[i::2], seeds[i::2], Alone())[0].total for i in (0, 1)])
        assert not torch.isclose(alone.mean(), whole.total, rtol=1e-3), "ranks by themselves would not agree"


def test_views_are_drawn_each_on_its_own_from_the_first_frame() -> None:
    model = build("mocov3")
    frames, seeds = pairs(6)
    batch = model.views(frames, seeds, VIEWS)
    assert batch.views.shape == (2, 6, 3, 32, 32)
    assert (batch.views[0] - batch.views[1]).abs().mean((1, 2, 3)).min() > 0.05
    swapped = torch.stack([frames[:, 0], frames[:, 1].flip(0)], dim=1)
    assert torch.equal(model.views(swapped, seeds, VIEWS).views, batch.views), "I(t+δ) has no part in it"
    still = model.views(frames, seeds, Views(augment=AugmentConfig(flip=False))).views
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize("frozen", [True, False])
def test_patch_projection_is_frozen_where_asked(frozen: bool) -> None:
    model = build("mocov3", mocov3=MocoConfig(hidden_dim=48, out_dim=16, frozen_patches=frozen))
    model(prepared(model)).total.backward()
    assert (model.encoder.patch_embed.proj.weight.grad is None) == frozen
    assert model.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_keys_get_no_gradient_and_stay_float32() -> None:
    model = build("mocov3", mocov3=MOCO)
    batch = prepared(model).to(torch.bfloat16)
    assert batch.keys.dtype == torch.float32 and not batch.keys.requires_grad
    assert batch.views.dtype == torch.bfloat16
    assert torch.allclose(batch.keys.norm(dim=-1), torch.ones(2, 4))
