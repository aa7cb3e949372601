"""Figures that are not finite are found, in the step they belong to."""

import pytest
import torch

from pretrain.health import Health


def _figures(loss: float = 1.0, norm: float = 1.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss, dtype=torch.bfloat16), "gradient norm": torch.tensor(norm)}


@pytest.mark.parametrize("bad", [{"loss": float("nan")}, {"norm": float("inf")}])
def test_the_first_bad_step_is_named(bad: dict[str, float]) -> None:
    health = Health(torch.device("cpu"))
    health.note(1, _figures(), "a")
    assert health.bad() is None
    health.note(2, _figures(**bad), "b")
    health.note(3, _figures(float("nan")), "c")
    found = health.bad()
    assert found is not None and "of step 2 " in found and " b " in found
    health.note(4, _figures(), "d")
    assert health.bad() == found, "it is not forgotten"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_newest_step_is_looked_at_only_when_asked() -> None:
    health = Health(torch.device("cuda"))
    health.note(1, {name: value.cuda() for name, value in _figures(float("nan")).items()}, "a")
    assert health.bad() is None
    assert health.bad(all_steps=True) is not None
