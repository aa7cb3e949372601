"""Intervals and tests against closed forms, literal loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from finetune import metrics
from finetune.reporting import statistics
from finetune.reporting.calibration import FLOOR, calibration


def counts(seed: int, people: int = 6, seeds: int = 1, classes: int = 3, clips: int = 7) -> np.ndarray:
    """Random confusion matrices [S G C C]."""
    shape = (seeds, people, classes, classes)
    return np.random.default_rng(seed).multinomial(clips, np.full(classes**2, classes**-2), shape[:2]).reshape(shape)


def right(people: int = 5) -> np.ndarray:
    """Every prediction right: [1 G 3 3]."""
    return np.tile(np.diag([3, 2, 4]), (1, people, 1, 1))


def test_the_interval_of_an_all_correct_run_has_no_width() -> None:
    assert statistics.bootstrap(right(), 500) == dict.fromkeys(metrics.NAMES, (1.0, 1.0))
    same = statistics.bootstrap_difference(counts(1), counts(1), 500)
    assert set(same.values()) == {(0.0, 0.0)}


def test_drawn_people_are_scored_together_as_a_literal_loop_does() -> None:
    made, weights = counts(2, seeds=2), statistics.resampled(6, 20)
    assert weights.shape == (20, 6) and (weights.sum(1) == 6).all()
    drawn = statistics.pooled(statistics._weighted(weights, made))
    for place, row in enumerate(weights.astype(int)):
        by_seed = []
        for one in made:  # [G C C]
            cells = np.repeat(one, row, axis=0).sum(0)
            truth, predicted = (np.repeat(axis.ravel(), cells.ravel()) for axis in np.indices(cells.shape))
            by_seed.append(f1_score(truth, predicted, average="macro", zero_division=0))
        assert drawn["uf1"][place] == pytest.approx(np.mean(by_seed))


def test_the_bootstrap_of_accuracy_agrees_with_the_normal_interval() -> None:
    """Accuracy over people of equal size is a mean: its interval is close to ± 1.96 standard errors."""
    made = counts(3, people=80, clips=10)
    shares = statistics.accuracies(made)
    low, high = statistics.bootstrap(made, 4000)["accuracy"]
    error = 1.96 * shares.std() / np.sqrt(len(shares))
    assert low == pytest.approx(shares.mean() - error, abs=0.005)
    assert high == pytest.approx(shares.mean() + error, abs=0.005)


def test_identical_runs_have_p_one() -> None:
    for people in (4, 30):  # all exchanges, and drawn ones
        found = statistics.permutation(counts(4, people), counts(4, people), 2000)
        assert set(found.p.values()) == {1.0} and set(found.differences.values()) == {0.0}
        assert found.exact == (people == 4)


def test_exact_p_of_the_largest_difference_has_a_closed_form() -> None:
    """One run always right, the other always wrong: only 'nobody' and 'everybody' exchanged are as extreme."""
    wrong = np.roll(right(), 1, axis=-1)
    found = statistics.permutation(right(), wrong)
    assert found.exact and found.permutations == 32 and found.p["accuracy"] == found.smallest == 2 / 32
    assert found.differences["accuracy"] == 1.0 and "2^" not in found.formula and "/ 32" in found.formula


def test_exact_enumeration_equals_a_literal_one_and_scipy() -> None:
    first, second = counts(5, people=5, seeds=2), counts(6, people=5, seeds=2)
    found = statistics.permutation(first, second)
    reference = statistics.score(first)["uf1"] - statistics.score(second)["uf1"]
    extreme = 0
    for number in range(32):
        one, two = first.copy(), second.copy()
        for person in range(5):
            if number >> person & 1:
                one[:, person], two[:, person] = second[:, person], first[:, person]
        difference = statistics.score(one)["uf1"] - statistics.score(two)["uf1"]
        extreme += abs(difference) >= abs(reference) - 1e-12
    assert found.p["uf1"] == extreme / 32
    shares = statistics.accuracies(first), statistics.accuracies(second)  # equal clips: accuracy is the mean of these
    theirs = stats.permutation_test(
        shares, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert found.p["accuracy"] == pytest.approx(theirs.pvalue)


def test_sampled_exchanges_estimate_the_exact_p() -> None:
    first, second = counts(7, people=8), counts(8, people=8)
    exact = statistics.permutation(first, second, exact=True)
    sampled = statistics.permutation(first, second, 20_000, exact=False)
    assert exact.exact and not sampled.exact and sampled.permutations == 20_000
    for name, p in exact.p.items():
        assert sampled.p[name] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 20_000) + 1e-4)
    assert sampled.formula.startswith("p = (1 + #") and sampled.smallest == 1 / 20_001


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_p_is_a_share_and_symmetric(seed: int, people: int) -> None:
    first, second = counts(seed, people), counts(seed + 1, people)
    one, two = statistics.permutation(first, second), statistics.permutation(second, first)
    assert one.p == two.p and all(0 < p <= 1 for p in one.p.values())
    assert one.differences["uf1"] == pytest.approx(-two.differences["uf1"])


def test_wilcoxon_is_scipys_on_per_person_accuracies() -> None:
    first, second = counts(9, 30, clips=40), counts(10, 30, clips=40)
    a, b = statistics.accuracies(first), statistics.accuracies(second)
    found = statistics.wilcoxon(a, b)
    left = np.round(a - b, 12)
    assert found.subjects == np.count_nonzero(left) and found.method.startswith("normal")
    assert found.p == pytest.approx(stats.wilcoxon(left[left != 0], method="asymptotic").pvalue)
    spread = np.arange(1, 11) / 100
    exact = statistics.wilcoxon(0.5 + spread, np.full(10, 0.5))
    assert exact.method == "exact" and exact.p == pytest.approx(2 / 2**10)
    tied = statistics.wilcoxon(np.full(8, 0.6), np.full(8, 0.5))
    assert tied.method == "exact, all signs tried" and tied.p == pytest.approx(2 / 2**8)
    assert statistics.wilcoxon(a, a) == statistics.Wilcoxon(1.0, 0, "no subject differs")


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0] and statistics.holm([]) == []


def test_calibration_by_hand() -> None:
    probabilities = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [1.0, 0.0]]])
    truth = np.array([0, 1, 1, 1])
    found = calibration(probabilities, truth)
    # bins (0.6, 0.7], (0.7, 0.8], (0.8, 0.9], (0.9, 1]: one prediction each
    assert found.counts == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1] and found.accuracy[5] is None
    assert found.ece == pytest.approx((0.3 + 0.8 + 0.1 + 1.0) / 4)
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.64 + 2 * 0.09 + 2) / 4)
    assert found.nll == pytest.approx(-(np.log(0.9) + np.log(0.2) + np.log(0.7) + np.log(FLOOR)) / 4)


def test_sure_and_right_is_perfectly_calibrated() -> None:
    truth = np.array([0, 1, 2])
    found = calibration(np.eye(3)[truth][None], truth)
    assert (found.ece, found.brier, found.nll) == (0, 0, 0)
