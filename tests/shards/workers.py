"""What the pool's workers run in the tests; imports little, so that they start fast."""

import os
import signal
import time
from pathlib import Path

from shards.errors import FlickerError
from shards.pool import tick


def die_on_one(number):
    """The number; 1 ends the process."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def hold(place):
    """Leave this process's id, then wait."""
    Path(place).write_text(str(os.getpid()))
    time.sleep(60)


def tell(number):
    """The number, after two signs of life."""
    tick(2)
    return number


def fail_on_three(number):
    """The number; 3 is an error."""
    if number == 3:
        raise FlickerError("task 3")
    return number
