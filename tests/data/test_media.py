"""Audio of any container: what FFmpeg decodes, and what is refused."""

import os

import numpy as np
import pytest
import soundfile

from espnet_larm.data import media
from espnet_larm.data.media import stream_media

RATE = 16000


def chirp(seconds=3.0, rate=RATE):
    times = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 100 * times) * times)).astype(np.float32)


def encode(path, samples, rate, codec, layout="mono", *, video=False):
    """Write samples (N,) by PyAV; in stereo, the second channel is silent."""
    import av

    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5) if video else None
        sound = container.add_stream(codec, rate=rate, layout=layout)
        if pictures is not None:
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
            frames = [av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24") for _ in range(5)]
            container.mux([packet for frame in [*frames, None] for packet in pictures.encode(frame)])
        channels = np.stack([samples] if layout == "mono" else [samples, 0 * samples])
        resampler = av.AudioResampler(format=sound.codec_context.format or "fltp", layout=layout, rate=rate)
        for start in range(0, channels.shape[1], 1024):
            block = np.ascontiguousarray(channels[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            for converted in resampler.resample(frame):
                container.mux(sound.encode(converted))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "video"),
    [
        ("a.m4a", "aac", 44100, "mono", False),
        ("a.m4a", "aac", 44100, "stereo", False),
        ("a.webm", "libopus", 48000, "mono", False),
        ("a.mp4", "aac", 16000, "mono", True),
    ],
)
def test_containers_that_libsndfile_cannot_read_give_their_sound(tmp_path, name, codec, rate, layout, video):
    path = encode(tmp_path / name, chirp(rate=rate), rate, codec, layout, video=video)
    blocks = list(stream_media(path, RATE))
    found, wanted = np.concatenate(blocks), chirp() * (1.0 if layout == "mono" else 0.5)
    assert max(map(len, blocks)) < RATE and abs(len(found) - len(wanted)) < 0.1 * RATE
    # Encoders shift by up to some thousand samples, and lose what nobody hears.
    best = np.correlate(found, wanted[1000:-5000], mode="valid").max()
    assert best > 0.9 * np.sum(wanted[1000:-5000] ** 2)


def test_libsndfile_comes_first_and_its_refusal_of_half_a_file_stands(tmp_path):
    soundfile.write(tmp_path / "a.wav", chirp(), RATE)
    half = tmp_path / "half.wav"
    half.write_bytes((tmp_path / "a.wav").read_bytes()[:40000])
    with pytest.raises(ValueError, match="half.wav is truncated"):
        list(stream_media(half, RATE))


def test_half_a_file_of_ffmpegs_is_refused(tmp_path):
    path = encode(tmp_path / "a.webm", chirp(6.0, 48000), 48000, "libopus")
    half = tmp_path / "half.webm"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half.webm is truncated: \d.\d of 6.0 s"):
        list(stream_media(half, RATE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "is no audio: it is text"),
        (b"<!DOCTYPE html><p>", "is no audio: it is a web page"),
        (np.random.default_rng(0).bytes(5000), "is no audio, or damaged"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path, content, message):
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.m4a {message}"):
        list(stream_media(tmp_path / "a.m4a", RATE))


def test_a_video_without_sound_is_named(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width = pictures.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux([*pictures.encode(frame), *pictures.encode(None)])
    with pytest.raises(ValueError, match=r"a.mp4 holds no sound, only pictures"):
        list(stream_media(tmp_path / "a.mp4", RATE))


@pytest.fixture
def without_pyav(monkeypatch, tmp_path):
    """No PyAV, and a PATH of one folder, which is given."""
    find = media.importlib.util.find_spec
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None if name == "av" else find(name))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def program(folder, text):
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_program_ffmpeg_stands_in_for_pyav(without_pyav, tmp_path):
    chirp().tofile(tmp_path / "samples")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A " + bytes(100))
    program(without_pyav, f'[ "$5" = "file:{tmp_path}/a.m4a" ] && cat {tmp_path}/samples')
    np.testing.assert_array_equal(np.concatenate(list(stream_media(tmp_path / "a.m4a", RATE))), chirp())
    program(without_pyav, "echo moov is missing >&2; exit 1")
    with pytest.raises(ValueError, match=r"a.m4a is no audio, or damaged \(moov is missing\)"):
        list(stream_media(tmp_path / "a.m4a", RATE))


def test_without_ffmpeg_the_message_says_what_to_install(without_pyav, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(without_pyav))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A " + bytes(100))
    with pytest.raises(ImportError, match="a.m4a needs FFmpeg, which is not here: pip install av"):
        list(stream_media(tmp_path / "a.m4a", RATE))
