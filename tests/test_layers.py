"""Who may import whom: launch -> finetune -> pretrain -> shards, and the engine's packages in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LAYERS = ("shards", "pretrain", "finetune", "launch")
ONLY_IN = {
    "deepspeed": {"pretrain/engine.py"},
    "torch.distributed": {"pretrain/engine.py", "pretrain/ranks.py"},
    "wandb": {"pretrain/tracking.py"},
}
MODELS = ("encoder", "swap", "dma", "poi", "decoder", "model", "agreement", "batch", "objective")
MODELS += ("architecture", "masking", "mae", "mocov3", "beit", "teacher")
ONLY_BELOW = {"webdataset": ("shards/",), "decord": ("shards/",), "dlib": ("shards/", "finetune/faces/")}


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(repository: Path, layer: str) -> list[Path]:
    """The layer's source files; there are some, or this test would say nothing."""
    found = sorted((repository / layer).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_nobody_imports_upward(repository: Path, layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests"}
    for path in files(repository, layer):
        upward = {name for name in imports(path) if name.split(".")[0] in above}
        assert not upward, f"{path.relative_to(repository)} imports {sorted(upward)}"


@pytest.mark.parametrize("package", [*ONLY_IN, *ONLY_BELOW])
def test_packages_stay_where_they_belong(repository: Path, package: str) -> None:
    for layer in LAYERS:
        for path in files(repository, layer):
            where = path.relative_to(repository).as_posix()
            uses = any(name == package or name.startswith(package + ".") for name in imports(path))
            measured = package in ONLY_BELOW and where.startswith("launch/benchmarks/")  # compared with ours
            allowed = (
                where in ONLY_IN.get(package, set())
                or where.startswith(ONLY_BELOW.get(package, ("nowhere",)))
                or measured
            )
            assert allowed or not uses, f"{where} imports {package}"


def test_models_know_no_engine(repository: Path) -> None:
    """The modules that make up the network import neither the engine nor the loop."""
    for name in MODELS:
        bad = imports(repository / "pretrain" / f"{name}.py") & {
            "pretrain.engine",
            "pretrain.loop",
            "pretrain.startup",
        }
        assert not bad, f"pretrain/{name}.py imports {sorted(bad)}"


def test_the_layers_are_parsed_and_not_only_listed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from launch import cli\n    import torch.distributed as d\n")
    assert {"launch", "launch.cli", "torch.distributed"} <= imports(tmp_path / "a.py")
