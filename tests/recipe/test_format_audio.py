"""Stage 3: audio that fits keeps its path, the rest is converted, and bad audio stops it before anything changes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import Utterance, read_dir, read_table
from espnet_larm.recipe.archive import remove_unused_archives
from espnet_larm.recipe.format_audio import format_audio
from espnet_larm.recipe.format_audio import main as format_main

MakeAudio = Callable[..., str]


def utterances(**audio: str) -> list[Utterance]:
    return [Utterance(name, name, path, "X") for name, path in audio.items()]


def test_flac_that_fits_keeps_its_path_and_nothing_is_written(tmp_path: Path, make_audio: MakeAudio) -> None:
    path = make_audio()
    formatted = format_audio(utterances(a=path), tmp_path / "out", 16000, 1)
    assert formatted == ({"a": path}, {"a": 16000}, "flac", 0, [])
    assert not (tmp_path / "out").exists()


def test_wav_that_fits_keeps_its_path_among_plain_files(tmp_path: Path, make_audio: MakeAudio) -> None:
    formatted = format_audio(utterances(a=make_audio("a.wav"), b=make_audio()), tmp_path / "out", 16000, 1)
    assert (formatted.audio_format, formatted.num_converted) == ("flac_wav", 0)


@pytest.mark.parametrize("options", [{"rate": 8000}, {"channels": 2}])
def test_audio_that_does_not_fit_is_converted_with_all_beside_it(
    tmp_path: Path, make_audio: MakeAudio, options: dict[str, int]
) -> None:
    odd, fits, wav = make_audio("odd.flac", **options), make_audio(), make_audio("b.wav")
    formatted = format_audio(utterances(odd=odd, fits=fits, wav=wav), tmp_path / "out", 16000, 1)
    assert formatted.audio_format == "flac.ark"
    assert {name for name, path in formatted.sources.items() if ".flac.ark:" in path} == {"odd", "fits", "wav"}
    assert formatted.num_samples == {"odd": 16000, "fits": 16000, "wav": 16000}


def test_processes_give_what_one_process_gives(tmp_path: Path, make_audio: MakeAudio) -> None:
    listed = [Utterance(f"u{i}", "s", make_audio(f"{i}.flac", rate=8000, seconds=0.1 + i / 50), "X") for i in range(9)]
    alone = format_audio(listed, tmp_path / "alone", 16000, 1)
    together = format_audio(listed, tmp_path / "together", 16000, 2)
    assert alone.num_samples == together.num_samples and list(alone.sources) == list(together.sources)


def test_another_number_of_processes_leaves_what_an_earlier_table_names(tmp_path: Path, make_audio: MakeAudio) -> None:
    listed = [Utterance(f"u{i}", "s", make_audio(f"{i}.flac", rate=8000, seconds=0.1 + i / 50), "X") for i in range(90)]
    before = format_audio(listed, tmp_path / "out", 16000, 1)
    again = format_audio(listed, tmp_path / "out", 16000, 2)
    assert again.sources == before.sources
    for name, source in before.sources.items():
        assert len(read_audio(source).samples) == before.num_samples[name]


def test_a_missing_and_a_truncated_file_are_both_named_and_the_earlier_result_stays(data_dir: Path) -> None:
    out = data_dir.parent / "out"
    assert format_main(["--in_dir", str(data_dir), "--output_dir", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    audio = [Path(utterance.audio) for utterance in read_dir(data_dir)]
    audio[0].unlink()
    audio[2].write_bytes(audio[2].read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"(?s)set/wav.scp:1: ann-1: .* is missing.*:3: bob-1: .* is truncated"):
        format_main(["--in_dir", str(data_dir), "--output_dir", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_bad_file_among_those_to_convert_leaves_no_archive(tmp_path: Path, make_audio: MakeAudio) -> None:
    listed = utterances(a=make_audio("a.flac", rate=8000), b="false |")
    with pytest.raises(ValueError, match="b: `false |` ended with status 1"):
        format_audio(listed, tmp_path / "out", 16000, 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_folder_gets_lengths_and_format(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data_dir.parent / "out"
    format_main(["--in_dir", str(data_dir), "--output_dir", str(out)])
    assert read_table(out / "utt2num_samples") == {"ann-1": "16000", "ann-2": "16000", "bob-1": "16000"}
    assert (out / "audio_format").read_text() == "flac\n"
    assert "3 kept their audio, 0 were converted" in capsys.readouterr().out


def test_only_our_unused_archives_are_removed(tmp_path: Path, make_audio: MakeAudio) -> None:
    formatted = format_audio(utterances(a=make_audio(rate=8000)), tmp_path / "out", 16000, 1)
    for name in ("01234567.00000.flac.ark", "mine.ark"):
        (tmp_path / "out" / name).touch()
    remove_unused_archives(tmp_path / "out", list(formatted.sources.values()))
    used = Path(formatted.sources["a"].rpartition(":")[0]).name
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([used, "mine.ark"])
