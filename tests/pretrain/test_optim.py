"""Parameter groups and the learning rate's course."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain import create
from pretrain.config import OptimConfig
from pretrain.optim import learning_rate, parameter_groups
from tests.sizes import SIZES


def test_every_trained_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = create("tiny", **SIZES)
    decay, plain = (group["params"] for group in parameter_groups(model, 0.05))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(map(id, decay + plain)) == sorted(trained)
    assert all(names[id(p)].endswith("weight") and p.ndim >= 2 for p in decay)
    assert {"encoder.cls_token", "encoder.norm.weight", "decoder.pred.bias"} <= {names[id(p)] for p in plain}
    assert not any("pos_embed" in names[id(p)] for p in decay + plain), "position tables are fixed"


@given(steps=st.integers(2, 1000), warmup=st.integers(0, 100), lr=st.floats(1e-6, 1.0))
def test_rate_climbs_to_its_peak_and_falls_to_the_final_one(steps: int, warmup: int, lr: float) -> None:
    config = OptimConfig(lr=lr, warmup=warmup, final_lr=0.0)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    assert all(0 <= rate <= lr * (1 + 1e-9) for rate in rates)
    rounding = 1e-9 * lr
    assert all(b >= a - rounding for a, b in pairwise(rates[: warmup + 1]))
    assert all(b <= a + rounding for a, b in pairwise(rates[warmup:]))


def test_rate_is_the_papers_cosine() -> None:
    config = OptimConfig(lr=1e-4, warmup=0, final_lr=0.0)
    assert learning_rate(0, 100, config) == pytest.approx(1e-4)
    assert learning_rate(50, 100, config) == pytest.approx(0.5e-4)
    assert learning_rate(100, 100, config) == pytest.approx(0.0)
