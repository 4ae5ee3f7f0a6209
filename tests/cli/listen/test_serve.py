"""The command serve: what it refuses before it loads a model, and how a signal ends it."""

import importlib.util
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from espnet_larm.cli.listen import serve
from espnet_larm.serve import server

ROOT = Path(__file__).parents[3]


def test_a_signal_ends_it_after_the_requests_that_have_begun(tiny_pack, tmp_path):
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(120 * 16000).clip(-3, 3), 16000)
    command = [sys.executable, "-m", "espnet_larm", "serve", "--model", str(tiny_pack), "--no_vad", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor() as pool,
    ):
        line = process.stderr.readline()
        assert line.startswith("model is served at http://127.0.0.1:"), line + process.stderr.read()
        url = line.split(" is served at ")[1].partition(";")[0]
        files = {"file": ("a.flac", (tmp_path / "a.flac").read_bytes())}
        asked = pool.submit(httpx.post, url, files=files, timeout=120)
        while httpx.get(f"{url.partition('/v1')[0]}/health").json()["requests"] == 0:
            pass
        process.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200 and asked.result().json()["text"]
        assert (process.wait(60), process.stderr.read()) == (0, "")


def test_an_address_that_is_taken_is_refused_before_the_model_is_loaded():
    with server.open_socket("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(OSError, match=f"port is {port}, at which another program listens; choose another"):
            serve.main(["--model", "nowhere.zip", "--port", str(port)])
    with pytest.raises(OSError, match="host is 192.0.2.1, which is no address of this machine"):
        serve.main(["--model", "nowhere.zip", "--host", "192.0.2.1"])


def test_other_machines_without_a_key_are_warned_of(capsys, monkeypatch):
    for key, warnings in ((None, 1), ("s3cret", 0)):
        monkeypatch.delenv(serve.KEY, raising=False)
        if key:
            monkeypatch.setenv(serve.KEY, key)
        with pytest.raises(FileNotFoundError, match="nowhere.zip"):
            serve.main(["--model", "nowhere.zip", "--host", "0.0.0.0", "--port", "0"])
        assert capsys.readouterr().err.count("WARNING: whoever reaches http://0.0.0.0:") == warnings


@pytest.mark.parametrize("key", ["", "a b", "clé", "a\n"])
def test_a_key_that_no_client_could_send_is_refused(monkeypatch, key):
    monkeypatch.setenv(serve.KEY, key)
    with pytest.raises(ValueError, match="ESPNET_LARM_API_KEY is empty, or has spaces"):
        serve.main(["--model", "nowhere.zip", "--port", "0"])


def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    with pytest.raises(ImportError, match=r'a server needs uvicorn: pip install "espnet-larm\[serve\]"'):
        serve.main([])
