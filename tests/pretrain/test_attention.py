"""The attention kernels, which of them is chosen, and blocks that keep less."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain import attention, create
from pretrain.architecture import AgreementConfig, ModelConfig
from pretrain.attention import Choice, HeadByHead, attend, choose, step_shapes, using
from pretrain.blocks import Block, Wanted, checkpoint_blocks
from shards.errors import UsageError
from tests.sizes import SIZES

CPU = torch.device("cpu")
SHAPE = (2, 3, 10, 8)


def _tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def _explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


@pytest.mark.parametrize("queries", [10, 1])
def test_head_by_head_is_attention_and_has_its_gradients(queries: int) -> None:
    q, k, v = (x.requires_grad_() for x in _tensors((2, 3, queries, 8), SHAPE, SHAPE))
    assert torch.allclose(HeadByHead.apply(q, k, v), _explicit(q, k, v), atol=1e-12)
    assert torch.autograd.gradcheck(HeadByHead.apply, (q, k, v))


def test_head_by_head_in_bfloat16_is_near_float64() -> None:
    q, k, v = _tensors(*[(1, 2, 197, 64)] * 3)
    narrow = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    out, expected = HeadByHead.apply(*narrow), _explicit(*wide)
    assert (out.double() - expected).abs().max() < 0.02 * expected.abs().max()
    out.sum().backward()
    expected.sum().backward()
    for a, b in zip(narrow, wide, strict=True):
        assert (a.grad.double() - b.grad).abs().max() < 0.03 * b.grad.abs().max()


def test_the_fastest_is_chosen_of_what_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"flash": 3.0, "math": 2.0}
    monkeypatch.setattr(
        attention, "_times", lambda device, shape, dtype, names: {name: times[name] * shape[0] for name in names}
    )
    choice = choose(CPU, [SHAPE, (1, 2, 5, 8)], torch.float32)
    assert choice == Choice("math", "cpu", {"flash": 9.0, "math": 6.0})  # times of all shapes are summed
    assert "flash 9 ms" in str(choice)


def test_times_are_measured_and_scaled_to_all_frames() -> None:
    choice = choose(CPU, [(2, 2, 17, 16)], torch.float32)
    assert set(choice.milliseconds) == {"flash", "math"} and all(v > 0 for v in choice.milliseconds.values())
    assert choice.name == min(choice.milliseconds, key=choice.milliseconds.__getitem__)


def test_a_kernel_can_be_named_and_is_not_measured() -> None:
    """So ranks that are told rank 0's choice agree with it."""
    assert choose(CPU, [SHAPE], torch.bfloat16, "flash") == Choice("flash", "cpu")


@pytest.mark.parametrize("name", ["cudnn", "efficient", "sparse"])
def test_a_kernel_that_does_not_run_here_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"engine.attention {name} does not run on cpu: .*; give auto") as told:
        choose(CPU, [SHAPE], torch.float32, name)
    assert "\n" not in str(told.value)


def test_using_switches_the_kernel_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    apply = HeadByHead.apply
    monkeypatch.setattr(HeadByHead, "apply", lambda *x: (used.append("math"), apply(*x))[1])
    q, k, v = _tensors(SHAPE, SHAPE, SHAPE)
    with using(Choice("math", "cpu")):
        first = attend(q, k, v)
        with using(Choice("flash", "cpu")):
            second = attend(q, k, v)
    attend(q, k, v)
    assert used == ["math"] and torch.allclose(first, second, atol=1e-12)


def test_shapes_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is what the models compute: every attention of a forward pass, seen from inside."""
    monkeypatch.setattr("pretrain.encoder.GROUP", 100)
    for options in (
        {},
        {"agreement": AgreementConfig(kind="none")},
        {"objective": "mae"},
        {"objective": "mocov3"},
        {"objective": "beit"},
    ):
        model: Any = create("tiny", **SIZES, **options)
        seen: set[tuple[int, ...]] = set()
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, seen=seen: (seen.add(q.shape), v)[1])
        batch = _batch(model)
        if hasattr(batch, "keys"):
            batch.keys = torch.randn(2, 3, model.config.mocov3.out_dim)
        model(batch)
        assert {(*shape,) for shape in step_shapes(model.config, 3)} <= seen, options


def test_the_papers_shapes() -> None:
    assert step_shapes(ModelConfig(preset="small"), 64) == [(192, 4, 785, 128), (64, 4, 784, 128)]


def _batch(model: Any) -> Any:
    from pretrain.objective import Views

    side = model.config.image_size
    frames = torch.randint(0, 256, (3, 2, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    return model.views(frames, torch.arange(3), Views())


def _block() -> Block:
    torch.manual_seed(0)
    return Block(32, 2, qkv_bias=True)


def test_norms_and_gelus_outputs_are_not_kept_for_the_backward_pass() -> None:
    kept: dict[bool, int] = {}
    for lean in (True, False):
        block, made = _block(), []
        for layer in (block.norm1, block.norm2, block.mlp.act):
            layer.register_forward_hook(lambda module, inputs, output, made=made: made.append(weakref.ref(output)))
        out = block._run(torch.randn(2, 17, 32, requires_grad=True), None, lean)
        kept[lean] = sum(ref() is not None for ref in made)
        out.sum().backward()
    assert kept == {True: 0, False: 3}


@pytest.mark.parametrize("wanted", [None, Wanted(2, (1, 3)), Wanted(4), Wanted(0, (0, 4))])
def test_lean_and_checkpointed_blocks_have_the_plain_blocks_gradients(wanted: Wanted | None) -> None:
    """Exactly: the same operations on the same numbers."""
    found = []
    for lean, checkpointing in ((False, False), (True, False), (True, True)):
        block, x = _block(), torch.randn(4, 17, 32, generator=torch.manual_seed(2)).requires_grad_()
        block.checkpointing = checkpointing
        out = block(x, wanted) if lean else block._run(x, wanted, False)
        parts = [out] if wanted is None else [part for part in out if part is not None and part.numel()]
        sum(((i + 1) * part.square().sum() for i, part in enumerate(parts)), torch.zeros(())).backward()
        found.append([x.grad, *(p.grad for p in block.parameters()), *parts])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_what_a_last_block_leaves_out_changes_nothing_else() -> None:
    block, x = _block(), torch.randn(5, 17, 32)
    whole, part = block(x), block(x, Wanted(2, (1, 3)))
    assert torch.allclose(part.tokens, whole[:3], atol=1e-6)
    assert torch.allclose(part.contextual, whole[3:, 0], atol=1e-6)
    q, k, _ = block._project(x, False)
    row = (q @ k.mT * block.attn.scale).softmax(-1)[1:3, :, 0, 1:].mean(1)
    assert torch.allclose(part.interest, row / row.sum(-1, keepdim=True), atol=1e-6)


def test_checkpointing_reaches_every_block_and_keeps_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.encoder.GROUP", 100)
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        model = create("tiny", **SIZES)
        checkpoint_blocks(model, on)
        runs: list[int] = []
        for block in (*model.encoder.blocks, *model.decoder.blocks):
            block.norm1.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        losses = model(_batch(model))
        losses.total.backward()
        assert len(runs) == 3 * (1 + on)  # each block runs again
        found.append([losses.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("contextual, interest", [(0, None), (3, (2, 7)), (5, (0, 4)), (10, None), (1, (3, 9))])
def test_frames_in_groups_give_what_all_at_once_give(
    contextual: int, interest: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, frames = create("tiny", **SIZES).encoder, torch.randn(10, 3, 32, 32)
    found = []
    for group in (100, 4, 3):
        monkeypatch.setattr("pretrain.encoder.GROUP", group)
        found.append(encoder.forward_views(frames, contextual, interest))
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a.shape == b.shape and torch.allclose(a, b, atol=1e-5))
