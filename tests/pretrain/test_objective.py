"""What holds for every objective."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pretrain.architecture import AgreementConfig, ModelConfig, config_from_dict, config_to_dict, resolve
from pretrain.augment import AugmentConfig
from pretrain.encoder import Encoder
from pretrain.flops import pair_flops
from pretrain.objective import CLASSES, Views, create_objective
from pretrain.optim import parameter_groups
from pretrain.swap import SwapConfig
from shards.errors import UsageError
from tests.pretrain.objectives import KINDS, MOCO, VIEWS, build, pairs, prepared
from tests.pretrain.waiting import waits


def test_every_objective_has_its_class() -> None:
    assert {config.objective for config in (ModelConfig(**{"objective": name}) for name in CLASSES)} == set(CLASSES)
    assert [type(create_objective(ModelConfig(objective=name))).__name__ for name in CLASSES] == [
        "MicronBert",
        "Mae",
        "MocoV3",
        "Beit",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_all_trained_parameters_get_gradients_and_terms_are_scalars(kind: str) -> None:
    model = build(kind)
    losses = model(prepared(model))
    losses.total.backward()
    assert losses.total.isfinite() and losses.total.dtype == torch.float32
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    for value in (*losses.terms.values(), losses.cls_spread):
        assert value.shape == () and not value.requires_grad and value.isfinite()
    assert not any(value.requires_grad for value in losses.shown.values())
    assert losses.terms and losses.cls_spread > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    model = build(kind)
    frames, seeds = pairs(5)
    whole, part = (vars(model.views(frames[s], seeds[s], VIEWS)) for s in (slice(0, 5), slice(3, 5)))
    for name, value in whole.items():
        if isinstance(value, torch.Tensor):
            rows = value[:, 3:] if name == "views" else value[3:]
            assert torch.allclose(part[name].double(), rows.double(), atol=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_losses_stay_float32_and_near(kind: str) -> None:
    model = build(kind)
    batch = prepared(model)
    exact = model(batch)
    rough = copy.deepcopy(model).to(torch.bfloat16)(batch.to(torch.bfloat16))
    assert rough.total.dtype == torch.float32 and rough.cls_spread.dtype == torch.float32
    assert torch.isclose(rough.total, exact.total, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_on_one_batch(kind: str) -> None:
    model = build(kind)
    batch = prepared(model, 8)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(12):
        optimiser.zero_grad()
        losses = model(batch)
        losses.total.backward()
        optimiser.step()
        history.append(float(losses.total.detach()))
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("kind", KINDS)
def test_sheet_is_a_picture(kind: str) -> None:
    model = build(kind)
    batch = prepared(model, 2)
    image = model.sheet(batch, model(batch))
    assert image is not None and image.ndim == 3 and image.shape[2] == 3 and str(image.dtype) == "uint8"
    assert image.std() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_never_waits_for_the_device(kind: str) -> None:
    model = build(kind)
    teacher = model.make_teacher(torch.device("cpu"))
    weights = [*model.parameters(), *(teacher.module.parameters() if teacher is not None else ())]
    weights += [teacher.centre] if kind == "dino" else []
    weights += [model.quantiser.projection, model.quantiser.codes] if kind == "beit" else []

    @torch.no_grad()
    def step(frames: torch.Tensor, seeds: torch.Tensor) -> list[torch.Tensor]:
        batch = model.views(frames, seeds, VIEWS)
        if teacher is not None:
            teacher.prepare(batch)
        losses = model(batch.to(torch.float32))
        if teacher is not None:
            teacher.update(model, 0.5)
        return [losses.total, losses.cls_spread, *losses.terms.values()]

    assert not waits(step, *pairs(), weights=weights)


@pytest.mark.parametrize("kind", ["mae", "beit"])
def test_forward_pass_is_one_graph(kind: str) -> None:
    model = build(kind)
    batch = prepared(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(batch).total, model(batch).total)


@pytest.mark.parametrize("kind", ["micron_bert", "mae", "mocov3", "beit"])
def test_flops_are_those_that_torch_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "contextual", lambda self, frames: self(frames)[:, 0])  # the whole last block
    model = build(kind, agreement=AgreementConfig(kind="none"))
    frames = torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8)
    plain = Views(SwapConfig(min_block=2), AugmentConfig(flip=False))  # of the model's size: nothing is resized
    teacher = model.make_teacher(torch.device("cpu"))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as once:
            batch = model.views(frames, torch.arange(2), plain)
            if teacher is not None:
                teacher.prepare(batch)
        with FlopCounterMode(display=False) as forward:
            model(batch)
    counted = 3 * forward.get_total_flops() + once.get_total_flops()
    assert pair_flops(model.config) == pytest.approx(counted / 2, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_vectors_do_not_decay(kind: str) -> None:
    model = build(kind)
    decay, _ = (group["params"] for group in parameter_groups(model, 0.05))
    kept = {id(p) for p in decay}
    names = [name for name, p in model.named_parameters() if id(p) in kept]
    assert names and all(name.endswith("weight") for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_collapse_says_so(kind: str) -> None:
    assert build(kind).can_collapse == (kind in ("micron_bert", "dino", "mocov3"))
    assert not build("micron_bert", agreement=AgreementConfig(kind="none")).can_collapse


def test_config_survives_json_and_faults_are_named() -> None:
    config = resolve(ModelConfig(objective="mocov3", mocov3=MOCO))
    stored = config_to_dict(config)
    stored["agreement"]["crop_scale"] = [0.4, 1.0]  # as JSON has it
    assert config_from_dict(stored) == config
    with pytest.raises(UsageError, match=r"model\.mocov3\.colour"):
        config_from_dict({"mocov3": {"colour": 1}})
    with pytest.raises(UsageError, match="objective 'simclr' is not known"):
        config_from_dict({"objective": "simclr"})
    assert config_from_dict({"preset": "small"}).objective == "micron_bert", "from before there were others"


@pytest.mark.parametrize("name", ["mae", "beit"])
@pytest.mark.parametrize("ratio", [0.0, 0.001, 1.0])
def test_a_ratio_that_hides_nothing_or_all_is_refused(name: str, ratio: float) -> None:
    options = type(getattr(ModelConfig(), name))(mask_ratio=ratio)
    with pytest.raises(UsageError, match="hides none or all"):
        build(name, **{name: options})
