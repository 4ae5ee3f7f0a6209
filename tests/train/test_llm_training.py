"""A training with an LM ends, goes on with the LM in another place, and its pack gives the same text anywhere."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]
SCRIPT = """
import json, sys, espnet_larm
recognizer = espnet_larm.load(sys.argv[1], llm=sys.argv[2]).recognizer
found = recognizer.transcribe_file(sys.argv[3])
print(json.dumps([found.text, found.best.score]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "adaptation",
    [["adaptation=lora", "lora_conf={r: 2}"], ["adaptation=depth_upscaling", "depth_upscaling_conf={share: 1.0}"]],
    ids=["lora", "depth_upscaling"],
)
def test_training_resumes_with_its_lm_moved_and_a_fresh_process_reads_its_pack(
    trainings, save_lm, tmp_path, adaptation
):
    from espnet_larm.cli.pack import main as pack

    save_lm(tmp_path / "llm", WORDS)
    (tmp_path / "tokens.txt").write_text("".join(f"{word}\n" for word in WORDS))
    folder = tmp_path / "exp"

    def train(llm, epochs):
        options = {
            "decoder": "speech_llm",
            "model": "speech_llm",
            "token_list": tmp_path / "tokens.txt",
            "token_type": "hugging_face",
            "bpemodel": llm,
            "max_epoch": epochs,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        conf = [f"llm={llm}", *adaptation, "projector_frames=2"]
        words += [word for option in conf for word in ("--decoder_conf", option)]
        assert trainings.run(folder, *words, "--model_conf", "ctc_weight=0.5") == 0, trainings.log(folder)

    train(tmp_path / "llm", 1)
    (tmp_path / "llm").rename(tmp_path / "moved")
    llm = str(tmp_path / "moved")
    train(llm, 2)
    speech = str(trainings.folder / "train/u9.wav")
    from espnet_larm.recognize.packs import load

    found = load(folder).transcribe_file(speech)
    assert pack(["--exp_dir", str(folder), "--outpath", str(tmp_path / "model.zip")]) == 0
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model.zip"), str(tmp_path / "elsewhere"), speech],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # ESPnet prints when it is imported.
    text, score = json.loads(done.stdout.splitlines()[-1])
    # The processes may divide sums among other numbers of threads.
    assert text == found.text != "" and score == pytest.approx(found.best.score, abs=1e-4)
