"""Leak guards: what can be seen of a run, before its training and after, that would let test clips into it.

`check` looks at the inputs, the people, the statistics and the encoder of a prepared run; `check_results` at the
finished one. Neither changes anything, and neither finds every leak: docs/leaks.md says what each sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import fitted, protocols
from finetune.guards import inputs, pretraining
from finetune.guards.finding import Finding, listed

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig
    from finetune.prepare import Prepared
    from finetune.results import Results

__all__ = ["Finding", "check", "check_results", "statistics"]
HEADLINES = ("last", "inner")
"""Selections that may be a run's headline."""
ROUNDING = 1e-5  # stored probabilities are rounded


def check(prepared: Prepared, config: FinetuneConfig) -> list[Finding]:
    """What the guards find in a prepared run; [] where nothing is found. Deterministic, well under a second."""
    samples = prepared.samples
    tested = protocols.tested(protocols.folds(config.protocol, samples), samples)
    labels = samples.labels.numpy()
    findings = people(samples.ids, samples.subjects)
    for name, values in _arrays(prepared).items():
        findings += inputs.check(name, values, labels, samples.subjects, samples.ids)
    findings += statistics(prepared.head, tested)
    seen = pretraining.check(prepared.backbone, bool(prepared.identity.get("encoder")), tested)
    return findings + [_stated(one, config.backbone.test_subjects_seen) for one in seen]


def _arrays(prepared: Prepared) -> dict[str, np.ndarray]:
    """What the folds hand out, by name [n ...], and of a frozen encoder also what it was shown."""
    return prepared.material.arrays | {
        name: value[:, 0].cpu().numpy() for name, value in prepared.samples.inputs.items()
    }


def _stated(finding: Finding, allowed: bool) -> Finding:
    """A leak that the config allows is stated, no more."""
    if finding.severity == "leak" and allowed:
        return Finding(finding.name, f"{finding.what} (allowed: backbone.test_subjects_seen)", "stated")
    return finding


def people(ids: Sequence[str], subjects: Sequence[str]) -> list[Finding]:
    """Clips that occur twice, and subjects whose names differ in case or padding alone: one person in two folds."""
    findings = []
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        findings.append(Finding("people", f"{len(twice)} clips occur more than once: {listed(twice)}", "leak"))
    spelled: dict[str, set[str]] = {}
    for subject in subjects:
        spelled.setdefault(_plain(subject), set()).add(subject)
    if alike := [" and ".join(sorted(names)) for names in spelled.values() if len(names) > 1]:
        what = f"subjects that differ in case or padding alone may be one person in two folds: {listed(alike)}"
        findings.append(Finding("people", what, "leak"))
    return findings


def _plain(subject: str) -> str:
    """A subject's name without case and leading zeros: 'Sub01' and 'sub1' are one."""
    return inputs.NUMBER.sub(lambda match: str(int(match[0])), subject.lower())


def statistics(model: Any, tested: Sequence[str]) -> list[Finding]:
    """Statistics of a model (means, scales) that test clips went into, or that were fitted nobody knows on what.

    Args:
        model: a head; of a run the one that every fold's model comes from, which must not be fitted at all.
        tested: ids of clips that are tested with it.
    """
    findings = []
    for name, ids in fitted.records(model):
        if ids == fitted.OUTSIDE:
            what = f"statistics of {name} were fitted outside a fold, on clips that it does not know"
            findings.append(Finding("statistics", what, "leak"))
        elif both := sorted(set(ids) & set(tested)):
            what = f"statistics of {name} were fitted on {len(both)} clips that are tested: {listed(both)}"
            findings.append(Finding("statistics", what, "leak"))
    return findings


def check_results(results: Results, headline: str = "last") -> list[Finding]:
    """What the guards find in a finished run.

    Args:
        results: with its folds.
        headline: the selection that is shown as the run's result.
    """
    findings = []
    if headline not in HEADLINES:
        what = f"the headline is '{headline}': its epoch is chosen on the test subject; show last or inner"
        findings.append(Finding("selection", what, "leak"))
    wrong: dict[str, list[str]] = {}
    for fold in results.folds:
        for what in _fold(vars(fold), results.config.get("train", {}).get("epochs")):
            wrong.setdefault(what, []).append(f"{fold.subject} seed {fold.seed}")
    return findings + [Finding("selection", f"{what}: {listed(folds)}", "leak") for what, folds in wrong.items()]


def _fold(fold: Mapping[str, Any], budget: int | None) -> list[str]:
    """What a stored fold shows of a choice that it must not have made."""
    found = []
    by_epoch, epochs = fold["by_epoch"], fold["epochs"]
    if epochs["last"] != len(by_epoch) or budget not in (None, len(by_epoch)):
        found.append("'last' is not the last epoch of the fixed budget")
    if (scores := fold["inner_uf1"]) and scores[epochs["inner"] - 1] < max(scores):
        found.append("'inner' is not the epoch that is best on held-out training subjects")
    for selection in HEADLINES:
        shares = np.array(fold["probabilities"][selection])  # [m C]
        chosen = shares[np.arange(len(shares)), by_epoch[epochs[selection] - 1]]
        if (chosen < shares.max(axis=1) - ROUNDING).any():
            found.append(f"predictions of '{selection}' are not those of its epoch")
    tested = {name for clip in fold["ids"] for name in (clip.split("/")[1], clip.rpartition("/")[0])}
    if any(tested & set(held) for held in fold["held_subjects"]):
        found.append("the test subject helped to choose the epoch of 'inner'")
    return found
