"""Ready launch configurations, and docs/training.md: all that they name exists, and does what is said of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

from genmask.cli import parse
from genmask.commands.cache import Cache
from genmask.commands.train import Train, find
from genmask.recipes import RECIPES, Recipe
from genmask.training.autoencoder import AutoencoderConfig
from genmask.training.datasets import TRAINING_SETS
from genmask.training.language import LanguageConfig
from genmask.training.loop import LoopConfig
from genmask.training.mask_config import MaskConfig
from genmask.training.parallel import launcher_shards
from genmask.training.pretraining import PretrainingConfig

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
SBATCH = ROOT / "configs/slurm/train.sbatch"
GUIDE = (ROOT / "docs/training.md").read_text()


def guide_lines() -> Iterator[list[str]]:
    """The words of every command in the guide's shell blocks; continued lines are joined."""
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def guide_table(introduction: str) -> list[str]:
    """The code names in the first column of the table below a text."""
    rows = GUIDE[GUIDE.index(introduction) :].split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [name for row in rows for name in re.findall("`(.*?)`", row.split("|")[1])]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_the_configuration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == {"one_gpu": 1, "eight_gpus": 8, "four_nodes": 32}[path.stem]
    assert config.mixed_precision == "no"
    line = ["--config_file", str(path), "--machine_rank", "1", "--main_process_ip", "node0", "genmask"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    assert launcher_shards() == (config.num_processes > 1)
    assert arguments.nproc_per_node == str(min(config.num_processes, 8))


def test_the_batch_script_starts_a_numbered_process_for_each_task(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    programs = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'while [[ $1 == --* ]]; do shift; done; SLURM_PROCID=9 SLURM_LOCALID=1 "$@"',
        "genmask": 'echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT; printf "%s\\n" "$@"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"NTASKS": "16", "JOB_ID": "70123", "JOB_NODELIST": "node[7-8]", "CPUS_PER_TASK": "12"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    said = subprocess.run(
        ["bash", str(SBATCH), "paper", "--data", "my sets"],
        env={**os.environ, **environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert said == [
        "9 1 16 node7 20123", "train", "paper", "--data", "my sets", "--override", "loop.sharded=True",
    ]  # fmt: skip


@pytest.mark.parametrize("words", guide_lines(), ids=" ".join)
def test_every_command_of_the_guide_can_be_given(words: list[str]) -> None:
    while "=" in words[0]:
        words = words[1:]
    if words[0] == "sbatch":
        assert (ROOT / words[1]).samefile(SBATCH)
        words = ["genmask", "train", *words[2:]]
    elif words[0] == "accelerate":
        launch = launch_command_parser().parse_args(words[2:])
        assert ROOT / launch.config_file in CONFIGS
        assert launch.no_python
        words = [launch.training_script, *launch.training_script_args]
    elif words[0] == "torchrun":
        launch = get_args_parser().parse_args(words[1:])
        assert launch.no_python
        words = [launch.training_script, *launch.training_script_args]
    assert words[0] == "genmask"
    command = parse(words[1:])
    if isinstance(command, Train | Cache) and command.recipe:
        assert isinstance(find(command.recipe, command.override), Recipe)


def test_the_guide_has_the_commands_of_every_launcher() -> None:
    programs = {words[0] for words in guide_lines()}
    assert {"genmask", "accelerate", "torchrun", "sbatch"} <= programs


def test_the_guide_names_every_recipe() -> None:
    assert sorted(guide_table("## Recipes")) == sorted(RECIPES)


@pytest.mark.parametrize(
    "config", [LoopConfig, AutoencoderConfig, LanguageConfig, PretrainingConfig, MaskConfig]
)
def test_the_guide_names_every_field(config: type) -> None:
    names = guide_table(f"`{config.__name__}`")
    assert sorted(names) == sorted(field.name for field in fields(config))


def test_the_guide_says_where_the_data_of_the_paper_are_looked_for() -> None:
    model = RECIPES["paper"]().model
    assert isinstance(model, MaskConfig)
    names = guide_table("**The data**")
    assert names == [name for name, _ in (*model.segmentation_sources, *model.generation_sources)]
    assert all(f"`{name}`" in GUIDE for name in TRAINING_SETS)


def test_fields_that_the_guide_mentions_exist() -> None:
    mentioned = re.findall(r"`(loop|model)\.(\w+)", GUIDE)
    assert mentioned
    recipe = RECIPES["paper"]()
    assert all(hasattr(getattr(recipe, part), name) for part, name in mentioned)
    assert all((ROOT / path).exists() for path in re.findall(r"`((?:src|tests|configs)/[\w./-]+)`", GUIDE))
