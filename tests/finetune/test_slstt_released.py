"""SLSTT as released: parity with the authors' module, and files that are not its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import released
from finetune.heads.slstt_weights import to_timm
from shards.errors import FlickerError
from tests import golden


def test_slstt_equals_the_authors_module(shared: Path) -> None:
    description, target = golden.reference(shared / "golden", "slstt_LSTM")
    mean, mean_target = golden.reference(shared / "golden", "slstt_Mean")
    assert description["shapes"] == mean["shapes"]  # one set of weights, both aggregations
    state = golden.weights(description["shapes"])
    model = released.load("slstt", state, **description["config"])
    averaged = released.load("slstt", state, **mean["config"])
    x = torch.from_numpy(golden.draw("input", (1, 3, 3, 384, 384))).float()
    seen: list[torch.Tensor] = []
    model.vit.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        assert golden.relative_error(model(x), target["logits"]) < 1e-4
        assert all(torch.equal(a, b) for a, b in zip(model.vit.parameters(), averaged.vit.parameters(), strict=True))
        assert golden.relative_error(averaged.temporal(seen[0][None]), mean_target["logits"]) < 1e-4
        swapped = released.load("slstt", state, **description["config"])
        for block in swapped.vit.blocks:
            block.mlp.act = torch.nn.GELU()  # exact, as the paper has it
        assert golden.relative_error(swapped.vit(x[0, :1]), seen[0][:1].numpy()) > 1e-4


def _shapes(depth: int = 2, dim: int = 24, hidden: int = 8) -> dict[str, tuple[int, ...]]:
    """The release's names at a small size: pictures of 32 px, patches of 8."""
    shapes: dict[str, tuple[int, ...]] = {
        "vit.class_token": (1, 1, dim),
        "vit.patch_embedding.weight": (dim, 3, 8, 8),
        "vit.patch_embedding.bias": (dim,),
        "vit.positional_embedding.pos_embedding": (1, 17, dim),
        "vit.norm.weight": (dim,),
        "vit.norm.bias": (dim,),
        "vit.fc.weight": (3, dim),
        "vit.fc.bias": (3,),
        "fc1.weight": (6, hidden),
        "fc1.bias": (6,),
        "fc2.weight": (3, 6),
        "fc2.bias": (3,),
    }
    for block in range(depth):
        prefix = f"vit.transformer.blocks.{block}."
        for name, rows, columns in [(f"attn.proj_{part}", dim, dim) for part in "qkv"] + [
            ("proj", dim, dim),
            ("pwff.fc1", 4 * dim, dim),
            ("pwff.fc2", dim, 4 * dim),
        ]:
            shapes |= {f"{prefix}{name}.weight": (rows, columns), f"{prefix}{name}.bias": (rows,)}
        shapes |= {f"{prefix}{name}.{part}": (dim,) for name in ("norm1", "norm2") for part in ("weight", "bias")}
    for layer, width in ((0, dim), (1, hidden)):
        shapes |= {f"lstm.weight_ih_l{layer}": (4 * hidden, width), f"lstm.weight_hh_l{layer}": (4 * hidden, hidden)}
        shapes |= {f"lstm.bias_{part}_l{layer}": (4 * hidden,) for part in ("ih", "hh")}
    return shapes


def _state() -> dict[str, torch.Tensor]:
    return golden.weights({name: list(shape) for name, shape in _shapes().items()})


def _pictures() -> torch.Tensor:
    return torch.from_numpy(golden.draw("input", (2, 4, 3, 32, 32))).float()


def test_a_wrapped_file_loads_and_its_sizes_are_read_off(tmp_path: Path) -> None:
    state = _state()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "best_acc1": 50.0}, tmp_path / "model.pth.tar")
    with torch.no_grad():
        expected = released.load("slstt", state, heads=2)(_pictures())
        found = released.load("slstt", tmp_path / "model.pth.tar", heads=2)(_pictures())
    assert expected.shape == (2, 3) and torch.equal(found, expected)
    bare = {f"module.{name}": value for name, value in state.items()}
    with torch.no_grad():
        assert torch.equal(released.load("slstt", bare, heads=2)(_pictures()), expected)


def test_the_encoder_alone_is_averaged_over_frames() -> None:
    state = _state()
    alone = {name.removeprefix("vit."): value for name, value in state.items() if name.startswith("vit.")}
    with torch.no_grad():
        expected = released.load("slstt", state, heads=2, aggregation="Mean")(_pictures())
        assert torch.equal(released.load("slstt", alone, heads=2)(_pictures()), expected)
        vit = released.load("slstt", alone, heads=2).vit
        rows = torch.stack([vit(clip).mean(0) for clip in _pictures()])
        assert torch.allclose(rows @ state["vit.fc.weight"].T + state["vit.fc.bias"], expected, atol=1e-5)


def test_names_become_timms_and_timms_stay() -> None:
    weights = to_timm(_state())
    assert weights["blocks.1.attn.qkv.weight"].shape == (72, 24)
    assert torch.equal(
        weights["blocks.1.attn.qkv.weight"][24:48], _state()["vit.transformer.blocks.1.attn.proj_k.weight"]
    )
    assert not [name for name in weights if "proj_q" in name or name.startswith(("vit", "transformer"))]
    again = to_timm({f"module.{name}": value for name, value in weights.items()})
    assert again.keys() == weights.keys()


def test_other_weights_are_refused() -> None:
    with pytest.raises(FlickerError, match="not SLSTT's weights"):
        released.load("slstt", {"conv.weight": torch.zeros(1)})
    state = _state() | {"vit.extra.weight": torch.zeros(1)}
    with pytest.raises(FlickerError, match=r"extra\.weight unexpected"):
        released.load("slstt", state, heads=2)
    state = _state()
    del state["lstm.bias_hh_l1"]
    with pytest.raises(FlickerError, match=re.escape("lstm.bias_hh_l1")):
        released.load("slstt", state, heads=2)
    state = _state()
    del state["vit.transformer.blocks.0.attn.proj_k.bias"]
    with pytest.raises(FlickerError, match=r"blocks\.0\.attn\.qkv\.bias missing"):
        released.load("slstt", state, heads=2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"input_size": 384}, "input_size is 32"),
        ({"classes": 5}, "classes is 3"),
        ({"depth": 3}, "no argument depth"),
        ({"aggregation": "Max"}, "no aggregation 'Max'"),
        ({"heads": 5}, "5 heads"),
    ],
)
def test_arguments_that_do_not_describe_the_weights_are_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(FlickerError, match=words):
        released.load("slstt", _state(), **{"heads": 2, **config})


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "evil.pth")
    with pytest.raises(FlickerError, match="without running code"):
        released.load("slstt", tmp_path / "evil.pth")
