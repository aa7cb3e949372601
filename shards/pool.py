"""Tasks over worker processes, with results as they come; a worker that dies takes only its own task along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    died: Callable[[Task], Result],
) -> Iterator[Result]:
    """Yield `work(task)` of every task, in no particular order.

    `workers` 0 works in this process; otherwise in that many spawned processes (so `work` and the tasks must
    pickle). Where a process dies (a decoder crashed, memory ran out), the unfinished tasks are tried again one
    by one, each in a process of its own, and `died(task)` stands in for one that dies again. Exceptions of
    `work` pass through.
    """
    if workers == 0 or not tasks:
        yield from map(work, tasks)
        return
    left = dict(enumerate(tasks))
    others = set(multiprocessing.active_children())
    with _pool(min(workers, len(tasks))) as pool:
        futures = {pool.submit(work, task): number for number, task in left.items()}
        try:
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                yield result
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise
    for task in left.values():
        yield _alone(work, task, died)


def _alone(work: Callable[[Task], Result], task: Task, died: Callable[[Task], Result]) -> Result:
    """One task in a process of its own."""
    with _pool(1) as pool:
        try:
            return pool.submit(work, task).result()
        except BrokenProcessPool:
            return died(task)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Spawned workers: no inherited threads or locks, and gone when this process is."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)


def _follow_parent() -> None:
    """End this worker when its parent ends, even by SIGKILL, and silently on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait: Callable[[], None]) -> None:
    """End this process once `wait` returns."""
    wait()
    os._exit(1)
