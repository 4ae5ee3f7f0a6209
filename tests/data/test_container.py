"""Whole and cut files of all containers, from disk and from commands; lengths that writers to pipes could not know."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.audio import read_audio
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.stream import count_samples, stream_source

RATE = 16000
SAMPLES = np.random.default_rng(3).uniform(-0.3, 0.3, 7 * RATE + 11).astype(np.float32)
CONTAINERS = [
    ("WAV", "PCM_16"),
    ("WAV", "ULAW"),
    ("RF64", "PCM_24"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "FLOAT"),
    ("NIST", "PCM_16"),
    ("NIST", "ULAW"),
    ("SVX", "PCM_16"),
    ("VOC", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAW"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]

# libsndfile reads what is behind the samples of others as samples.
TAGGED = ("WAV", "RF64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")


def encode(form: str, subtype: str = "PCM_16", samples: np.ndarray = SAMPLES) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, RATE, format=form, subtype=subtype)
    return stream.getvalue()


def put(data: bytes, place: int, number: int, order: str = "little") -> bytes:
    """Other four bytes of a header."""
    return data[:place] + number.to_bytes(4, "big" if order == "big" else "little") + data[place + 4 :]


@pytest.mark.parametrize("as_command", [False, True])
@pytest.mark.parametrize(("form", "subtype"), CONTAINERS)
def test_whole_files_are_read_and_cut_ones_refused(tmp_path: Path, form: str, subtype: str, as_command: bool) -> None:
    path, data = tmp_path / "a", encode(form, subtype)
    source = f"cat {path} |" if as_command else str(path)
    path.write_bytes(data)
    assert len(read_audio(source).samples) == len(SAMPLES)
    for share in (0.3, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        for read in (read_audio, lambda source: list(stream_source(source, RATE))):
            with pytest.raises(AudioError, match="is truncated") as raised:
                read(source)
            assert raised.value.kind in {"truncated-audio", "unreadable-audio"}


@pytest.mark.parametrize(("form", "subtype"), CONTAINERS)
def test_damaged_headers_end_in_audio_or_in_its_error(tmp_path: Path, form: str, subtype: str) -> None:
    data, generator = encode(form, subtype, SAMPLES[:8000]), np.random.default_rng(11)
    for _ in range(40):
        damaged = bytearray(data)
        for place in generator.integers(min(len(data), 200), size=3):
            damaged[place] = generator.integers(256)
        (tmp_path / "a").write_bytes(damaged)
        with contextlib.suppress(AudioError):
            assert np.isfinite(read_audio(str(tmp_path / "a")).samples).all()


@pytest.mark.parametrize("number", [0x80000000, 0xFFFFFFFF, 0x7FFFF000])
def test_lengths_of_wav_from_pipes_are_none(tmp_path: Path, number: int) -> None:
    (tmp_path / "a.wav").write_bytes(put(put(encode("WAV"), 4, number), 40, number))
    assert len(read_audio(str(tmp_path / "a.wav")).samples) == len(SAMPLES)


def test_length_of_aiff_from_sox_is_none(tmp_path: Path) -> None:
    data = encode("AIFF")
    (tmp_path / "a.aiff").write_bytes(put(data, data.index(b"SSND") + 4, 0x7F000008, "big"))
    assert len(read_audio(str(tmp_path / "a.aiff")).samples) == len(SAMPLES)


def test_flac_of_unknown_length_is_read_to_its_last_sample(tmp_path: Path) -> None:
    data = bytearray(encode("FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    audio = read_audio(str(tmp_path / "a.flac"))
    assert len(audio.samples) == len(SAMPLES) == count_samples(str(tmp_path / "a.flac"))
    assert np.abs(audio.samples - SAMPLES).max() < 1e-4 and audio.header.form == ""


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path) -> None:
    data = bytearray(encode("FLAC"))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(AudioError, match="is truncated"):
        read_audio(str(tmp_path / "a.flac"))


@pytest.mark.parametrize(("form", "place"), [("FLAC", 23), ("WAV", 42), ("AIFF", 43), ("CAF", 4089), ("NIST", 0)])
def test_a_header_that_promises_too_little_loses_nothing_silently(tmp_path: Path, form: str, place: int) -> None:
    data = bytearray(encode(form))
    # In SPHERE a decimal number.
    place = place or data.index(b"sample_count -i 1") + len("sample_count -i 1") - 1
    data[place] -= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(AudioError, match=r"is damaged: \d+ bytes follow the last sample|is truncated: "):
        read_audio(str(tmp_path / "a"))


def test_mp3_of_estimated_length_loses_nothing_silently(tmp_path: Path) -> None:
    data = encode("MP3", "MPEG_LAYER_III")
    (tmp_path / "a.mp3").write_bytes(data.replace(b"Xing", b"Xong"))
    with pytest.raises(AudioError, match="a.mp3 is damaged: .*; replace it, or convert it to WAV with ffmpeg"):
        read_audio(str(tmp_path / "a.mp3"))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_pages_that_decoders_skip_are_named(tmp_path: Path, subtype: str) -> None:
    data = bytearray(encode("OGG", subtype))
    data[len(data) * 2 // 3] ^= 64
    (tmp_path / "a.ogg").write_bytes(data)
    with pytest.raises(AudioError, match=r"is damaged: the page at byte \d+ is not what its checksum says"):
        read_audio(str(tmp_path / "a.ogg"))


@pytest.mark.parametrize("appended", [b"TAG" + b"x" * 125, b"APETAGEX" + b"x" * 3000, bytes(4096)])
@pytest.mark.parametrize(("form", "subtype"), [each for each in CONTAINERS if each[0] in TAGGED])
def test_tags_and_zeros_behind_the_samples_do_no_harm(tmp_path: Path, form: str, subtype: str, appended: bytes) -> None:
    (tmp_path / "a").write_bytes(encode(form, subtype) + appended)
    assert len(read_audio(str(tmp_path / "a")).samples) == len(SAMPLES)


def test_chunks_behind_the_samples_do_no_harm(tmp_path: Path) -> None:
    chunk = b"LIST" + (3000).to_bytes(4, "little") + b"x" * 3000
    (tmp_path / "a.wav").write_bytes(encode("WAV") + chunk)
    assert len(read_audio(str(tmp_path / "a.wav")).samples) == len(SAMPLES)


def test_numbers_of_a_header_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    wav, aiff = bytearray(encode("WAV")), encode("AIFF")
    wav[22] = 2
    aiff = put(aiff, aiff.index(b"SSND") + 8, 20000, "big")
    for data, message in ((wav, "2 channels of 16 bits are not 2 bytes"), (aiff, "20000 bytes that hold samples")):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(AudioError, match=f"is damaged: {message}"):
            read_audio(str(tmp_path / "a"))


@pytest.mark.parametrize("form", ["PVF", "IRCAM", "MAT5", "XI"])
def test_formats_that_may_be_cut_unnoticed_are_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / "a").write_bytes(encode(form, soundfile.default_subtype(form)))
    with pytest.raises(AudioError, match="nobody can tell whether it is whole; convert it to WAV or FLAC"):
        read_audio(str(tmp_path / "a"))


@pytest.fixture
def kaldi_archive(tmp_path: Path) -> dict[str, str]:
    """An archive as `wav-copy` writes it."""
    sources, data = {}, b""
    for key, num_samples in (("u1", 4000), ("u2", 16011)):
        data += f"{key} ".encode()
        sources[key] = f"{tmp_path}/wav.ark:{len(data)}"
        data += encode("WAV", samples=SAMPLES[:num_samples])
    (tmp_path / "wav.ark").write_bytes(data)
    return sources


def test_wav_in_a_kaldi_archive_is_read(kaldi_archive: dict[str, str]) -> None:
    found = {key: read_audio(source).samples for key, source in kaldi_archive.items()}
    assert {key: len(samples) for key, samples in found.items()} == {"u1": 4000, "u2": 16011}
    assert np.abs(found["u2"] - SAMPLES[:16011]).max() < 1e-4


def test_cut_wav_in_a_kaldi_archive_is_refused(tmp_path: Path, kaldi_archive: dict[str, str]) -> None:
    path = tmp_path / "wav.ark"
    path.write_bytes(path.read_bytes()[:-100])
    assert len(read_audio(kaldi_archive["u1"]).samples) == 4000
    with pytest.raises(AudioError, match=r"is truncated: \d+ of \d+ bytes"):
        read_audio(kaldi_archive["u2"])


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_a_part_is_the_samples_between_two_times(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(form, "VORBIS" if form == "OGG" else "PCM_16"))
    whole = read_audio(str(path)).samples
    for source in (str(path), f"cat {path} |"):
        part = f"{source}[0.500000:6.250000]"
        assert np.array_equal(read_audio(part).samples, whole[RATE // 2 : RATE // 4 * 25])
        assert count_samples(part) == RATE // 4 * 23
    rest = f"{path}[6.000000:inf]"
    assert np.array_equal(read_audio(rest).samples, whole[6 * RATE :]) and count_samples(rest) == RATE + 11


def test_a_part_may_end_a_little_behind_the_recording(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encode("WAV"))
    assert len(read_audio(f"{tmp_path}/a[6.000000:7.400000]").samples) == RATE + 11
    for part, message in (("[6.000000:7.600000]", "ends 0.60 s behind"), ("[7.500000:7.600000]", "begins behind")):
        with pytest.raises(AudioError, match=message):
            read_audio(f"{tmp_path}/a{part}")
