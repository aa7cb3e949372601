"""Masked prediction and its codes against their definitions."""

import math

import numpy as np
import torch

from pretrain.architecture import BeitConfig
from pretrain.augment import AugmentConfig
from pretrain.beit import Quantiser
from pretrain.decoder import patchify, unpatchify
from pretrain.objective import Views
from tests.pretrain.objectives import build, prepared


def test_codes_are_the_nearest_directions_one_patch_at_a_time() -> None:
    quantiser = Quantiser(48, BeitConfig(vocabulary=2500, code_dim=7))
    patches = torch.randn(3, 5, 48)
    codes = quantiser(patches)
    directions = quantiser.codes.numpy()
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    for x, code in zip(patches.flatten(0, 1).double().numpy(), codes.flatten().tolist(), strict=True):
        projected = x @ quantiser.projection.numpy()
        distances = np.linalg.norm(directions - projected / np.linalg.norm(projected), axis=1)
        assert code == int(np.argmin(distances))
    assert codes.max() >= 1024, "codes beyond the first chunk are found too"


def test_projection_and_codes_have_their_distributions_and_follow_the_seed() -> None:
    a, b, c = (Quantiser(192, BeitConfig(tokeniser_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(a.codes, b.codes) and torch.equal(a.projection, b.projection)
    assert not torch.equal(a.codes, c.codes) and not torch.equal(a.projection, c.projection)
    bound = math.sqrt(6 / (192 + 16))
    assert a.projection.abs().max() <= bound and abs(a.projection.std() - bound / math.sqrt(3)) < 0.02 * bound
    assert a.codes.mean(0).abs().max() < 5 * 0.25 / math.sqrt(8192), "directions are uniform on the sphere"
    covariance = a.codes.T @ a.codes / 8192 * 16
    assert (covariance - torch.eye(16)).abs().max() < 0.1


def test_patches_of_one_colour_have_one_code() -> None:
    model = build("beit")
    for colour in ((0, 0, 0), (200, 150, 120)):
        frames = torch.tensor(colour, dtype=torch.uint8).expand(6, 2, 40, 40, 3)
        targets = model.views(frames, torch.arange(6), Views(augment=AugmentConfig(crop_area=(0.5, 1.0)))).targets
        assert len(targets.unique()) == 1


def test_loss_is_the_mean_negative_log_likelihood_of_the_codes() -> None:
    model = build("beit", beit=BeitConfig(vocabulary=50))
    batch = prepared(model)
    losses = model(batch)
    tokens = model.encode(batch.frames, batch.hidden).double()
    weight, bias = model.head.weight.double(), model.head.bias.double()
    total, right = 0.0, 0
    for b in range(4):
        for place, code in zip(batch.hidden[b].tolist(), batch.targets[b].tolist(), strict=True):
            logits = weight @ tokens[b, 1 + place] + bias
            total += (torch.logsumexp(logits, 0) - logits[code]).item()
            right += int(logits.argmax() == code)
    count = batch.hidden.numel()
    assert abs(losses.total.item() - total / count) < 1e-5 and losses.terms["prediction"] == losses.total
    assert abs(losses.terms["accuracy"].item() - right / count) < 1e-6


def test_targets_are_codes_of_the_hidden_patches_before_they_are_hidden() -> None:
    model = build("beit")
    batch = prepared(model)
    patches = patchify(batch.frames, 8)
    assert batch.hidden.shape == batch.targets.shape == (4, round(0.4 * 16))
    for b in range(4):
        for place, code in zip(batch.hidden[b].tolist(), batch.targets[b].tolist(), strict=True):
            x = patches[b, place]
            x = (x - x.mean()) / (x.var() + 1e-6).sqrt()
            assert model.quantiser(x[None, None]).item() == code


def test_hidden_pixels_do_not_reach_the_encoder_and_visible_ones_do() -> None:
    model = build("beit")
    batch = prepared(model)
    before = model.encode(batch.frames, batch.hidden)
    assert before.shape == (4, 17, 32)
    noise = torch.randn(4, 16, 192)
    on_visible = noise.scatter(1, batch.hidden[..., None].expand(-1, -1, 192), 0.0)
    assert torch.equal(model.encode(batch.frames + unpatchify(noise - on_visible, 8), batch.hidden), before)
    assert not torch.allclose(model.encode(batch.frames + unpatchify(on_visible, 8), batch.hidden), before)
    assert torch.allclose(model.encode(batch.frames, batch.hidden[:, :0]), model.encoder(batch.frames), atol=1e-5)


def test_codes_in_use_are_e_to_their_entropy() -> None:
    model = build("beit")
    assert torch.isclose(model._used(torch.arange(12).view(3, 4)), torch.tensor(12.0))
    assert torch.isclose(model._used(torch.full((3, 4), 7)), torch.tensor(1.0))
    half = torch.tensor([[1, 1, 2, 3]])
    assert torch.isclose(model._used(half), torch.tensor(math.exp(1.5 * math.log(2))))


def test_the_tokeniser_is_neither_trained_nor_saved_nor_cast() -> None:
    model = build("beit").to(torch.bfloat16)
    assert not any("quantiser" in name for name in model.state_dict())
    assert model.quantiser.codes.dtype == torch.float64
