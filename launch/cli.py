"""What every command shares: a typed config from a recipe and dotted overrides, one-line errors, exit codes.

Exit codes: 0 done, 1 failed (a one-line reason on stderr), 2 wrong usage (unknown key, bad value).
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from shards.errors import FlickerError, UsageError

Config = TypeVar("Config")
set_parsing_settings(docstring_parse_attribute_docstrings=True)
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def parse(
    config_class: type[Config],
    arguments: list[str],
    *,
    command: str,
    description: str,
    positional: str | None = None,
    defaults: dict[str, Any] | None = None,
) -> Config:
    """Build `config_class` (a dataclass, its field docstrings being the help) from a command line.

    `--config FILE` reads a YAML recipe, `--a.b VALUE` overrides it, `positional` names the field that takes
    the bare arguments; `defaults` are dotted keys that replace the dataclass's own. The launcher's
    `--local_rank` is accepted and dropped.

    Raises UsageError: unknown key (the nearest known one is suggested), bad value, missing recipe.
    """
    parser = ArgumentParser(prog=command, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML recipe; later arguments override its values")
    skip = {positional} if positional else set()
    parser.add_class_arguments(config_class, None, skip=skip)
    if positional:
        parser.add_argument(positional, nargs="*", default=[], help=f"{positional}: one or more paths")
    if defaults:
        parser.set_defaults(defaults)
    arguments = [word for word in arguments if not re.match(r"--local[_-]rank(=|$)", word)]
    try:
        namespace = parser.parse_args(arguments)
        values = parser.instantiate(namespace).as_dict()
    except argparse.ArgumentError as error:
        raise UsageError(_explain(str(error), config_class)) from None
    known = {field.name for field in fields(config_class)}  # type: ignore[arg-type]
    return config_class(**{key: value for key, value in values.items() if key in known})


def _explain(message: str, config_class: type) -> str:
    """One line from jsonargparse's message, with the nearest known key where a key was unknown."""
    text = " ".join(message.split())
    unknown = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    key = f"{unknown[1]}.{unknown[2]}" if unknown else ""
    if not key and (found := re.search(r"unrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)' is not", text)):
        key = found[1] or found[2]
    if not key:
        return text
    near = difflib.get_close_matches(key, dotted_keys(config_class), n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else "; --help lists the known keys"
    return f"unknown config key '{key}'{hint}"


def dotted_keys(config_class: type, prefix: str = "") -> list[str]:
    """All settable keys of a nested config dataclass, dotted: `optim.lr`."""
    keys = []
    for field in fields(config_class):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if is_dataclass(default):
            keys += dotted_keys(type(default), f"{prefix}{field.name}.")
        else:
            keys.append(prefix + field.name)
    return keys


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML that `--config` reads back."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as strings, so that plain YAML holds them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main(arguments)` and exit: 0, 1 with a one-line error, 2 on wrong usage, 130 on Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        main(sys.argv[1:])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FlickerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped; the same command continues where it was", file=sys.stderr)
        sys.exit(130)
