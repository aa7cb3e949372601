"""The shared command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from launch.cli import dotted_keys, parse, to_yaml
from shards.errors import UsageError


@dataclass
class Inner:
    """A topic."""

    rate: float = 0.5
    """A rate."""
    sizes: tuple[int, int] = (1, 2)
    """Two sizes."""


@dataclass
class Outer:
    """A command."""

    sources: list[str] = field(default_factory=list)
    """Where from."""
    out: str = "here"
    """Where to."""
    inner: Inner = field(default_factory=Inner)
    """The topic."""


def _parse(*words: str) -> Outer:
    return parse(Outer, list(words), command="x", description="x", positional="sources")


def test_overrides_beat_the_recipe_which_beats_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out: there\ninner:\n  rate: 1.0\n  sizes: [3, 4]\n")
    config = _parse("a", "b", "--config", str(recipe), "--inner.rate", "2")
    assert config == Outer(["a", "b"], "there", Inner(2.0, (3, 4)))


def test_what_to_yaml_writes_config_reads_back(tmp_path: Path) -> None:
    config = Outer([], "there", Inner(3.0, (5, 6)))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert yaml.safe_load(to_yaml(config))["inner"] == {"rate": 3.0, "sizes": [5, 6]}
    values = yaml.safe_load(to_yaml(config))
    values.pop("sources")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert _parse("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    "words, text",
    [
        (["--inner.rat", "1"], "did you mean 'inner.rate'"),
        (["--zzzz", "1"], "unknown config key 'zzzz'"),
        (["--inner.rate", "fast"], "inner.rate"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_usage_names_the_key(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as error:
        _parse(*words)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_unknown_recipe_keys_are_refused(tmp_path: Path) -> None:
    for content, text in (("inner:\n  ratee: 1\n", "inner.rate"), ("outt: 1\n", "out")):
        (tmp_path / "recipe.yaml").write_text(content)
        with pytest.raises(UsageError, match=text):
            _parse("--config", str(tmp_path / "recipe.yaml"))


def test_the_launchers_rank_is_dropped_and_keys_are_listed() -> None:
    assert _parse("--local_rank=3").out == "here"
    assert dotted_keys(Outer) == ["sources", "out", "inner.rate", "inner.sizes"]
