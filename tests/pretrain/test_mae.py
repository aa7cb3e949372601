"""MAE against its definition."""

import torch

from pretrain.architecture import MaeConfig
from pretrain.decoder import unpatchify
from pretrain.masking import take
from tests.pretrain.objectives import VIEWS, build, pairs, prepared


def literal_loss(predicted: torch.Tensor, frames: torch.Tensor, hidden: torch.Tensor, normalised: bool) -> float:
    """He et al., section 3, in float64, one patch of 8 x 8 pixels at a time: mean over hidden patches' pixels."""
    total, grid = 0.0, frames.shape[-1] // 8
    for b in range(len(frames)):
        for n in hidden[b].tolist():
            row, column = n // grid * 8, n % grid * 8
            pixels = frames[b, :, row : row + 8, column : column + 8].double().permute(1, 2, 0).reshape(-1)
            if normalised:
                pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            total += float(((predicted[b, n].double() - pixels) ** 2).mean())
    return total / hidden.numel()


def test_loss_is_the_mse_of_hidden_patches() -> None:
    for normalised in (True, False):
        model = build("mae", mae=MaeConfig(normalise_pixels=normalised))
        batch = prepared(model)
        losses = model(batch)
        expected = literal_loss(losses.shown["predicted"], batch.frames, batch.hidden, normalised)
        assert abs(losses.total.item() - expected) < 1e-5 * expected


def test_hidden_pixels_do_not_reach_the_encoder_and_visible_ones_do() -> None:
    model = build("mae")
    batch = prepared(model)
    assert batch.hidden.shape == (4, 12) and batch.visible.shape == (4, 4)
    before = model.encode(batch.frames, batch.visible)
    assert before.shape == (4, 1 + 4, 32)
    noise = torch.randn(4, 16, 192)
    on_hidden = noise.scatter(1, batch.visible[..., None].expand(-1, -1, 192), 0.0)
    on_visible = noise - on_hidden
    assert torch.equal(model.encode(batch.frames + unpatchify(on_hidden, 8), batch.visible), before)
    assert not torch.allclose(model.encode(batch.frames + unpatchify(on_visible, 8), batch.visible), before)


def test_tokens_are_those_of_the_patches_alone_with_their_positions() -> None:
    model = build("mae")
    batch = prepared(model, 2)
    embedded = model.encoder.embed(batch.frames)
    for b in range(2):
        chosen = torch.cat([embedded[b : b + 1, :1], embedded[b : b + 1, 1:][:, batch.visible[b]]], dim=1)
        expected = chosen
        for block in model.encoder.blocks:
            expected = block(expected)
        got = model.encode(batch.frames, batch.visible)[b : b + 1]
        assert torch.allclose(got, model.encoder.norm(expected), atol=1e-5)


def test_decoder_puts_tokens_and_mask_tokens_in_their_places() -> None:
    model = build("mae")
    decoder = model.decoder
    tokens, visible = torch.randn(2, 1 + 3, 32), torch.tensor([[5, 0, 9], [15, 3, 4]])
    expected = []
    for b in range(2):
        embedded = decoder.embed(tokens[b])
        rows = [embedded[0]] + [decoder.mask_token[0, 0]] * 16
        for i, place in enumerate(visible[b].tolist()):
            rows[1 + place] = embedded[1 + i]
        x = torch.stack(rows)[None] + decoder.pos_embed
        for block in decoder.blocks:
            x = block(x)
        expected.append(decoder.pred(decoder.norm(x))[:, 1:])
    assert torch.allclose(decoder.fill(tokens, visible), torch.cat(expected), atol=1e-5)


def test_all_visible_patches_give_the_whole_encoders_tokens() -> None:
    model = build("mae")
    batch = prepared(model)
    everything = torch.arange(16).expand(4, -1)
    assert torch.allclose(model.encode(batch.frames, everything), model.encoder(batch.frames), atol=1e-5)


def test_targets_are_in_float32_whatever_the_frames_are_cast_to() -> None:
    model = build("mae")
    batch = model.views(*pairs(), VIEWS)
    cast = batch.to(torch.bfloat16)
    assert cast.frames.dtype == torch.bfloat16 and cast.targets is batch.targets
    assert batch.targets.shape == (4, 12, 192) and batch.targets.mean(-1).abs().max() < 1e-4
    assert torch.allclose(batch.targets.var(-1), torch.ones(4, 12), atol=1e-2)
    assert torch.equal(take(torch.arange(16).expand(4, -1)[..., None], batch.hidden)[..., 0], batch.hidden)
