"""ASR training: ESPnet's `asr_train` with our task."""

from espnet_larm.tasks.asr import LarmASRTask


def main(cmd: list[str] | None = None) -> None:
    """Train as `python -m espnet2.bin.asr_train` does, with its arguments."""
    LarmASRTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
