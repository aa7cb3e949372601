"""Size and cost of every recogniser, native and plugged, beside what its paper states."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import torch

import pretrain
from finetune import heads
from finetune.config import HeadConfig
from pretrain import MicronBert

WIDTH = 118


def rows(config: HeadConfig, encoder: MicronBert, classes: int) -> Iterator[dict[str, Any]]:
    """Per head, native and on `encoder`: 'head', 'form', 'parameters', 'flops' (per clip, forward), 'inputs' and
    'published' (the paper's figures and a 'note' where they disagree)."""
    for name in heads.HEADS:
        options = getattr(config, name)
        for form, given in (("native", None), ("plugged", encoder)):
            if name == "micron" and given is None:
                continue  # there is none: it is an encoder with a classifier
            head = heads.create(name, classes, given, **vars(options))
            yield {"head": name, "form": form, **head.summary()}


def text(config: HeadConfig, preset: str, classes: int = 5) -> str:
    """The table for people; plugged heads sit on an encoder of architecture `preset`."""
    with torch.random.fork_rng(devices=[]):
        encoder = pretrain.create(preset)
    lines = [f"{'head':<9}{'form':<9}{'parameters':>12}{'GFLOP/clip':>12}   inputs", ""]
    for row in rows(config, encoder, classes):
        kinds = ", ".join(f"{name} ({what})" for name, what in row["inputs"].items())
        size = f"{row['parameters'] / 1e6:.2f} M"
        lines.append(f"{row['head']:<9}{row['form']:<9}{size:>12}{row['flops'] / 1e9:>12.2f}   {kinds}")
        if row["form"] == "native" or row["head"] == "micron":
            lines += _published(row["published"])
    lines += ["", f"plugged: on a Micron-BERT encoder `{preset}` (backbone.preset), {classes} classes"]
    return "\n".join(lines)


def _published(stated: dict[str, Any]) -> list[str]:
    """What the paper states, and the note, indented."""
    figures = [f"{key} {value:,.10g}" for key, value in stated.items() if isinstance(value, int | float)]
    words = f"paper: {', '.join(figures) or 'states no size'}"
    if note := stated.get("note"):
        words += f". {note}"
    return textwrap.wrap(words, WIDTH, initial_indent=" " * 18, subsequent_indent=" " * 18)
