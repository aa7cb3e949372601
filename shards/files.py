"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import FlickerError


@contextlib.contextmanager
def atomic_path(path: Path, folder: Path | None = None, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The folder is made where it is missing. On an error the temporary file is removed and `path` keeps
    what it had. `folder`, on the same file system, takes the temporary file instead. `durable`: the file is on the
    disk, not only in the system's memory, when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=folder or path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        if durable:
            to_disk(temporary)
        temporary.replace(path)
        if durable:
            to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk: a power cut then loses no file and no new name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask (os offers no way to read it without setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write `text` (UTF-8) to `path` atomically; `durable` as in `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write `value` as indented JSON to `path` as `write_text` does, keys in their given order."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", durable)


def read_json(path: Path, what: str = "file") -> Any:
    """Read a JSON file. Raises FlickerError naming `what` and the path if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FlickerError(f"{what} not found: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FlickerError(f"{what} is not valid JSON: {path}: {error}") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    """SHA-256 in 1 MiB pieces, for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
