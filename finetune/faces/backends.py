"""Backends of landmarks by name; another may be added."""

from __future__ import annotations

from finetune.faces.dlib_points import DlibPoints
from finetune.faces.interface import Factory, Landmarker
from shards.errors import UsageError

_FACTORIES: dict[str, Factory] = {"dlib": DlibPoints}


def register(name: str, factory: Factory) -> None:
    """Add a backend. `factory` is a function or class at the top of a module, so that worker processes find it."""
    _FACTORIES[name] = factory


def factory_of(name: str) -> Factory:
    """What makes the backend `name`. Raises UsageError for an unknown name."""
    if name not in _FACTORIES:
        raise UsageError(f"no landmark backend '{name}'; there is: {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[name]


def landmarker(name: str = "dlib") -> Landmarker:
    """The backend `name`. Raises UsageError for an unknown name, FlickerError where it is not installed."""
    return factory_of(name)()
