"""The launch files are the plain torchrun line, with a command that fledge takes."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from fledge.cli import app

CLUSTER = Path(__file__).parents[1] / "recipes" / "cluster"


def check(words: list[str], ranks: str) -> None:
    """What torchrun would start is a command of fledge's."""
    assert words[0] == "torchrun"
    told = get_args_parser().parse_args(words[1:])
    assert (told.nnodes, told.nproc_per_node, told.module, told.training_script) == ("2", ranks, True, "fledge")
    app.parse_args(told.training_script_args, exit_on_error=False, print_error=False)


def test_slurm(tmp_path):
    """The batch script as bash runs it, with Slurm's two commands standing by and its variables set."""
    for name, does in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", "printf 'node1\\nnode2\\n'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_PER_NODE": "8", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    asked = ["/shared/corpus", "--out", "/shared/runs/model", "--arch", "gpt2-medium", "--tokens", "1000"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", str(CLUSTER / "slurm.sh"), *asked], env={"PATH": path, **given}, capture_output=True, text=True, check=True
    )
    assert "--rdzv-endpoint=node1:29500" in done.stdout
    check(done.stdout.splitlines(), "8")


def test_kubernetes():
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in [*container["command"], *container["args"]]]
    check(words, str(container["resources"]["limits"]["nvidia.com/gpu"]))
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--master-addr={job['metadata']['name']}-0.{pod['subdomain']}" in words
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes.yaml"])
def test_each_says_how_it_is_started(name):
    head = (CLUSTER / name).read_text(encoding="utf-8")[:600]
    assert ("sbatch recipes/cluster/" if name == "slurm.sh" else "kubectl apply -f recipes/cluster/") in head
