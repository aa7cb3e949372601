"""Several hosts on one machine: network namespaces behind a switch, or addresses of the loopback interface.

Namespaces need root. Each host has its own interface, its own loopback and nothing else, so what two hosts say to
each other really crosses a link, and that link can be cut without either end being told. Where namespaces are not
permitted, hosts are 127.0.0.2, 127.0.0.3, ...; a cut host is then one whose processes are all stopped: its
connections stay open and nobody answers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PREFIX = "flicker"
MARK = "FLICKER_TEST_HOST"  # in the environment of every process of a host
_numbers = itertools.count()


@dataclass
class Host:
    """One host: an address, and the processes started on it."""

    name: str
    address: str
    namespace: bool
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def interface(self) -> str:
        """The network interface that other hosts are reached through."""
        return "eth0" if self.namespace else "lo"

    def start(self, words: list[str], environment: dict[str, str], log: Path, folder: Path) -> subprocess.Popen:
        """Run a command on this host, its output in `log`.

        It is the leader of its own process group and session, as everything that a cluster starts.
        """
        inside = ["ip", "netns", "exec", self.name] if self.namespace else []
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*inside, *words],
                cwd=folder,
                env={**environment, MARK: self.name, "GLOO_SOCKET_IFNAME": self.interface},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """All processes of this host, whoever their parents are by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.name:
                    found.append(process)
        return found

    def ranks(self, script: str) -> list[psutil.Process]:
        """The training processes among them, by their rank."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if script in words and not any("deepspeed" in word for word in words[: words.index(script)]):
                    found.append(process)
        return sorted(found, key=lambda process: int(process.environ()["RANK"]))

    def cut(self) -> None:
        """No packet leaves or reaches this host any more."""
        if self.namespace:
            _ip("link", "set", "eth0", "down", inside=self.name)
        else:
            self._send(signal.SIGSTOP)

    def reconnect(self) -> None:
        """The link of a namespace is up again."""
        _ip("link", "set", "eth0", "up", inside=self.name)

    def kill(self) -> None:
        """End all its processes, at once and without warning."""
        while self.processes():
            self._send(signal.SIGKILL)
        for process in self.started:
            process.wait()

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


def permitted() -> bool:
    """Whether this process may make network namespaces, bridges and veth pairs."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    with contextlib.suppress(subprocess.CalledProcessError), _namespaces(1):
        return True
    return False


@contextlib.contextmanager
def hosts(count: int, namespaces: bool) -> Iterator[list[Host]]:
    """So many hosts; whatever happens, their processes and namespaces are gone afterwards."""
    with _namespaces(count) if namespaces else _loopback(count) as made:
        try:
            yield made
        finally:
            for host in made:
                host.kill()


@contextlib.contextmanager
def _loopback(count: int) -> Iterator[list[Host]]:
    number = f"{os.getpid()}-{next(_numbers)}"
    yield [Host(f"{PREFIX}-{number}-h{i}", f"127.0.0.{2 + i}", namespace=False) for i in range(count)]


@contextlib.contextmanager
def _namespaces(count: int) -> Iterator[list[Host]]:
    """One namespace per host and one with a bridge that connects them."""
    number = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    switch, names = f"{number}-switch", [f"{number}-h{i}" for i in range(count)]
    try:
        _ip("netns", "add", switch)
        _ip("link", "add", "bridge0", "type", "bridge", inside=switch)
        _ip("link", "set", "bridge0", "up", inside=switch)
        for i, name in enumerate(names):
            _ip("netns", "add", name)
            ends = ["eth0", "netns", name, "type", "veth", "peer", "name", f"port{i}", "netns", switch]
            _ip("link", "add", "name", *ends)
            _ip("link", "set", f"port{i}", "master", "bridge0", "up", inside=switch)
            _ip("addr", "add", f"10.77.0.{1 + i}/24", "dev", "eth0", inside=name)
            _ip("link", "set", "eth0", "up", inside=name)
            _ip("link", "set", "lo", "up", inside=name)
        yield [Host(name, f"10.77.0.{1 + i}", namespace=True) for i, name in enumerate(names)]
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str, inside: str | None = None) -> None:
    """The `ip` command, inside a namespace where one is named."""
    within = ["-n", inside] if inside else []
    subprocess.run(["ip", *within, *words], capture_output=True, check=True)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
