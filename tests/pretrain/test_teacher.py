"""The moving average that DINO and MoCo v3 share."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.teacher import MovingAverage
from tests.pretrain.objectives import VIEWS, build, pairs
from tests.pretrain.ranks import on_ranks

TAUGHT = ("dino", "mocov3")


def _moved(model, seed: int = 3):
    """The same objective with other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


@given(momentum=st.floats(0.5, 0.999), progress=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_weights_move_by_the_closed_form_in_float64(momentum: float, progress: float) -> None:
    model = build("mae")
    teacher = MovingAverage(model, {"mine": "encoder"}, momentum, torch.device("cpu"))
    before = {name: value.double() for name, value in teacher.module["mine"].named_parameters()}
    _moved(model)
    teacher.update(model, progress)
    m = 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2
    assert momentum - 1e-12 <= m <= 1
    for name, value in teacher.module["mine"].named_parameters():
        expected = m * before[name] + (1 - m) * dict(model.encoder.named_parameters())[name].double()
        assert torch.allclose(value.double(), expected, atol=1e-6), name


@pytest.mark.parametrize("kind", TAUGHT)
def test_teacher_starts_as_the_student_and_stays_out_of_it(kind: str) -> None:
    model = build(kind)
    teacher = model.make_teacher(torch.device("cpu"))
    assert torch.equal(teacher.module["encoder"].cls_token, model.encoder.cls_token)
    trained = {id(p) for p in model.parameters()}
    assert not any(id(p) in trained or p.requires_grad for p in teacher.module.parameters())
    assert all(p.dtype == torch.float32 for p in teacher.module.parameters())
    names = set(model.state_dict())
    assert not any("module" in name or "teacher" in name for name in names)


@pytest.mark.parametrize("kind", TAUGHT)
def test_a_bf16_student_is_followed_in_float32_and_its_tables_are_left(kind: str) -> None:
    model = build(kind)
    teacher = model.make_teacher(torch.device("cpu"))
    table = teacher.module["encoder"].pos_embed.clone()
    _moved(model).to(torch.bfloat16)
    before = teacher.module["encoder"].norm.weight.clone()
    teacher.update(model, 0.0)
    after = teacher.module["encoder"].norm.weight
    expected = torch.lerp(before, model.encoder.norm.weight.float(), 1 - teacher.momentum)
    assert after.dtype == torch.float32 and torch.allclose(after, expected) and not torch.equal(after, before)
    assert torch.equal(teacher.module["encoder"].pos_embed, table)


@pytest.mark.parametrize("kind", TAUGHT)
def test_state_survives_saving_and_targets_are_equal(kind: str) -> None:
    model = build(kind)
    teacher = model.make_teacher(torch.device("cpu"))
    batch = model.views(*pairs(), VIEWS)
    teacher.prepare(batch)
    teacher.update(_moved(model), 0.3)
    assert all(isinstance(value, torch.Tensor) for value in teacher.state_dict().values())
    other = build(kind).make_teacher(torch.device("cpu"))
    other.load_state_dict(teacher.state_dict())
    targets = []
    for each in (teacher, other):
        batch = model.views(*pairs(), VIEWS)
        each.prepare(batch)
        targets.append(batch.teacher_probabilities if kind == "dino" else batch.keys)
    assert torch.equal(*targets)


def test_dinos_centre_is_the_same_on_ranks_and_micro_batches() -> None:
    frames, seeds = pairs(8)
    template = build("dino")

    def centre(parts: int, group=None):
        model = copy.deepcopy(template)
        if group is not None:
            model.group = group
        teacher = model.make_teacher(torch.device("cpu"))
        mine = slice(0, 8) if group is None else slice(group.rank * 4, group.rank * 4 + 4)
        for f, s in zip(frames[mine].chunk(parts), seeds[mine].chunk(parts), strict=True):
            teacher.prepare(model.views(f, s, VIEWS))
        teacher.update(model, 0.0)
        return teacher.centre

    whole = centre(1)
    assert whole.abs().max() > 0
    assert torch.allclose(centre(4), whole, atol=1e-6)
    for part in on_ranks(2, lambda group: centre(2, group)):
        assert torch.allclose(part, whole, atol=1e-6)
