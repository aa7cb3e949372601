"""Weights on disk."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from pretrain import create, describe, load_encoder, load_micron, load_without_dma, objective_of
from pretrain.architecture import config_to_dict
from pretrain.weights import load_initial, save_encoder, save_model
from shards.errors import FlickerError
from tests.pretrain.objectives import KINDS, build
from tests.sizes import SIZES


@pytest.fixture
def saved(tmp_path: Path):
    model = create("tiny", **SIZES).eval()
    save_model(tmp_path / "model", model.state_dict(), model.config, {"step": 7})
    save_encoder(tmp_path / "encoder", model.state_dict(), model.config, {"step": 7})
    return model, tmp_path


def test_model_and_encoder_come_back_equal(saved) -> None:
    model, folder = saved
    frames = torch.randint(0, 255, (2, 40, 40, 3), dtype=torch.uint8)
    x = model.preprocess(frames)
    assert x.shape == (2, 3, 32, 32)
    micron = load_micron(folder / "model")
    assert torch.equal(micron.dma(x, x.flip(0))[0], model.dma(x, x.flip(0))[0])
    for path in (folder / "encoder", folder / "model", folder / "model" / "model.safetensors", folder):
        assert torch.equal(load_encoder(path)(x), model.encoder(x))
    assert describe(folder / "encoder") == {"step": 7}


def test_encoder_folder_holds_timms_own_names(saved) -> None:
    _, folder = saved
    plain = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    assert set(load_file(folder / "encoder" / "model.safetensors")) == set(plain.state_dict())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "encoder"])
def test_any_objectives_encoder_can_be_put_where_dma_is_not_needed(kind: str, tmp_path: Path) -> None:
    objective = build(kind).eval()
    save_model(tmp_path / "run", objective.state_dict(), objective.config, {"step": 7})
    save_encoder(tmp_path / "encoder", objective.state_dict(), objective.config, {"step": 7})
    assert objective_of(tmp_path / "run") == objective.config.objective
    assert objective_of(tmp_path / "encoder") == "encoder"
    frames = torch.randint(0, 255, (2, 40, 40, 3), dtype=torch.uint8)
    for name in ("run", "encoder"):
        model = load_without_dma(tmp_path / name)
        x = model.preprocess(frames)
        assert torch.equal(model.encoder(x), objective.encoder(x)) and not model.training
        assert model.attention is None and model.config.dim == objective.config.dim
        with pytest.raises(RuntimeError, match="without DMA"):
            model.dma(x, x)


def test_faults_are_told_in_one_line(saved, tmp_path: Path) -> None:
    _, folder = saved
    with pytest.raises(FlickerError, match="without DMA"):
        load_micron(folder / "encoder")
    for kind in ("mae", "beit"):
        other = build(kind)
        save_model(folder / kind, other.state_dict(), other.config, {})
        with pytest.raises(FlickerError, match=rf"trained as {kind}, .* pretrain\.load_encoder") as told:
            load_micron(folder / kind)
        assert "\n" not in str(told.value)
    with pytest.raises(FlickerError, match="no weights at"):
        load_encoder(tmp_path / "nowhere")
    data = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "model" / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(FlickerError, match="damaged"):
        load_micron(folder / "model")


def _rewrite(folder: Path, **changes) -> None:
    """Change top-level keys of a folder's config.json."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_every_objective_come_back_equal(kind: str, tmp_path: Path) -> None:
    model = build(kind).eval()
    save_model(tmp_path / "model", model.state_dict(), model.config, {})
    assert json.loads((tmp_path / "model" / "config.json").read_text())["kind"] == model.config.objective
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_encoder(tmp_path / "model")(x), model.encoder(x))


def test_checkpoints_from_before_there_were_objectives_still_load(saved) -> None:
    model, folder = saved
    old = {k: v for k, v in config_to_dict(model.config).items() if k not in ("objective", "mae", "mocov3", "beit")}
    _rewrite(folder / "model", kind="micron-bert", model=old)
    assert load_micron(folder / "model").config == model.config
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_encoder(folder / "model")(x), model.encoder(x))


@pytest.mark.parametrize("load", [load_micron, load_encoder])
def test_configs_that_are_not_understood_are_told_in_one_line(load, saved) -> None:
    model, folder = saved
    for wrong, told in (
        ({**config_to_dict(model.config), "objective": "simclr"}, "objective 'simclr' is not known"),
        ({**config_to_dict(model.config), "colour": 1}, r"does not know: model\.colour"),
        (None, "describes no model"),
    ):
        _rewrite(folder / "model", model=wrong)
        with pytest.raises(FlickerError, match=told) as error:
            load(folder / "model")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["mae", "mocov3", "beit", "micron_bert", "encoder"])
@pytest.mark.parametrize("target", ["mae", "micron_bert"])
def test_initial_weights_are_all_of_the_same_objective_else_the_encoder(source, target, tmp_path: Path) -> None:
    model = build("mae" if source == "encoder" else source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    save = save_encoder if source == "encoder" else save_model
    save(tmp_path / "given", model.state_dict(), model.config, {})
    fresh, own = build(target), build(target).state_dict()
    told = load_initial(fresh, tmp_path / "given")
    for name, value in fresh.state_dict().items():
        taken = name.startswith("encoder.") or source == target
        assert torch.equal(value, model.state_dict()[name] if taken else own[name]), name
    assert told.startswith("encoder") and f"({source})" in told
    assert ("decoder not in there: random" in told.replace("attention, ", "")) == (source != target)


def test_initial_weights_keep_what_is_new_random_and_refuse_another_encoder(saved) -> None:
    model, folder = saved
    dino = build("dino")
    head = dino.dino.prototypes.weight.clone()
    assert load_initial(dino, folder / "model").endswith("; dino not in there: random")
    assert torch.equal(dino.dino.prototypes.weight, head)
    assert torch.equal(dino.attention.to_q.weight, model.attention.to_q.weight)
    with pytest.raises(FlickerError, match="another architecture"):
        load_initial(build("mae", dim=64), folder / "model")


def test_weights_of_another_architecture_are_refused(saved) -> None:
    _, folder = saved
    other = create("tiny", **{**SIZES, "dim": 64}).eval()
    save_model(folder / "other", other.state_dict(), other.config, {})
    (folder / "other" / "config.json").write_text((folder / "model" / "config.json").read_text())
    with pytest.raises(FlickerError, match="another architecture"):
        load_micron(folder / "other")
