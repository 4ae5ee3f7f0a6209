"""ASR training: ESPnet's `asr_train` with our task."""

from espnet_larm.process import ends_with_its_reader, set_up


def main(cmd: list[str] | None = None) -> None:
    """Train as `python -m espnet2.bin.asr_train` does, with its arguments."""
    set_up()
    # It imports torch, which must find the process set up.
    from espnet_larm.tasks.asr import LarmASRTask

    with ends_with_its_reader():
        LarmASRTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
