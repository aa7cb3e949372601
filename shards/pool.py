"""Tasks over worker processes, with results as they come; a worker that dies takes only its own task along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
LOOK_EVERY_SECONDS = 0.5  # how often what the workers tell is passed on
SLOTS = 1024  # process ids follow each other: two workers of one slot are unlikely, and cost a wrong rate only
_tell: Callable[[int], None] | None = None


def tick(count: int) -> None:
    """Say from within a task that `count` more (frames) are done; where nobody listens, nothing happens."""
    if _tell is not None:
        _tell(count)


class Pool:
    """Worker processes for one list of tasks after another. Use as a context manager.

    `workers` 0 works in this process; otherwise in that many spawned ones (so work and tasks must pickle), which
    start with the first task. `heard(count)` is called in this process for what tasks told by `tick`.
    """

    def __init__(self, workers: int, heard: Callable[[int], None] | None = None):
        self.workers, self.heard = workers, heard or (lambda count: None)
        self._context = multiprocessing.get_context("spawn")
        self._told = self._context.RawArray("q", SLOTS)  # a worker each: no lock that a dying one could keep
        self._heard = 0
        self._others = set(multiprocessing.active_children())
        self._executor: ProcessPoolExecutor | None = None

    def run(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], died: Callable[[Task], Result]
    ) -> Iterator[Result]:
        """Yield `work(task)` of every task, in no particular order; tasks are drawn as workers get free.

        Where a process dies (a decoder crashed, memory ran out), the tasks then in work are tried again one by
        one, each in a process of its own, and `died(task)` stands in for one that dies again. Exceptions of
        `work` pass through, and end the workers.
        """
        if self.workers == 0:
            yield from self._here(work, tasks)
            return
        waiting = iter(tasks)
        futures: dict[Future[Result], Task] = {}
        try:
            while True:
                broken = self._submit(work, waiting, futures)
                if not futures and not broken:
                    self._listen()
                    return
                finished = wait(futures, LOOK_EVERY_SECONDS, FIRST_COMPLETED).done
                self._listen()
                for future in finished:
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken.append(futures.pop(future))
                    else:
                        del futures[future]
                        yield future.result()
                if broken:
                    broken += futures.values()
                    futures.clear()
                    self._close()
                    for task in broken:
                        yield self._alone(work, task, died)
        except BaseException:
            self.end()
            raise

    def _submit(
        self, work: Callable[[Task], Result], waiting: Iterator[Task], futures: dict[Future[Result], Task]
    ) -> list[Task]:
        """Keep a few more tasks than workers in work. Returns a task that found its pool broken."""
        while len(futures) < self.workers + 2:
            try:
                task = next(waiting)
            except StopIteration:
                break
            self._executor = self._executor or self._new(self.workers)
            try:
                futures[self._executor.submit(work, task)] = task
            except BrokenProcessPool:
                return [task]
        return []

    def _here(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Everything in this process."""
        global _tell
        before = _tell
        try:
            for task in tasks:
                _tell = self.heard
                result = work(task)
                _tell = before
                yield result
        finally:
            _tell = before

    def _alone(self, work: Callable[[Task], Result], task: Task, died: Callable[[Task], Result]) -> Result:
        """One task in a process of its own."""
        with self._new(1) as executor:
            try:
                return executor.submit(work, task).result()
            except BrokenProcessPool:
                return died(task)

    def _new(self, workers: int) -> ProcessPoolExecutor:
        """Spawned workers: no inherited threads or locks, and gone when this process is."""
        return ProcessPoolExecutor(workers, self._context, _begin, (self._told,))

    def _listen(self) -> None:
        """Pass on what the workers told since the last time."""
        told = sum(self._told)
        if told != self._heard:
            self.heard(told - self._heard)
            self._heard = told

    def _close(self) -> None:
        """Let the workers go when they are done."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def end(self) -> None:
        """End the workers in the middle of what they do."""
        self._close()
        for child in set(multiprocessing.active_children()) - self._others:
            child.terminate()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()
        elif self._executor is not None:
            self._executor.shutdown()
            self._executor = None


def _begin(told: Any) -> None:
    """In a new worker: tell by way of `told`; end when the parent ends, even by SIGKILL, and silently on Ctrl-C."""
    global _tell
    slot = os.getpid() % SLOTS

    def tell(count: int) -> None:
        told[slot] += count

    _tell = tell
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait_for: Callable[[], None]) -> None:
    """End this process once `wait_for` returns."""
    wait_for()
    os._exit(1)
