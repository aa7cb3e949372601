"""Checkpoints of a run: complete or not there, self-describing, loadable on any number of ranks.

`run/checkpoints/step-N/` holds DeepSpeed's files (weights and optimiser), `model.safetensors` + `config.json`
(what `pretrain.load_micron` reads) and `state.json` (config, data digest, seed, reader position, commit, samples
seen, wandb run id). It is written as `.partial-step-N` and renamed; `latest` moves afterwards. `run/encoder/` is
the newest encoder alone, for other people.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain.architecture import ModelConfig, config_to_dict, resolve
from pretrain.objective import Teacher
from pretrain.weights import LATEST, save_encoder, save_model
from shards.errors import FlickerError
from shards.files import atomic_path, read_json, to_disk, write_json, write_text

TEACHER = "teacher.safetensors"
NAMES = {"micron_bert": "Micron-BERT", "mae": "MAE", "mocov3": "MoCo v3", "beit": "BEiT-style prediction"}


@dataclass
class RunState:
    """Where a run stands; everything that is not a tensor."""

    step: int = 0
    samples: int = 0
    seed: int = 0
    world: int = 1
    data_digest: str = ""
    reader: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    wandb_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    attention: str = ""


def save(run: Path, session: Any, keep: int) -> Path:
    """Copy checkpoint `session.state.step` and write it, and the encoder, while training goes on. Collective.

    `session` is a `pretrain.startup.Session`. Waits for the writing of the checkpoint before, and raises FlickerError
    if that failed; `session.engine.saved()` waits for this one. Returns the folder that it will have.
    """
    engine, model = session.engine, session.objective.config
    root, state = run / "checkpoints", replace(session.state, reader=dict(session.state.reader))
    tag, partial, ready = f"step-{state.step}", f".partial-step-{state.step}", run / f".encoder-{state.step}"
    teacher = None if session.teacher is None else _host_copy(session.teacher.state_dict())
    about = {key: value for key, value in asdict(state).items() if key not in ("config", "model", "reader")}

    def also(weights: dict[str, Tensor]) -> None:
        save_model(root / partial, weights, model, about)
        write_json(root / partial / "state.json", asdict(state))
        if teacher is not None:
            with atomic_path(root / partial / TEACHER) as temporary:
                save_file(teacher, temporary)
        save_encoder(ready, weights, model, about)

    def complete() -> None:
        shutil.rmtree(root / tag, ignore_errors=True)
        (root / partial).rename(root / tag)
        to_disk(root)
        write_text(root / LATEST, tag)
        _publish(ready, run / "encoder")
        write_model_card(run, state, model)
        _prune(root, keep)

    first = engine.world.rank == 0
    engine.save_later(root, partial, also if first else None, complete if first else None)
    return root / tag


def _publish(ready: Path, encoder: Path) -> None:
    """Move the files of a finished encoder folder to where people look for them."""
    encoder.mkdir(exist_ok=True)
    for path in sorted(ready.iterdir(), reverse=True):  # the weights before config.json
        path.replace(encoder / path.name)
    ready.rmdir()


def _host_copy(tensors: dict[str, Any]) -> dict[str, Any]:
    """Contiguous copies on the host."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what an interrupted save left."""
    steps = sorted(int(folder.name[5:]) for folder in root.glob("step-*") if folder.name[5:].isdigit())
    for step in steps[: -max(keep, 1)]:
        shutil.rmtree(root / f"step-{step}", ignore_errors=True)
    for leftover in root.glob(".partial-step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


TEMPORARY = (".config.*", ".log.jsonl.*", ".model*", ".latest.*", ".step-*", ".partial-step-*", ".encoder-*")
"""Names that files and checkpoints have until they are complete."""


def tidy(run: Path) -> None:
    """Remove what a killed process was writing. For one process, before the run writes anything."""
    for folder in (run, run / "checkpoints", run / "encoder", run / "pictures"):
        for leftover in (path for pattern in TEMPORARY for path in folder.glob(pattern)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def find_latest(run: Path) -> tuple[str, RunState] | None:
    """Tag and state of the newest complete checkpoint, or None.

    Raises FlickerError if `latest` names one that is not there.
    """
    pointer = run / "checkpoints" / LATEST
    if not pointer.is_file():
        return None
    tag = pointer.read_text().strip()
    folder = run / "checkpoints" / tag
    if not (folder / "state.json").is_file():
        raise FlickerError(f"{pointer} names {tag}, which is not there; write the name of another step-N into it")
    values = read_json(folder / "state.json", "checkpoint state")
    return tag, RunState(**{key: value for key, value in values.items() if key in RunState.__dataclass_fields__})


def check_matches(state: RunState, model: ModelConfig, data_digest: str, seed: int, folder: Path) -> None:
    """Refuse to continue a run with another architecture, other data or another seed.

    Raises FlickerError naming the first difference, both values, and what to do.
    """
    new = config_to_dict(resolve(model))
    for key, old in state.model.items():
        if _plain(new.get(key)) != _plain(old):
            raise FlickerError(
                f"checkpoint {folder} has another architecture: model.{key} is {old} there and {new.get(key)} now; "
                "set it back, or start another run with --run DIR"
            )
    if state.data_digest != data_digest:
        raise FlickerError(
            f"checkpoint {folder} was trained on other shards; set data.shards or data.mixture back, "
            "or use another --run"
        )
    if state.seed != seed:
        raise FlickerError(f"checkpoint {folder} has seed {state.seed}, not {seed}; set it back or use another --run")


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def load_teacher(folder: Path, teacher: Teacher) -> None:
    """The teacher's state of a checkpoint. Raises FlickerError if the checkpoint has none."""
    if not (folder / TEACHER).is_file():
        raise FlickerError(f"checkpoint {folder} has no teacher ({TEACHER})")
    teacher.load_state_dict(load_file(folder / TEACHER))


def git_commit() -> str:
    """The commit of the running code, with '+' if files differ from it; "" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", "."], cwd=here, capture_output=True, check=False
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.returncode else "")


def write_model_card(run: Path, state: RunState, model: ModelConfig) -> None:
    """model-card.md: what the weights are, how they came about, how to load them."""
    c = resolve(model)
    lines = [
        "---",
        f"tags: [micro-expression, self-supervised, {c.objective.replace('_', '-')}]",
        "library_name: timm",
        "---",
        f"# {run.name}: {NAMES[c.objective]}",
        "",
        f"{c.image_size} px, patch {c.patch_size}, width {c.dim}, {c.depth} blocks.",
        "",
        f"Pretrained for {state.step} steps on {state.samples} frame pairs (data digest `{state.data_digest[:16]}`,",
        f"seed {state.seed}, {state.world} rank(s), commit `{state.commit or 'unknown'}`).",
        *([f"DMA {c.dma}, PoI {c.poi}, agreement {c.agreement.kind}."] if c.objective == "micron_bert" else []),
        "",
        "```python",
        "import pretrain",
        'encoder = pretrain.load_encoder("encoder")  # encoder(frames [B 3 H W]) -> tokens [B 1+N D]',
        "```",
        "",
        "The keys are those of timm's VisionTransformer; `config.json` has the sizes, mean and std.",
        "Licence and terms are those of the frames it was trained on: state them here before you publish it.",
    ]
    write_text(run / "model-card.md", "\n".join(lines) + "\n")
