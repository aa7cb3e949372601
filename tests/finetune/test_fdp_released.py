"""FDP as released: parity with the authors' module, and files that are not its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune import released
from finetune.heads.fdp_network import Network
from finetune.options.fdp import FdpOptions
from shards.errors import FlickerError
from tests import golden

THEIRS = (
    ("codes.", "frame_rep."),
    ("dynamics.pool.", "mer.conv3d."),
    ("dynamics.hidden.", "mer.fc1."),
    ("dynamics.classify.", "mer.fc2."),
    ("image.", "dyimg_net."),
)


def test_fdp_equals_the_authors_module(shared: Path) -> None:
    description, target = golden.reference(shared / "golden", "fdp_paper")
    model = released.load("fdp", golden.weights(description["shapes"]), **description["config"])
    x = torch.from_numpy(golden.draw("input", (2, 1, 8, 1, 64, 64))).float()
    with torch.no_grad():
        logits, image = model(x)
    assert golden.relative_error(logits, target["logits"]) < 1e-4
    assert golden.relative_error(image, target["dynamic_image"]) < 1e-4


@pytest.fixture
def state(small_release: None) -> dict[str, Tensor]:
    """Weights of a narrow network by the authors' names."""
    torch.manual_seed(0)
    weights = {}
    for name, value in Network(5, FdpOptions(release=True, frames=4, crop=32, hidden=16)).state_dict().items():
        for ours, theirs in THEIRS:
            name = theirs + name[len(ours) :] if name.startswith(ours) else name
        weights[name] = value
    return weights


def test_a_wrapped_file_loads_and_its_sizes_are_read_off(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "sub01.pth")
    x = torch.randn(2, 1, 4, 1, 32, 32)
    one, two = released.load("fdp", tmp_path / "sub01.pth", frames=4), released.load("fdp", state)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(one(x), two(x), strict=True))
        assert two(x)[0].shape == (2, 5) and two(x)[1].shape == (2, 32, 32)


def test_other_weights_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(FlickerError, match="not FDP's weights"):
        released.load("fdp", {"conv.weight": torch.zeros(1)})
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(FlickerError, match=r"extra\.weight"):
        released.load("fdp", state)
    del state["extra.weight"], state["dyimg_net.bn11.running_mean"]
    with pytest.raises(FlickerError, match=r"image\.bn11\.running_mean"):
        released.load("fdp", state)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"frames": 8}, "frames is 4"), ({"classes": 3}, "classes is 5"), ({"depth": 1}, "no argument depth")],
)
def test_arguments_that_do_not_describe_the_weights_are_named(
    state: dict[str, Tensor], config: dict[str, int], words: str
) -> None:
    with pytest.raises(FlickerError, match=words):
        released.load("fdp", state, **config)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "evil.pth")
    with pytest.raises(FlickerError, match="without running code"):
        released.load("fdp", tmp_path / "evil.pth")
