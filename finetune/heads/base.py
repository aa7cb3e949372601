"""What every recogniser is to the fold training: inputs by name to logits, its own loss, augmentation and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune import fitted
from finetune.config import Mode
from finetune.folds import Portion

Inputs = Mapping[str, Tensor]


class Head(nn.Module):
    """A recogniser that one fold trains: `forward(inputs) -> logits [B C]`.

    `inputs` are prepared tensors by name, batch first: frames RGB uint8 [B H W 3] or [B T H W 3], flow float32
    [B H W 2 or 3] in pixels, landmarks and boxes float32. What a subclass does not need it leaves as it is here.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Every head's `fit` keeps a record of the clips that its statistics are of (finetune.fitted)."""
        super().__init_subclass__(**options)
        if "fit" in vars(cls):
            cls.fit = fitted.within(cls.fit)  # type: ignore[assignment, method-assign]

    def fit(self, portion: Portion) -> None:
        """Set statistics (means, scales) from a fold's training clips. Raises LeakError for any other portion."""
        portion.require_training(f"statistics of {type(self).__name__}")

    @property
    def fixed(self) -> bool:
        """Whether `extract` of a native head does what is the same in every fold, e.g. by a frozen encoder."""
        return False

    def initial(self) -> str:
        """Digest of weights that a native head does not start at random from; '' where there are none."""
        return ""

    def extract(self, inputs: Inputs) -> dict[str, Tensor]:
        """What does not depend on the fold, where the encoder is frozen: of a native head, the inputs."""
        return dict(inputs)

    def readout(self) -> Head:
        """An untrained model of what `extract` gives."""
        raise NotImplementedError

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> Head:
        """An untrained copy for one fold whose encoder trains as the mode says (finetune.backbone.trainable_copy)."""
        raise NotImplementedError

    def split(self) -> tuple[Callable[[Inputs], Any], nn.Module]:
        """(what comes before anything that trains, the network behind it): forward is the one after the other.

        The first part's tensors are batch first. Folds that train together vectorise the second alone.
        """
        return dict, self

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """A training batch, varied at random (crop, flip, jitter); `generator` is on the CPU."""
        return inputs

    def training_batch(self, inputs: Inputs, rows: Tensor, generator: torch.Generator) -> Inputs:
        """The training batch of the clips at rows int64 [B] of `inputs`, augmented."""
        return self.augment({name: value[rows] for name, value in inputs.items()}, generator)

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(total loss [], its parts by name, detached) of a training batch.

        labels int64 [B]; weights float32 [C] per class or None; smoothing: share of the target spread over classes.
        """
        loss = F.cross_entropy(self(inputs), labels, weight=weights, label_smoothing=smoothing)
        return loss, {"classification": loss.detach()}

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser parameter groups: norms, biases and other vectors without decay."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim >= 2]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim < 2]
        groups = [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": plain, "lr": lr, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
