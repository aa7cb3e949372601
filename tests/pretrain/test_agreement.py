"""Contextual agreement by MSE and by DINO."""

import torch

from pretrain import create
from pretrain.agreement import DinoTeacher, dino_loss, mse_agreement
from pretrain.architecture import AgreementConfig
from pretrain.augment import AugmentConfig
from pretrain.batch import assemble
from pretrain.swap import SwapConfig
from tests.sizes import SIZES


def test_stop_gradient_leaves_the_whole_frame_alone() -> None:
    a, b = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    mse_agreement(a, b, stop_gradient=True).backward()
    assert a.grad is None and b.grad is not None


def test_dino_loss_equals_a_literal_double_loop() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 5).softmax(-1)
    student = [torch.randn(2 * 3, 5), torch.randn(4 * 3, 5)]
    crops = torch.cat(student).view(6, 3, 5)
    total, count = 0.0, 0
    for t in range(2):
        for s in range(6):
            if s != t:
                total += -(teacher[t] * (crops[s] / 0.1).log_softmax(-1)).sum(-1).mean().item()
                count += 1
    assert abs(dino_loss(student, teacher, 0.1).item() - total / count) < 1e-5


def test_teacher_follows_the_student_and_gets_no_gradient() -> None:
    config = AgreementConfig(kind="dino", teacher_momentum=0.9, out_dim=16, local_crops=2)
    torch.manual_seed(0)
    model = create("tiny", **SIZES, agreement=config)
    teacher = DinoTeacher(model, torch.device("cpu"))
    frames = torch.randint(0, 255, (4, 2, 32, 32, 3), dtype=torch.uint8)
    batch = assemble(frames, torch.arange(4), model.config, SwapConfig(min_block=2), AugmentConfig(flip=False))
    assert [crops.shape for crops in batch.student_crops] == [(8, 3, 32, 32), (8, 3, 16, 16)]
    teacher.prepare(batch)
    assert torch.allclose(batch.teacher_probabilities.sum(-1), torch.ones(2, 4))
    losses = model(batch)
    losses.total.backward()
    assert losses.terms["agreement"] > 0 and all(p.grad is not None for p in model.dino.parameters())
    before = teacher.module["head"].prototypes.weight.clone()
    with torch.no_grad():
        model.dino.prototypes.weight.add_(1.0)
    teacher.update(model, progress=0.0)
    assert torch.allclose(teacher.module["head"].prototypes.weight, before + 0.1, atol=1e-6)
    teacher.update(model, progress=1.0)
    assert torch.allclose(teacher.module["head"].prototypes.weight, before + 0.1, atol=1e-6), "momentum ends at 1"
    assert not any(p.requires_grad for p in teacher.module.parameters())


def test_teacher_state_survives_saving() -> None:
    config = AgreementConfig(kind="dino", out_dim=16)
    model = create("tiny", **SIZES, agreement=config)
    teacher = DinoTeacher(model, torch.device("cpu"))
    teacher.centre = torch.randn(16)
    other = DinoTeacher(create("tiny", **SIZES, agreement=config), torch.device("cpu"))
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other.centre, teacher.centre)
    for a, b in zip(teacher.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(a, b)
