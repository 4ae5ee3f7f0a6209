"""ESPnet's unmodified asr.sh with one `--python` of ours, from its first stage to its pack, and recipes of ESPnet3.

35 minutes on two cores that other work shared, and 36 MB from the package index: `pytest -m recipe tests/stock`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import espnet3
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = ROOT / "conf/tiny"
ENCODER = yaml.safe_load((TINY / "train_larm.yaml").read_text())
HYBRID = {
    **ENCODER,
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5},
    "max_epoch": 1,
}
TEXT_LM = {
    "lm": "transformer",
    "batch_type": "folded",
    "batch_size": 16,
    "max_epoch": 1,
    "num_workers": 0,
    "lm_conf": {"pos_enc": None, "embed_unit": 16, "att_unit": 32, "head": 2, "unit": 32, "layer": 1},
}
# A beam as recipes have it, and an end that a model of seconds finds.
DECODE = {"beam_size": 2, "ctc_weight": 0.3, "lm_weight": 0.3, "penalty": 0.0, "maxlenratio": 0.1, "minlenratio": 0.0}
LOSS = ["--inference_asr_model", "valid.loss.ave.pth"]
Run = Callable[..., str]

pytestmark = pytest.mark.recipe


def environment() -> dict[str, str]:
    """A user's environment, with our checkout to import from, and stand-ins behind all of PATH that are no package."""
    stand_ins = Path(__file__).parent
    for program in ("sclite", "sph2pipe"):
        if shutil.which(program) is None:
            print(f"{program} is not on PATH: {stand_ins / program} stands in.")
    return os.environ | {"PATH": f"{os.environ['PATH']}:{stand_ins}", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def run(recipe: Path) -> Run:
    """Runs asr.sh and returns what it says; fails the test if it fails."""
    for name, config in {"hybrid": HYBRID, "lm": TEXT_LM, "decode": DECODE, "ctc": ENCODER}.items():
        (recipe / f"conf/{name}.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(TINY / "train_pooling.yaml", recipe / "conf/pooling.yaml")

    def run(*options: str) -> str:
        command = ["./asr.sh", "--python", "python3 -m espnet_larm", "--ngpu", "0", "--nj", "2", "--inference_nj", "2"]
        sets = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--skip_packing", "false"]
        done = subprocess.run(
            [*command, *sets, *options], cwd=recipe, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def prepared(run: Run) -> Run:
    """The recipe after stages 1 to 4, which all trainings share."""
    run("--stop_stage", "4", "--token_type", "char", "--use_lm", "false")
    return run


def experiment(recipe: Path, name: str) -> Path:
    """The only experiment of that training configuration."""
    return next((recipe / "exp").glob(f"asr_{name}*/config.yaml")).parent


def row(exp: Path, measure: str = "WER") -> str:
    """The set's line in the table that the recipe writes, with its numbers of utterances and words."""
    table = (exp / "RESULTS.md").read_text().partition(f"### {measure}")[2]
    return next(line for line in table.splitlines() if "/test|" in line)


def log(exp: Path) -> str:
    """Log of the first decoding job."""
    return next(exp.glob("*/test/logdir/asr_inference.1.log")).read_text()


def test_its_own_defaults_run_from_the_first_stage_to_the_pack(recipe: Path, prepared: Run) -> None:
    """BPE, an attention decoder with CTC, a text LM, the best epoch by accuracy; decoding and pack are ESPnet's."""
    options = ["--asr_config", "conf/hybrid.yaml", "--lm_config", "conf/lm.yaml"]
    said = prepared(*options, "--stage", "5", "--inference_config", "conf/decode.yaml")
    exp = experiment(recipe, "hybrid")
    assert re.search(r"\|20\|\d+\|", row(exp)) and re.search(r"\|20\|\d+\|", row(exp, "TER"))
    assert "ESPnet's own asr_inference takes over" in log(exp)
    assert "ESPnet's own pack takes over" in said and list(exp.glob("*.zip"))


def test_ctc_alone_with_pieces_is_decoded_by_ours_at_all_loops(recipe: Path, prepared: Run) -> None:
    prepared("--asr_config", "conf/ctc.yaml", "--use_lm", "false", "--stage", "5", *LOSS)
    exp = experiment(recipe, "ctc_raw_bpe30")
    assert "|20|" in row(exp) and "takes over" not in log(exp)
    # What the recipe tells of time is our program's.
    told = next(exp.glob("*/test/logdir/calculate_rtf.log")).read_text()
    assert float(re.search(r"Total audio duration: ([\d.]+)", told)[1]) > 20  # type: ignore[index]
    assert float(re.search(r"Total decoding time: ([\d.]+)", told)[1]) > 0  # type: ignore[index]
    before = (exp / "RESULTS.md").read_bytes()
    command = ["python3", "-m", "espnet_larm.recipe.score_loops", "--exp_dir", str(exp), "--data_dir", "dump/raw"]
    done = subprocess.run(command, cwd=recipe, env=environment(), capture_output=True, text=True, check=True)
    # Its last loop is what the recipe scored.
    last = re.search(r"^loop4 +20 +\d+.*", done.stdout, flags=re.MULTILINE)
    assert last is not None and re.search(r"^loop2 +20 ", done.stdout, flags=re.MULTILINE)
    assert float(last[0].split()[7]) == pytest.approx(float(row(exp).split("|")[8]), abs=0.06)
    assert (exp / "RESULTS.md").read_bytes() == before and (exp / "by_loops/RESULTS.md").is_file()


def test_ctc_alone_takes_the_options_of_a_stock_decoding(recipe: Path, prepared: Run) -> None:
    options = ["--asr_config", "conf/ctc.yaml", "--token_type", "char", "--use_lm", "false", *LOSS]
    prepared(*options, "--stage", "5", "--inference_config", "conf/decode.yaml")
    exp = experiment(recipe, "ctc_raw_char")
    assert "|20|" in row(exp) and "CTC decodes alone" in log(exp) and "takes over" not in log(exp)


def test_ctc_alone_with_a_text_lm_is_handed_over(recipe: Path, prepared: Run) -> None:
    options = ["--asr_config", "conf/ctc.yaml", "--token_type", "char", "--lm_config", "conf/lm.yaml", *LOSS]
    prepared(
        *options,
        "--stage",
        "5",
        "--inference_config",
        "conf/decode.yaml",
        "--asr_tag",
        "ctc_lm",
        "--asr_args",
        "--max_epoch 1",
    )
    exp = recipe / "exp/asr_ctc_lm"
    assert (
        "|20|" in row(exp) and "lm_train_config is" in log(exp) and "ESPnet's own asr_inference takes over" in log(exp)
    )


def test_affinity_pooling_before_the_encoder(recipe: Path, prepared: Run) -> None:
    options = ["--asr_config", "conf/pooling.yaml", "--token_type", "char", "--use_lm", "false", *LOSS]
    prepared(*options, "--stage", "5")
    exp = experiment(recipe, "pooling")
    assert "|20|" in row(exp) and "frames left by pooling" in log(exp)


def test_an_lm_as_decoder(recipe: Path, prepared: Run, save_lm: Callable[..., str], tmp_path: Path) -> None:
    words = ["<unk>", "<s>", "</s>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    llm = save_lm(tmp_path / "llm", words, max_position_embeddings=256)
    config: dict[str, Any] = yaml.safe_load((TINY / "train_llm.yaml").read_text())
    config["decoder_conf"] |= {"llm": llm}
    (recipe / "conf/llm.yaml").write_text(yaml.safe_dump(config | {"max_epoch": 1}))
    tokens = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", llm]
    prepared("--asr_config", "conf/llm.yaml", *tokens, "--use_lm", "false", "--stage", "5", *LOSS, "--asr_tag", "llm")
    exp = recipe / "exp/asr_llm"
    assert "|20|" in row(exp) and "decoder calls" in log(exp) and list(exp.glob("*.zip"))


def test_a_missing_model_names_the_recipes_option(recipe: Path, prepared: Run) -> None:
    with pytest.raises(AssertionError, match=r"nowhere.pth is missing.*--inference_asr_model"):
        prepared(
            *("--asr_config", "conf/ctc.yaml", "--token_type", "char", "--use_lm", "false", "--stage", "12"),
            *("--inference_asr_model", "nowhere.pth"),
        )


@pytest.fixture
def mini_an4(tmp_path: Path) -> Path:
    """A copy of the recipe in ESPnet's wheel whose model has our encoder, and nothing else changed."""
    wheel = Path(espnet3.__file__).parents[1]
    folder = tmp_path / "mini_an4"
    shutil.copytree(wheel / "egs3/mini_an4/esp2_asr", folder)
    config = (folder / "conf/training_asr_transformer.yaml").read_text()
    larm = yaml.safe_dump({"encoder": "larm", "encoder_conf": ENCODER["encoder_conf"] | {"checkpoint_period": 4}})
    indented = "".join(f"  {line}\n" for line in larm.splitlines())
    changed = re.sub(r"  encoder: transformer\n.*?(?=\n  decoder:)", indented, config, flags=re.DOTALL)
    assert changed != config
    (folder / "conf/training_larm.yaml").write_text(changed)
    return folder


def test_espnet3_trains_and_infers_with_parallel_workers(mini_an4: Path) -> None:
    def run(*stages: str, inference: str = "inference_serial") -> None:
        command = ["python3", "-m", "espnet_larm", "run.py", "--stages", *stages]
        configs = [("training", "training_larm"), ("inference", inference), ("metrics", "metrics")]
        options = [word for kind, name in configs for word in (f"--{kind}_config", f"conf/{name}.yaml")]
        done = subprocess.run(
            [*command, *options], cwd=mini_an4, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]

    # Statistics are collected by parallel workers.
    run("create_dataset", "train_tokenizer", "collect_stats", "train", "infer", "measure")
    run("infer", inference="inference_parallel")
    exp = mini_an4 / "exp/training_larm"
    assert yaml.safe_load((exp / "config.yaml").read_text())["encoder"] == "larm"
    assert "WER" in (exp / "inference_serial/metrics.json").read_text()
    serial, parallel = (exp / f"inference_{how}/test/text.scp" for how in ("serial", "parallel"))
    assert serial.read_text().count("\n") == 2 and parallel.read_text() == serial.read_text()
