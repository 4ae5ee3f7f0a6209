"""A looped encoder on pre-trained frames, pooling, added layers and draft heads together: train, decode, pack."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
from tests.pretrained.models import save_encoder

CONF = Path(__file__).parents[2] / "conf"
WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # espnet2.train.iterable_dataset
]


def test_one_model_has_all_four_and_its_pack_decodes_several_tokens_a_call(trainings, save_lm, tmp_path):
    from espnet_larm.cli.pack import main as pack
    from espnet_larm.recognize.config import DecodeConfig
    from espnet_larm.recognize.packs import load

    llm, ears = save_lm(tmp_path / "llm", WORDS), save_encoder("whisper", tmp_path / "ears")
    config = yaml.safe_load((trainings.folder / "config.yaml").read_text())
    made = yaml.safe_load((CONF / "tiny/train_all.yaml").read_text())
    made["frontend_conf"]["model"], made["decoder_conf"]["llm"] = str(ears), str(llm)
    (tmp_path / "tokens.txt").write_text("".join(f"{word}\n" for word in WORDS))
    beside = {"token_list": str(tmp_path / "tokens.txt"), "token_type": "hugging_face", "bpemodel": str(llm)}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**config, **made, **beside, "specaug": None, "accum_grad": 1}))
    folder = tmp_path / "exp"
    assert trainings.run(folder, "--config", str(tmp_path / "train.yaml")) == 0, trainings.log(folder)

    weights = torch.load(folder / "1epoch.pth", weights_only=True)
    assert weights["decoder.sampling.draws"][1] == 5
    frozen = [name for name in weights if name.startswith(("frontend.encoder.", "decoder.backbone.model."))]
    assert frozen == ["frontend.encoder.fingerprint"]
    states = torch.load(folder / "checkpoint.pth", weights_only=False)
    (phases,) = states["reporter"]["stats"].values()
    # Two retentions and more were drawn; validation takes that of the options, rounded up in each utterance.
    assert 0.25 < phases["train"]["retention_input"] < 1 and phases["train"]["loss_head2"] > 0
    assert phases["valid"]["retention_input"] == pytest.approx(0.5, abs=0.05)

    assert pack(["--exp_dir", str(folder), "--outpath", str(tmp_path / "model.zip")]) == 0
    for place in ("llm", "ears"):
        (tmp_path / place).rename(tmp_path / f"{place}_moved")
    moved = {"llm": str(tmp_path / "llm_moved"), "encoder": str(tmp_path / "ears_moved")}
    packed = load(tmp_path / "model.zip", **moved)
    trained = load(folder, **moved)
    by_one = DecodeConfig(drafts="none")
    for path in list(read_table(trainings.folder / "valid/wav.scp").values())[:2]:
        found = packed.transcribe_file(path)
        # Drafts are verified: the tokens of greedy search, and from the pack those of the experiment.
        alone = trained.transcribe_file(path, by_one)
        assert found.best.token_ids == trained.transcribe_file(path).best.token_ids == alone.best.token_ids
        assert found.text
    assert packed.model.decoder.heads.num_heads == 3 and len(packed.model.decoder.backbone.added) == 1


def test_the_large_configuration_has_what_the_tiny_one_has():
    """And no option that the decoder would refuse: the parts that read it are built by other tests."""
    large, tiny = (
        yaml.safe_load((CONF / name).read_text()) for name in ("read_speech/train_llm_all.yaml", "tiny/train_all.yaml")
    )
    for config in (large, tiny):
        assert (config["frontend"], config["encoder"], config["decoder"]) == ("pretrained", "larm", "speech_llm")
        assert config["encoder_conf"]["num_loops"] > 1 and config["decoder_conf"]["num_heads"] > 1
        assert config["decoder_conf"]["adaptation"] == "depth_upscaling"
        assert config["decoder_conf"]["pooling"]["input"]["retention_sampling"]
        assert not set(config["decoder_conf"]) - set(SpeechLlmDecoder.__init__.__annotations__) - {"llm"}
