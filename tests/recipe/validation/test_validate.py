"""The program that validates data folders, and stages 2 and 3 in the same words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.kaldi_dir import Utterance, write_dir
from espnet_larm.recipe.format_audio import main as format_audio
from espnet_larm.recipe.make_tokens import token_list
from espnet_larm.recipe.perturb_speed import main as perturb_speed
from espnet_larm.recipe.validation.report import KINDS
from espnet_larm.recipe.validation.validate import main


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Three utterances."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    write_dir(tmp_path / "set", [Utterance(f"a-{i}", "a", str(tmp_path / f"{i}.flac"), "GO") for i in range(3)])
    return tmp_path / "set"


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Validate that folder; status and output."""

    def run(*options: str) -> tuple[int, str]:
        status = main(["--data_dirs", str(data_dir), *options])
        return status, capsys.readouterr().out

    return run


Run = Callable[..., tuple[int, str]]


def test_a_sound_folder_gives_status_0_and_a_line(run: Run, data_dir: Path) -> None:
    assert run() == (0, f"{data_dir}: 3 utterances, 0.00 h of audio decoded: 0 error(s), 0 warning(s)\n")


def test_an_error_gives_status_1_with_file_line_and_remedy(run: Run, data_dir: Path) -> None:
    (data_dir / "text").write_text("a-0 GO\na-1\na-2 GO\n")
    status, output = run()
    assert status == 1
    assert "error empty-text (1): write what is said, or drop the utterance" in output
    assert f"  {data_dir}/text:2: a-1 has no text\n" in output
    assert run("--allow", "empty-text")[0] == 0


def test_problems_beyond_show_are_counted(run: Run, data_dir: Path) -> None:
    (data_dir / "text").write_text("a-0\na-1\na-2\n")
    assert "... and 2 more (--show 0 lists all)" in run("--show", "1")[1]
    assert run("--show", "0")[1].count("has no text") == 3


def test_audio_is_decoded_only_when_it_is_asked_for(run: Run, data_dir: Path) -> None:
    (data_dir.parent / "1.flac").write_bytes(b"no audio")
    (data_dir.parent / "2.flac").unlink()
    assert "unreadable-audio" in run()[1] and "missing-audio" in run()[1]
    assert "unreadable-audio" not in run("--audio", "stat")[1] and "missing-audio" in run("--audio", "stat")[1]
    assert run("--audio", "none")[0] == 0


def test_processes_find_what_one_process_finds(run: Run, data_dir: Path) -> None:
    (data_dir.parent / "1.flac").write_bytes(b"no audio")
    assert run("--nj", "2") == run("--nj", "1")


def test_tokens_that_cannot_spell_the_text_are_an_error(run: Run, data_dir: Path) -> None:
    (data_dir.parent / "tokens.txt").write_text("\n".join(token_list(["<space>", "G"])) + "\n")
    status, output = run("--token_list", str(data_dir.parent / "tokens.txt"))
    assert status == 1 and "text:1: a-0: 'O' (U+004F LATIN CAPITAL LETTER O) has no token" in output


def test_strict_makes_a_warning_an_error(run: Run, data_dir: Path) -> None:
    options = ["--max_wav_duration", "0.5"]
    assert run(*options)[0] == 0 and run(*options, "--strict")[0] == 1


def test_list_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(KINDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--data_dirs is empty; name the folders to validate, or --list"),
        (["--data_dirs", "x", "--bpemodel", "m"], "--bpemodel needs --token_list"),
    ],
)
def test_misuse_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(options)


def test_stage_3_says_what_is_wrong_with_usable_audio(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clipped = np.sign(np.random.default_rng(0).uniform(-1, 1, 16000))
    soundfile.write(data_dir.parent / "1.flac", clipped, 16000)
    assert format_audio(["--in_dir", str(data_dir), "--output_dir", str(data_dir.parent / "out")]) == 0
    output = capsys.readouterr().out
    assert "warning clipped (1)" in output and f"{data_dir}/wav.scp:2: a-1: " in output


def test_stage_3_stops_at_silence_unless_it_is_allowed(data_dir: Path) -> None:
    soundfile.write(data_dir.parent / "1.flac", np.zeros(16000), 16000)
    arguments = ["--in_dir", str(data_dir), "--output_dir", str(data_dir.parent / "out")]
    with pytest.raises(
        ValueError, match=r"(?s)nothing was written:\nerror silence .*wav.scp:2: a-1: all 16000 samples"
    ):
        format_audio(arguments)
    assert not (data_dir.parent / "out/wav.scp").exists()
    assert format_audio([*arguments, "--allow", "silence"]) == 0


def test_stage_3_looks_at_what_a_command_writes(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clipped = f"{data_dir.parent}/1.flac"
    soundfile.write(clipped, np.sign(np.random.default_rng(0).uniform(-1, 1, 16000)), 16000)
    scp = (data_dir / "wav.scp").read_text()
    (data_dir / "wav.scp").write_text(scp.replace(clipped, f"cat {clipped} |"))
    assert format_audio(["--in_dir", str(data_dir), "--output_dir", str(data_dir.parent / "out")]) == 0
    assert f"{data_dir}/wav.scp:2: a-1: 100 % of the samples are at full scale" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["{}/1.flac", "cat {}/1.flac |"])
def test_stage_3_leaves_out_what_cannot_be_read_if_that_is_allowed(
    data_dir: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    root, out = data_dir.parent, data_dir.parent / "out"
    whole = (root / "1.flac").read_bytes()
    (root / "1.flac").write_bytes(whole[: len(whole) // 2])
    scp = (data_dir / "wav.scp").read_text()
    (data_dir / "wav.scp").write_text(scp.replace(f"{root}/1.flac", source.format(root)))
    arguments = ["--in_dir", str(data_dir), "--output_dir", str(out)]
    with pytest.raises(ValueError, match="--allow unreadable-audio goes on, without what cannot be read"):
        format_audio(arguments)
    with pytest.raises(ValueError, match="error unreadable-audio"):
        format_audio([*arguments, "--allow", "missing-audio"])
    assert format_audio([*arguments, "--allow", "unreadable-audio"]) == 0
    total = len(scp.splitlines())
    assert f"1 of {total} utterances are left out" in capsys.readouterr().out
    left = {name: (out / name).read_text() for name in ("wav.scp", "text", "utt2spk", "utt2num_samples")}
    assert all(len(text.splitlines()) == total - 1 and "a-1 " not in text for text in left.values())


def test_stage_3_repairs_tables_if_that_is_allowed(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--in_dir", str(data_dir), "--output_dir", str(data_dir.parent / "out")]
    text = (data_dir / "text").read_text().splitlines(keepends=True)
    (data_dir / "text").write_text("\ufeff" + "".join([*text[1:], "\n", text[1]]))
    kinds = ["windows-text", "odd-spacing", "repeated-id", "missing-line"]
    for number in range(4):
        with pytest.raises(ValueError, match="mark|blank|was there before|lacks"):
            format_audio([*arguments, "--allow", *kinds[:number]])
    assert format_audio([*arguments, "--allow", *kinds]) == 0
    assert (data_dir.parent / "out/text").read_text() == "".join(text[1:])
    assert f"1 utterances are not in all files, and left out: {text[0].split()[0]}" in caplog.text


def test_stage_2_names_the_original_line_once(data_dir: Path) -> None:
    (data_dir.parent / "1.flac").write_bytes(b"no audio")
    arguments = ["--in_dir", str(data_dir), "--output_dir", str(data_dir.parent / "out")]
    with pytest.raises(ValueError, match=r"unreadable-audio \(1\).*\n  .*set/wav.scp:2: a-1: .*1.flac is no audio"):
        perturb_speed([*arguments, "--factors", "0.9", "1.0", "1.1"])
