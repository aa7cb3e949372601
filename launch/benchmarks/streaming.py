"""MosaicML Streaming from a folder of its own.

Its requirements (numpy < 2.2, transformers < 5, cloud clients) would downgrade what training uses. Its local reader
and writer need none of that: `make bench` installs the package without requirements, and the few modules that it does
import, into a folder that only the benchmark's processes look into. Of transformers it imports three names and uses
none of them here, so empty stand-ins do.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

PLACE = Path(sys.prefix) / "bench"
"""Where `make bench` installs it."""
MISSING = "MosaicML Streaming is not installed: run `make bench`"
_STAND_INS = {
    "transformers": (),
    "transformers.tokenization_utils_base": ("BatchEncoding",),
    "transformers.feature_extraction_utils": ("BatchFeature",),
    "transformers.models": (),
    "transformers.models.auto": (),
    "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
}


def available() -> bool:
    """Whether it can be imported."""
    _look()
    return importlib.util.find_spec("streaming") is not None


def import_streaming() -> Any:
    """The module `streaming`. Raises ImportError where it is not installed."""
    _look()
    if importlib.util.find_spec("transformers") is None:
        for name, classes in _STAND_INS.items():
            module = types.ModuleType(name)
            module.__dict__.update({word: type(word, (), {}) for word in classes})
            sys.modules[name] = module
    return importlib.import_module("streaming")


def _look() -> None:
    """Search the folder of its own, last."""
    if PLACE.is_dir() and str(PLACE) not in sys.path:
        sys.path.append(str(PLACE))
