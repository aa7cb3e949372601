"""What launch/cluster and the recipes for scale say: parsed, checked, and the Slurm script really run."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from deepspeed.launcher.runner import fetch_hostfile

from launch.cli import parse
from pretrain.config import PretrainConfig
from tests.launch.netns import free_port
from tests.launch.pretraining import arguments

CLUSTER = Path(__file__).parents[2] / "launch" / "cluster"
SCALE = CLUSTER.parent / "recipes" / "pretrain" / "scale"
GPUS = {"one_gpu": 1, "eight_gpus": 8, "thirty_two_gpus": 32, "hundred_twenty_eight_gpus": 128, "large": 32}


def _recipe(name: str) -> PretrainConfig:
    return parse(PretrainConfig, ["--config", str(SCALE / f"{name}.yaml")], command="x", description="x")


def test_every_recipe_for_scale_is_listed_here() -> None:
    assert {path.stem for path in SCALE.glob("*.yaml")} == GPUS.keys()


@pytest.mark.parametrize("name", GPUS)
def test_recipes_for_scale_keep_64_pairs_per_gpu_and_the_square_root_rule(name: str) -> None:
    config = _recipe(name)
    batch = config.data.global_batch
    assert batch == 64 * GPUS[name] * config.engine.accumulation
    assert config.optim.lr == pytest.approx(1e-4 * math.sqrt(batch / 2048), rel=1e-3)
    assert config.optim.warmup * batch == 2000 * 2048 * (2 if name == "large" else 1)
    assert (config.engine.zero_stage, config.engine.activation_checkpointing) == (
        (2, True) if name == "large" else (1, False)
    )


@pytest.mark.parametrize("name", GPUS)
def test_the_command_of_a_recipe_names_the_recipe(name: str) -> None:
    command = (SCALE / f"{name}.yaml").read_text().split("# Command:")[1].split("\nrun:")[0]
    assert f"--config launch/recipes/pretrain/scale/{name}.yaml" in command


@pytest.mark.parametrize(
    "script", sorted(CLUSTER.glob("*.sh")) + sorted(CLUSTER.glob("*.sbatch")), ids=lambda p: p.name
)
def test_shell_files_are_valid(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_deepspeed_reads_the_hostfile() -> None:
    assert fetch_hostfile(str(CLUSTER / "hostfile.example")) == {f"node-{i}": 8 for i in range(1, 5)}


def test_the_kubernetes_job_has_what_the_operator_and_torchrun_need() -> None:
    job = yaml.safe_load((CLUSTER / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    roles = spec["pytorchReplicaSpecs"]
    assert roles["Master"]["replicas"] == 1, "without a Master no pod learns its rank"
    pods = sum(role["replicas"] for role in roles.values())
    for role in roles.values():
        assert role["restartPolicy"] == "OnFailure"
        pod = role["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch", "the operator looks for this name"
        assert int(spec["nprocPerNode"]) == container["resources"]["limits"]["nvidia.com/gpu"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert pod["terminationGracePeriodSeconds"] > int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
        assert container["command"] == ["torchrun"]
        script = container["args"].index("launch/pretrain.py")
        assert container["args"][script - 1] == "--", "torchrun would take --run for an option of its own"
        config = parse(PretrainConfig, container["args"][script + 1 :], command="x", description="x")
        assert config.data.global_batch % (pods * int(spec["nprocPerNode"]) * config.engine.accumulation) == 0


SRUN = """#!{python}
import json, os, signal, subprocess, sys, time
words = sys.argv[1:]
command = words[next(i for i, word in enumerate(words) if not word.startswith("-")):]
started = []
for i in range(int(os.environ["SLURM_NTASKS"])):
    task = {{**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}}
    started.append(subprocess.Popen(command, env=task, start_new_session=True))
with open(os.environ["FAKE"] + "/steps.jsonl", "a") as file:
    told = {{"words": words, "tasks": [p.pid for p in started], "port": os.environ["MASTER_PORT"]}}
    print(json.dumps(told), file=file)
signal.signal(signal.SIGTERM, lambda *_: [p.kill() for p in started])  # as srun does, so that nobody relies on it
codes = [p.wait() for p in started]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!{python}
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("127.0.0.1\\n127.0.0.9")
else:
    with open(os.environ["FAKE"] + "/scontrol.txt", "a") as file:
        print(*sys.argv[1:], file=file)
"""


class Slurm:
    """Slurm's commands as far as the batch script sees them: srun really starts its tasks."""

    def __init__(self, folder: Path, repository: Path, environment: dict[str, str]):
        self.folder, self._repository = folder, repository
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text.format(python=sys.executable))
            (folder / "bin" / name).chmod(0o755)
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NTASKS": "2"}
        path = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
        self._environment = {**environment, **job, "PATH": path, "FAKE": str(folder), "WANDB_MODE": "disabled"}

    def start(self, words: list[str], **more: str) -> subprocess.Popen:
        """Run the batch script, as sbatch does on the first node."""
        return subprocess.Popen(
            ["bash", str(CLUSTER / "slurm.sbatch"), *words],
            cwd=self._repository,
            env={**self._environment, **more},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "slurm.txt").open("a"),
        )

    def step(self) -> dict:
        """What the newest srun was told and has started."""
        return json.loads((self.folder / "steps.jsonl").read_text().splitlines()[-1])

    def asked(self) -> list[str]:
        """What scontrol was told."""
        asked = self.folder / "scontrol.txt"
        return asked.read_text().splitlines() if asked.is_file() else []

    def output(self) -> str:
        """Of all jobs."""
        return (self.folder / "slurm.txt").read_text()


@pytest.fixture
def slurm(tmp_path: Path, repository: Path, environment: dict[str, str]) -> Slurm:
    """A Slurm of its own."""
    return Slurm(tmp_path, repository, environment)


def _steps(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def _wait_for(step: int, run: Path, job: subprocess.Popen, patience: float = 180) -> None:
    until = time.monotonic() + patience
    while _steps(run) < step and job.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted_is_queued_again_and_ends(slurm: Slurm, small_shards: Path) -> None:
    """Two tasks; SIGTERM to the tasks, as Slurm sends it; the requeued job finishes, and that is the end of it."""
    run = slurm.folder / "run"
    words = arguments(small_shards, run, "--checkpoint.every", "100000", "--steps")
    job = slurm.start([*words, "100000"])
    _wait_for(4, run, job)
    for task in slurm.step()["tasks"]:
        os.killpg(task, signal.SIGTERM)
    assert job.wait(120) == 143, slurm.output()
    saved = int((run / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert saved >= 4 and slurm.asked() == [f"requeue {os.getpid()}"]
    job = slurm.start([*words, str(saved + 3)], SLURM_RESTART_COUNT="1")
    assert job.wait(180) == 0, slurm.output()
    assert f"continuing {run} at step {saved}" in slurm.output() and "Traceback" not in slurm.output()
    assert _steps(run) == saved + 3 and len(slurm.asked()) == 1
    step = slurm.step()
    assert 10000 <= int(step["port"]) < 32768
    assert {"--kill-on-bad-exit=0", "--wait=120"} <= set(step["words"])


@pytest.mark.slow
def test_torchrun_told_to_end_saves_a_checkpoint_and_does_not_count_as_finished(
    small_shards: Path, tmp_path: Path, repository: Path, environment: dict[str, str]
) -> None:
    """Kubernetes signals the container's first process alone."""
    run = tmp_path / "run"
    launcher = ["torchrun", "--nproc-per-node=2", f"--master-port={free_port()}", "--", "launch/pretrain.py"]
    words = arguments(small_shards, run, "--checkpoint.every", "100000", "--steps", "100000")
    with (tmp_path / "output.txt").open("w") as output:
        job = subprocess.Popen([*launcher, *words], cwd=repository, env=environment, stdout=output, stderr=output)
    _wait_for(4, run, job)
    job.terminate()
    assert job.wait(120) not in (0, None)
    assert int((run / "checkpoints" / "latest").read_text().removeprefix("step-")) >= 4


@pytest.mark.slow
def test_a_slurm_job_that_lost_a_rank_is_queued_again_so_often(slurm: Slurm, small_shards: Path) -> None:
    run = slurm.folder / "run"
    words = arguments(small_shards, run, "--steps", "100000")
    for restarts, requeued in (("0", 1), ("3", 1)):
        job = slurm.start(words, SLURM_RESTART_COUNT=restarts)
        before = _steps(run)
        _wait_for(before + 4, run, job)
        (rank,) = psutil.Process(slurm.step()["tasks"][1]).children()
        rank.kill()
        assert job.wait(120) == 137, slurm.output()
        assert len(slurm.asked()) == requeued
    assert "another rank has gone" in slurm.output()


@pytest.mark.slow
def test_a_slurm_job_that_was_told_nonsense_is_not_queued_again(slurm: Slurm, small_shards: Path) -> None:
    job = slurm.start(arguments(small_shards, slurm.folder / "run", "--optim.lrate", "1"))
    assert job.wait(120) == 2 and slurm.asked() == []
