"""HTNet as released: parity with the authors' module, and files that are not its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune import released
from shards.errors import FlickerError
from tests import golden


@pytest.mark.parametrize("variant", ["htnet_small", "htnet_paper"])
def test_htnet_equals_the_authors_module(shared: Path, variant: str) -> None:
    description, target = golden.reference(shared / "golden", variant)
    model = released.load("htnet", golden.weights(description["shapes"]), **description["config"])
    x = torch.from_numpy(golden.draw("input", (3, 3, 28, 28))).float()
    with torch.no_grad():
        assert golden.relative_error(model(x), target["logits"]) < 1e-4


def _state(shared: Path) -> dict[str, torch.Tensor]:
    return golden.weights(golden.reference(shared / "golden", "htnet_small")[0]["shapes"])


def test_a_wrapped_file_loads_and_its_sizes_are_read_off(shared: Path, tmp_path: Path) -> None:
    state = _state(shared)
    torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "sub01.pth")
    x = torch.from_numpy(golden.draw("input", (3, 3, 28, 28))).float()
    with torch.no_grad():
        assert torch.equal(
            released.load("htnet", tmp_path / "sub01.pth", heads=2)(x), released.load("htnet", state, heads=2)(x)
        )


def test_other_weights_are_refused(shared: Path) -> None:
    with pytest.raises(FlickerError, match="not HTNet's weights"):
        released.load("htnet", {"conv.weight": torch.zeros(1)})
    state = _state(shared)
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(FlickerError, match=r"extra\.weight"):
        released.load("htnet", state, heads=2)
    del state["extra.weight"], state["layers.1.1.0.bias"]
    with pytest.raises(FlickerError, match=r"aggregations\.1\.convolution\.bias"):
        released.load("htnet", state, heads=2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dim": 64}, "dim is 32"),
        ({"block_repeats": (2, 2, 8)}, "block_repeats is"),
        ({"num_classes": 3}, "num_classes is 5"),
        ({"depth": 3}, "no argument depth"),
        ({"image_size": 30}, "does not divide"),
        ({"heads": 5}, "attention"),
    ],
)
def test_arguments_that_do_not_describe_the_weights_are_named(shared: Path, config: dict, words: str) -> None:
    with pytest.raises(FlickerError, match=words):
        released.load("htnet", _state(shared), **{"heads": 2, **config})


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "evil.pth")
    with pytest.raises(FlickerError, match="without running code"):
        released.load("htnet", tmp_path / "evil.pth")
