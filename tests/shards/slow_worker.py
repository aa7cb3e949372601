"""A reader process whose disk turns slow while a file named by FLICKER_SLOW exists."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from shards import store, worker

FLAG = os.environ.get("FLICKER_SLOW", "")
SLOW_SECONDS = 0.01


def main() -> None:
    """Serve as `shards.worker` does, over a store that waits now and then."""
    view = store.LocalStore.view

    def slow_view(self: store.LocalStore, *place: Any) -> Any:
        if random.random() < 0.3 and os.path.exists(FLAG):  # noqa: PTH110  (called for every frame)
            time.sleep(SLOW_SECONDS)
        return view(self, *place)

    store.LocalStore.view = slow_view  # type: ignore[method-assign]
    worker.main()


if __name__ == "__main__":
    main()
