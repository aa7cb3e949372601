"""Prepared inputs: what the heads read of a clip, made once, kept compactly, read without the images.

`prepare(clips, {name: recipe}, cache)` gives `Inputs`; the recipes are frozen dataclasses whose `key()` names what
they make. Units and shapes stand with each recipe.
"""

from __future__ import annotations

from finetune.inputs.base import Recipe
from finetune.inputs.flows import FlowMap, LongFlow
from finetune.inputs.images import MagnifiedApex, Pair, Sequence
from finetune.inputs.points import Regions
from finetune.inputs.preparing import prepare
from finetune.inputs.result import Inputs, Report

__all__ = [
    "FlowMap",
    "Inputs",
    "LongFlow",
    "MagnifiedApex",
    "Pair",
    "Recipe",
    "Regions",
    "Report",
    "Sequence",
    "prepare",
]
