"""Tiny trainings in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

HERE = Path(__file__).parent
# Files of a data folder, what they hold, and their types.
DATA = (("wav.scp", "speech", "sound"), ("text", "text", "text"))
TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
# 5 batches an epoch and 2 a step: an incomplete step ends every epoch.
CONFIG = {
    "batch_type": "unsorted",
    "batch_size": 2,
    "accum_grad": 2,
    "max_epoch": 3,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_tensorboard": False,
    "use_matplotlib": False,
    "log_interval": 2,
    "keep_nbest_models": 2,
    "best_model_criterion": [["valid", "loss", "min"]],
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 10},
    "frontend_conf": {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160},
    "specaug": "specaug",
    "specaug_conf": {"apply_time_warp": True, "time_warp_window": 5, "apply_freq_mask": True, "apply_time_mask": False},
    "encoder": "larm",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "num_loops": 2,
        "checkpoint_period": 1,
        "subsampling_channels": 4,
        "dropout_rate": 0.1,
    },
    "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.5},
    "token_list": TOKENS,
    "token_type": "char",
    "cleaner": None,
    "g2p": None,
}


class Trainings:
    """Runs trainings one after another, each in a process forked from one that has imported ESPnet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(CONFIG))
        for name, count in (("train", 10), ("valid", 4)):
            write_noise(folder / name, count)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
        self._forker = subprocess.Popen(
            [sys.executable, str(HERE / "forker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def run(
        self,
        output_dir: Path,
        *options: str,
        fault: dict[str, Any] | None = None,
        upstream: bool = False,
        num_processes: int = 1,
        data: tuple[tuple[str, str, str], ...] = DATA,
        train_data: tuple[tuple[str, str, str], ...] | None = None,
        records: bool = False,
    ) -> int:
        """Train or resume; the exit status, negative after a signal. The log is `<output_dir>.log`.

        With `train_data` empty, the options name the training set and its shapes. With `records`, `read` tells what
        was trained on.
        """
        argv = self.options(output_dir, data, data if train_data is None else train_data)
        job = {
            "argv": [*argv, "--ngpu", "0", *options],
            "log": f"{output_dir}.log",
            "fault": fault,
            "upstream": upstream,
            "num_processes": num_processes,
            "records": records,
        }
        assert self._forker.stdin is not None and self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(job) + "\n")
        self._forker.stdin.flush()
        return int(self._forker.stdout.readline())

    def log(self, output_dir: Path) -> str:
        return Path(f"{output_dir}.log").read_text()

    def options(
        self,
        output_dir: Path,
        data: tuple[tuple[str, str, str], ...] = DATA,
        train_data: tuple[tuple[str, str, str], ...] = DATA,
    ) -> list[str]:
        """Options of a training, but for its processes."""
        argv = ["--config", str(self._config), "--output_dir", str(output_dir), "--resume", "true"]
        for name, chosen in (("train", train_data), ("valid", data)):
            folder = self.folder / name
            for file, called, kind in chosen:
                argv += [f"--{name}_data_path_and_name_and_type", f"{folder}/{file},{called},{kind}"]
            argv += [f"--{name}_shape_file", f"{folder}/wav.scp"] if chosen else []
        return argv

    def read(self, output_dir: Path, rank: int) -> list[list[str]]:
        """Ids of the batches that a process has trained on, in their order."""
        return [line.split() for line in Path(f"{output_dir}.log.read.{rank}").read_text().splitlines()]

    def outcome(self, output_dir: Path) -> dict[str, Any]:
        """All that a training leaves behind, but for measured times: files, links, tensors, statistics."""
        found: dict[str, Any] = {}
        for path in output_dir.glob("*.pth"):
            if path.is_symlink():
                found[path.name] = str(path.readlink())
            elif path.name != "checkpoint.previous.pth":
                found[path.name] = plain(torch.load(path, weights_only=False))
        return found

    def close(self) -> None:
        assert self._forker.stdin is not None and self._forker.stdout is not None
        self._forker.stdin.close()
        self._forker.stdout.close()
        self._forker.wait()


def write_noise(folder: Path, count: int) -> None:
    """Utterances of noise with a few letters each."""
    random = np.random.default_rng(len(folder.name))
    folder.mkdir()
    texts = []
    for number in range(count):
        samples = random.uniform(-0.5, 0.5, 6000 + 400 * number)
        soundfile.write(folder / f"u{number}.wav", samples, 16000)
        texts.append(f"u{number} {''.join(random.choice(list('ABC'), 3))}\n")
    (folder / "wav.scp").write_text("".join(f"u{number} {folder}/u{number}.wav\n" for number in range(count)))
    (folder / "text").write_text("".join(texts))


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    started = Trainings(tmp_path_factory.mktemp("trainings"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def undisturbed(trainings: Trainings) -> Path:
    """The folder of a training that nothing happened to."""
    folder = trainings.folder / "undisturbed"
    assert trainings.run(folder) == 0, trainings.log(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed_pair(trainings: Trainings) -> Path:
    """The folder of a training of two processes that nothing happened to."""
    folder = trainings.folder / "undisturbed_pair"
    assert trainings.run(folder, num_processes=2) == 0, trainings.log(folder)
    return folder


def plain(value: Any) -> Any:
    """States as nested dictionaries and lists that == compares, without measured times."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if "time" not in str(key)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # As text, because NaN is not equal to itself.
    return repr(value) if isinstance(value, float) else value
