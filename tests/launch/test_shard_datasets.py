"""launch/shard.py on dataset roots: who is left out, what is recorded, another list is refused."""

import json
import os
import subprocess
import sys

import pytest

from tests.shards.material import make_folder


@pytest.fixture
def shard(repository, tmp_path):
    """Run the command in a folder of its own; returns the finished process."""

    def run(*arguments):
        command = [
            sys.executable,
            repository / "launch/shard.py",
            *map(str, arguments),
            "--size",
            "32",
            "--workers",
            "0",
        ]
        options = {"cwd": tmp_path, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        return subprocess.run(command, capture_output=True, **options)

    return run


@pytest.fixture
def trees(tmp_path):
    """Three subjects of CASME II, two of SAMM."""
    for number in (1, 2, 3):
        make_folder(tmp_path / f"c2/Cropped/sub{number:02d}/EP01_01", range(10, 20))
    for number in (1, 6):
        make_folder(tmp_path / f"samm/{number:03d}/{number:03d}_1_2", range(8))
    return tmp_path


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_excluded_subjects_are_left_out_recorded_and_named(shard, trees):
    (trees / "test.txt").write_text("casme2:sub02  # for testing\nsamm:006\n")
    command = ("casme2:c2", "samm:samm", "--out", "out")
    done = shard(*command, "--exclude_subjects", "@test.txt")
    assert done.returncode == 0, done.stderr
    assert "left out 2 sources of 2 subjects: casme2:2, samm:6" in done.stderr
    assert "left out: 2 subjects: casme2:2, samm:6" in done.stdout
    record = manifest(trees / "out")
    assert record["options"]["dataset"] == "casme2,samm"
    assert record["options"]["exclude_subjects"] == ["casme2:2", "samm:6"]
    found = {(source["dataset"], source["subject"], source["fps"]) for source in record["sources"]}
    assert found == {("casme2", "1", 200), ("casme2", "3", 200), ("samm", "1", 200)}
    same = shard(*command, "--exclude-subjects", "samm:6,casme2:2")
    assert same.stdout.startswith("nothing to do"), same.stderr
    other = shard(*command, "--exclude_subjects", "samm:6")
    assert other.returncode == 1 and "exclude_subjects" in other.stderr and "give another --out" in other.stderr
    verified = json.dumps(manifest(trees / "out")) == json.dumps(record)
    assert verified  # untouched by the refused run


def test_an_interrupted_run_is_not_continued_with_another_list(shard, trees):
    done = shard("c2", "--dataset", "casme2", "--exclude_subjects", "1", "--out", "out", "--max_failed", "0.2")
    assert done.returncode == 0
    staging = trees / "out2/.staging"
    damaged = make_folder(trees / "c2/Cropped/sub04/EP01_01", [1])  # too short: more failures than allowed
    options = ("c2", "--dataset", "casme2", "--out", "out2", "--max_failed", "0.1")
    assert shard(*options, "--exclude_subjects", "1").returncode == 1 and staging.exists() and damaged.exists()
    other = shard(*options, "--exclude_subjects", "2")
    assert other.returncode == 1 and "exclude_subjects" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("c2", "--dataset", "casme2", "--exclude_subjects", "9"), 1, "subject casme2:9 is not among the sources"),
        (("c2", "--dataset", "casme"), 2, "dataset 'casme' is unknown; did you mean 'casme"),
        (("c2", "--exclude_subjects", "1"), 2, "name the dataset"),
        (("casme2:c2", "samm:samm", "--exclude_subjects", "1"), 2, "of which dataset?"),
        (("c2", "--dataset", "smic"), 1, "SMIC: whose frames these are cannot be told"),
        (("c2", "--exclude_subjects", "@none"), 1, "list of subjects none cannot be read"),
        (("c2", "--track", "smooth"), 2, "track 'smooth' needs a face to follow"),
    ],
)
def test_mistakes_take_one_line(shard, trees, arguments, code, message):
    done = shard(*arguments, "--out", "out")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (code, 1), done.stderr
    assert message in errors[0] and "Traceback" not in done.stderr and not (trees / "out").exists()
