"""A model on a pre-trained encoder: our programs and ESPnet's train the same weights and decode the same tokens."""

from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm.data.kaldi_dir import read_table
from tests.pretrained.models import save_encoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # espnet2.train.iterable_dataset
    # torch's, of how transformers masks WavLM.
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning"),
]
GREEDY = Path(__file__).parents[2] / "conf/decode_ctc_greedy.yaml"
CONF = {
    "wavlm": {"layers": "mix"},
    "hubert group": {"train": "lora", "lora_conf": {"r": 2}},
    "whisper": {"train": "all"},
}


def train(trainings, folder, conf, **how):
    config = yaml.safe_load((trainings.folder / "config.yaml").read_text())
    config |= {"frontend": "pretrained", "frontend_conf": conf, "specaug": None, "max_epoch": 1, "accum_grad": 1}
    config["encoder_conf"] |= {"subsampling": "linear", "subsampling_factor": 2}
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert trainings.run(folder, "--config", str(path), **how) == 0, trainings.log(folder)
    return torch.load(folder / "1epoch.pth", weights_only=True)


def speak(weights):
    """Weights with a CTC head that gives tokens, which a few steps of training do not teach."""
    torch.nn.init.normal_(weights["ctc.ctc_lo.weight"], std=3.0)
    weights["ctc.ctc_lo.bias"][0] -= 20.0
    return weights


def arguments(trainings, config, model, out):
    scp = f"{trainings.folder}/valid/wav.scp,speech,sound"
    files = ["--asr_train_config", str(config), "--asr_model_file", str(model), "--output_dir", str(out)]
    return ["--data_path_and_name_and_type", scp, *files, "--config", str(GREEDY)]


@pytest.mark.parametrize("kind", CONF)
def test_training_decoding_and_packs_are_those_of_espnets_programs(trainings, larm_task, tmp_path, kind):
    from espnet2.bin.asr_inference import main as decode_by_espnet

    import espnet_larm
    from espnet_larm.cli.decode import main as decode
    from espnet_larm.cli.pack import main as pack
    from espnet_larm.recognize.packs import load

    save_encoder(kind, tmp_path / "ears")
    conf = {"model": str(tmp_path / "ears"), **CONF[kind]}
    weights = train(trainings, tmp_path / "ours", conf)
    espnets = train(trainings, tmp_path / "espnets", conf, upstream=True)
    assert weights.keys() == espnets.keys()
    assert all(torch.equal(weight, espnets[name]) for name, weight in weights.items())
    model = tmp_path / "ours/model.pth"
    torch.save(speak(weights), model)

    out = tmp_path / "out"
    assert decode([*arguments(trainings, tmp_path / "ours/config.yaml", model, out), "--write_ctm", "true"]) == 0
    # ESPnet writes the greedy text of intermediate checkpoints only: in a model with one more, all of ours are.
    longer = yaml.safe_load((tmp_path / "ours/config.yaml").read_text())
    longer["encoder_conf"]["num_loops"] = 3
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(longer))
    upstream = arguments(trainings, tmp_path / "longer.yaml", model, tmp_path / "upstream")
    decode_by_espnet([*upstream, "--num_workers", "0", "--maxlenratio", "-1"])
    for loop in (1, 2):
        expected = read_table(tmp_path / f"upstream/1best_recog/encoder_interctc_layer{loop}.txt")
        assert read_table(out / f"loop{loop}/token") == expected
    assert any(expected.values())

    assert pack(["--exp_dir", str(tmp_path / "ours"), "--asr_model_file", str(model)]) == 0
    is_held = conf.get("train") == "all"
    (tmp_path / "ears").rename(tmp_path / "moved")
    encoder = None if is_held else str(tmp_path / "moved")
    recognizer = load(tmp_path / "ours/ours_model.zip", encoder=encoder)
    for key, path in read_table(trainings.folder / "valid/wav.scp").items():
        found = recognizer.transcribe_file(path).best
        # read_table takes a space at the end off.
        assert found.text.strip() == read_table(out / "loop2/text").get(key, ""), key
    unpacked = espnet_larm.unpack(tmp_path / "ours/ours_model.zip", tmp_path / "unpacked", encoder=encoder)
    config = yaml.safe_load(Path(unpacked["asr_train_config"]).read_text())
    config["encoder_conf"]["num_loops"] = 3
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(config))
    again = arguments(trainings, tmp_path / "longer.yaml", unpacked["asr_model_file"], tmp_path / "again")
    decode_by_espnet([*again, "--num_workers", "0", "--maxlenratio", "-1"])
    assert read_table(tmp_path / "again/1best_recog/encoder_interctc_layer2.txt") == expected


def test_a_training_on_stored_frames_learns_as_one_on_waveforms_and_decodes_waveforms(trainings, larm_task, tmp_path):
    from espnet_larm.cli.decode import main as decode
    from espnet_larm.recipe.store_frames import main as store_frames

    conf = {"model": str(save_encoder("whisper", tmp_path / "ears")), "layers": "mix"}
    (tmp_path / "store.yaml").write_text(yaml.safe_dump({"frontend": "pretrained", "frontend_conf": conf}))
    for part in ("train", "valid"):
        data_dir = str(trainings.folder / part)
        assert store_frames(["--data_dir", data_dir, "--config", str(tmp_path / "store.yaml")]) == 0
    losses = []
    for name, table in (("frames", ("frames.scp", "speech", "frames")), ("sound", ("wav.scp", "speech", "sound"))):
        weights = train(trainings, tmp_path / name, conf, data=(table, ("text", "text", "text")))
        reporter = torch.load(tmp_path / name / "checkpoint.pth", weights_only=False)["reporter"]
        losses.append(reporter["stats"][1]["valid"]["loss"])
        assert weights["frontend.mix.weights"].any()
    # Stored in float16.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    model = tmp_path / "frames/model.pth"
    torch.save(speak(torch.load(tmp_path / "frames/1epoch.pth", weights_only=True)), model)
    assert decode(arguments(trainings, tmp_path / "frames/config.yaml", model, tmp_path / "out")) == 0
    assert any(read_table(tmp_path / "out/loop2/token").values())
