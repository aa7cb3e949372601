"""Everything a report says about one run, as plain values: report.json holds them, tables and charts show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from finetune import metrics
from finetune.fold import SELECTIONS
from finetune.reporting import statistics
from finetune.reporting.calibration import calibration
from finetune.reporting.predictions import Predictions
from finetune.results import Results

WORST = 20


def analyse(results: Results, predictions: Predictions) -> dict[str, Any]:
    """Scores with intervals, means over folds, per class, per subject, calibration, worst clips, findings."""
    counts = {name: predictions.counts(name) for name in SELECTIONS}
    return {
        "run": str(results.out),
        "title": results.title,
        "head": results.config.get("head", {}).get("name", "micron"),
        "dataset": results.dataset,
        "scheme": results.scheme,
        "protocol": protocol(results.config, predictions),
        "datasets": list(predictions.datasets),
        "classes": list(predictions.classes),
        "simulated": results.simulated,
        "clips": len(predictions.ids),
        "subjects": len(predictions.people),
        "folds": len(set(predictions.folds)),
        "seeds": list(predictions.seeds),
        "scores": {name: scores(values) for name, values in counts.items()},
        "fold_means": {name: fold_means(predictions, name) for name in SELECTIONS},
        "optimism": optimism(counts),
        "majority": majority(predictions),
        "confusion": {name: values.sum((0, 1)).tolist() for name, values in counts.items()},
        "per_class": {name: per_class(values, predictions.classes) for name, values in counts.items()},
        "per_subject": per_subject(predictions, counts),
        "calibration": {
            name: asdict(calibration(predictions.probabilities[name], predictions.truth)) for name in SELECTIONS
        },
        "worst": worst(predictions),
        "parts": parts(results, predictions),
        "ensemble": results.ensemble,
        "findings": results.findings,
    }


def protocol(config: Mapping[str, Any], predictions: Predictions) -> str:
    """The protocol in words."""
    kind = config.get("protocol", {}).get("kind", "loso")
    folds = sorted(set(predictions.folds))
    if kind == "loso":
        several = len(predictions.datasets) > 1
        return "leave-one-subject-out" + (" on several datasets together (composite)" if several else "")
    if kind == "kfold":
        return f"{len(folds)} groups of subjects"
    if kind == "cross":
        return f"across datasets: {', '.join(folds)}"
    return "leave-one-dataset-out" if kind == "lodo" else str(kind)


def scores(counts: np.ndarray) -> dict[str, dict[str, float]]:
    """Score name -> mean and standard deviation over seeds, and the bootstrap interval; counts [S G C C]."""
    by_seed = metrics.from_counts(counts.sum(1))
    intervals = statistics.bootstrap(counts)
    return {
        name: {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "low": intervals[name][0],
            "high": intervals[name][1],
        }
        for name, values in by_seed.items()
    }


def fold_means(predictions: Predictions, selection: str) -> dict[str, float]:
    """The mean over folds of each fold's own scores, mean over seeds."""
    counts = predictions.counts(selection, predictions.folds)  # [S F C C]
    by_seed = [metrics.fold_means(one) for one in counts]
    return {name: float(np.mean([values[name] for values in by_seed])) for name in metrics.NAMES}


def parts(results: Results, predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Of several datasets: the scores on each one's clips, filtered from the pooled predictions; {} of one alone.

    With 'ensemble', the scores of the seeds' mean probabilities on them, where the run has these.
    """
    if len(predictions.datasets) < 2:
        return {}
    found = {}
    for name in predictions.datasets:
        own = predictions.of_dataset(name)
        shown = {selection: scores(own.counts(selection)) for selection in SELECTIONS}
        ensemble = results.parts.get(name, {}).get("ensemble", {})
        found[name] = {"clips": len(own.ids), "subjects": len(own.people), "scores": shown, "ensemble": ensemble}
    return found


def optimism(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Oracle minus last in UF1, with its interval: what choosing the epoch on the test subject adds."""
    low, high = statistics.bootstrap_difference(counts["oracle"], counts["last"])["uf1"]
    value = statistics.score(counts["oracle"])["uf1"] - statistics.score(counts["last"])["uf1"]
    return {"uf1": value, "low": low, "high": high}


def majority(predictions: Predictions) -> dict[str, Any]:
    """The scores of always answering the most frequent class."""
    most = int(np.bincount(predictions.truth, minlength=len(predictions.classes)).argmax())
    answers = np.full_like(predictions.truth, most)
    found = metrics.scores(truth=predictions.truth, predicted=answers, classes=range(len(predictions.classes)))
    return {"class": predictions.classes[most], **{name: found[name] for name in metrics.NAMES}}


def per_class(counts: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per class over all seeds: f1, recall, precision (None where undefined) and clips; counts [S G C C]."""
    values = metrics.class_scores(counts.sum((0, 1)))
    rows = []
    for place, name in enumerate(classes):
        row: dict[str, Any] = {"class": name, "clips": int(values["support"][place]) // len(counts)}
        for key in ("f1", "recall", "precision"):
            value = float(values[key][place])
            row[key] = None if np.isnan(value) else value
        rows.append(row)
    return rows


def per_subject(predictions: Predictions, counts: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Per person: clips, and accuracy by selection, mean over seeds."""
    several = len({name.split("/", 1)[0] for name in predictions.people}) > 1
    shares = {name: statistics.accuracies(values) for name, values in counts.items()}
    clips = counts["last"][0].sum((-2, -1))
    return [
        {
            "subject": name if several else name.split("/", 1)[-1],
            "clips": int(clips[place]),
            **{selection: float(values[place]) for selection, values in shares.items()},
        }
        for place, name in enumerate(predictions.people)
    ]


def worst(predictions: Predictions) -> list[dict[str, Any]]:
    """The surest wrong predictions of `last`: clip, truth, predicted, probability, in how many seeds it is wrong."""
    wrong = (predictions.predicted("last") != predictions.truth).sum(0)
    return [
        {
            "clip": predictions.ids[row],
            "truth": predictions.classes[predictions.truth[row]],
            "predicted": predictions.classes[label],
            "probability": sure,
            "wrong_seeds": int(wrong[row]),
        }
        for row, label, sure in predictions.surest(right=False)[:WORST]
    ]
