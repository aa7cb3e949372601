"""The assembled model: options, equations, layout."""

import pytest
import torch
import torch.nn.functional as F

from pretrain import create
from pretrain.architecture import AgreementConfig, ModelConfig, config_from_dict, config_to_dict, resolve
from pretrain.augment import AugmentConfig
from pretrain.batch import assemble
from pretrain.decoder import patchify, unpatchify
from pretrain.flops import pair_flops
from pretrain.model import MicronBert
from pretrain.poi import scale_interest
from pretrain.swap import SwapConfig
from shards.errors import UsageError
from tests.sizes import SIZES


def _model(**options) -> MicronBert:
    torch.manual_seed(0)
    return create("tiny", **{**SIZES, **options})


def _batch(model: MicronBert, count: int = 4):
    frames = torch.randint(
        0, 255, (count, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return assemble(frames, torch.arange(count), model.config, SwapConfig(min_block=2), AugmentConfig())


VARIANTS = {
    "MB1": {"dma": "none", "poi": "none", "agreement": AgreementConfig(kind="none")},
    "MB2": {"poi": "none", "agreement": AgreementConfig(kind="none")},
    "MB3": {"poi": "mean1"},
    "MB3 literal": {"poi": "sum1", "dma_scaled": False, "dma_projection": False},
    "stopped gradient": {"agreement": AgreementConfig(stop_gradient=True)},
    "normalised pixels": {"normalise_pixels": True},
    "full attention": {"dma": "full", "poi": "none"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_all_its_parameters(variant: str) -> None:
    model = _model(**VARIANTS[variant])
    losses = model(_batch(model))
    losses.total.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert losses.total.isfinite() and without == []
    assert ("diag" not in losses.shown) == (variant == "MB1")


def test_total_is_the_weighted_sum_of_eq_13() -> None:
    model = _model(reconstruction_weight=2.0, agreement_weight=0.5)
    losses = model(_batch(model))
    assert torch.isclose(losses.total, 2 * losses.terms["reconstruction"] + 0.5 * losses.terms["agreement"])


def test_reconstruction_is_the_pixel_mse_of_eq_14() -> None:
    model = _model()
    batch = _batch(model)
    losses = model(batch)
    image = unpatchify(losses.shown["predicted"], 8)
    assert torch.isclose(losses.terms["reconstruction"], F.mse_loss(image, batch.current), rtol=1e-5)


def test_agreement_is_the_mse_of_contextual_tokens_of_eq_15() -> None:
    model = _model()
    batch = _batch(model)
    losses = model(batch)
    a, b = model.encoder(batch.reference)[:, 0], model.encoder(batch.crop)[:, 0]
    assert torch.isclose(losses.terms["agreement"], F.mse_loss(a, b), rtol=1e-4)


def test_interest_is_the_contextual_row_of_the_last_attention_map() -> None:
    model = _model()
    x = torch.randn(2, 3, 32, 32)
    kept = {}
    last = model.encoder.blocks[-1]
    handle = last.norm1.register_forward_hook(lambda module, inputs, output: kept.update(x=output))
    tokens, scores = model.encoder.forward_with_interest(x)
    handle.remove()
    attention = last.attn
    q, k, _ = attention.qkv(kept["x"]).reshape(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    row = (q @ k.transpose(-1, -2) / 16**0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    assert torch.allclose(scores, row / row.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(scores.sum(-1), torch.ones(2))
    assert torch.allclose(tokens, model.encoder(x), atol=1e-5), "asking for the scores changes no token"


def test_poi_weighs_dma_as_eq_12() -> None:
    model, plain = _model(poi="mean1"), _model(poi="none")
    plain.load_state_dict(model.state_dict())
    a, b = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    model.attention.proj = plain.attention.proj = torch.nn.Identity()
    features, diag = model.dma(a, b)
    unweighted, same = plain.dma(a, b)
    assert torch.allclose(diag, same)
    assert torch.allclose(features, unweighted * (16 * model.poi(b))[..., None], atol=1e-5)
    assert torch.allclose(scale_interest(model.poi(b), "sum1").sum(-1), torch.ones(2))


def test_patchify_is_inverted_and_channels_last() -> None:
    images = torch.randn(2, 3, 32, 32)
    patches = patchify(images, 8)
    assert torch.equal(unpatchify(patches, 8), images)
    assert torch.equal(patches[0, 5].view(8, 8, 3), images[0, :, 8:16, 8:16].permute(1, 2, 0))


def test_paper_size_has_the_papers_arithmetic() -> None:
    config = resolve(ModelConfig(preset="small"))
    assert (config.image_size, config.patch_size, config.dim, config.depth, config.decoder_depth) == (
        224,
        8,
        512,
        4,
        4,
    )
    assert pair_flops(config) == pytest.approx(307.4e9, rel=1e-3)
    model = MicronBert(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == pytest.approx(26.73e6, rel=1e-3)


def test_config_survives_json_and_refuses_unknown_keys() -> None:
    config = resolve(ModelConfig(agreement=AgreementConfig(kind="dino", local_crops=2)))
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(UsageError, match="does not know"):
        config_from_dict({"colour": 1})


@pytest.mark.parametrize("sizes", [{"image_size": 30}, {"dim": 30}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict) -> None:
    with pytest.raises(UsageError, match="multiple"):
        _model(**sizes)
