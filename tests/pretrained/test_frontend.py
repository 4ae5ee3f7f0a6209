"""Frames of pre-trained encoders: those of transformers, alone and in batches, and what learns."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from espnet_larm.pretrained.families import OVERLAP_SECONDS
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.upstream import TooShortUttError
from tests.pretrained.models import KINDS, make_extractor, save_encoder

# torch's, of how transformers masks WavLM.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")

# Samples: one Whisper frame more or less, and the fewest of wav2vec 2.0.
LENGTHS = (16000, 8001, 15999, 16001, 7040, 400, 6720)


def waveform(num_samples, seed=0):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.3


def frames_of_transformers(folder, kind, samples):
    """Hidden states of all layers (T, D) by transformers' own extractor and model, of one utterance."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = make_extractor(kind)(samples.numpy(), sampling_rate=16000, return_tensors="pt")
    if kind == "whisper":
        model, given = model.encoder, {"input_features": given["input_features"]}
    if "group" in kind:
        # As transformers' documents say of these.
        given = {"input_values": given["input_values"]}
    with torch.no_grad():
        output = model(**given, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["last", [0, 2]])
def test_frames_are_those_of_transformers(encoders, kind, layers):
    frontend = PretrainedFrontend(encoders(kind), layers=layers).eval()
    samples = waveform(16000)
    frames, lens = frontend(samples[None], torch.tensor([16000]))
    expected = frames_of_transformers(encoders(kind), kind, samples)
    wanted = torch.cat([expected[layer] for layer in ([3] if layers == "last" else layers)], dim=-1)
    assert frames.shape == (1, int(lens), frontend.output_size())
    if kind == "whisper":
        wanted = wanted[:, : int(lens)]
    assert wanted.shape == frames.shape
    torch.testing.assert_close(frames, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_is_the_same_alone_and_in_a_batch(encoders, kind):
    frontend = PretrainedFrontend(encoders(kind), layers="mix", stack=2).eval()
    lengths = [length for length in LENGTHS if length >= frontend.min_samples]
    alone = [waveform(length, seed) for seed, length in enumerate(lengths)]
    # What is behind an utterance must not matter, whatever it is.
    batch = torch.full((len(alone), max(lengths)), 7.0)
    for row, samples in zip(batch, alone, strict=True):
        row[: len(samples)] = samples
    frames, lens = frontend(batch, torch.tensor(lengths))
    for index, samples in enumerate(alone):
        wanted, length = frontend(samples[None], torch.tensor([len(samples)]))
        assert length == lens[index] and wanted.size(1) == int(length)
        torch.testing.assert_close(frames[index, : int(length)], wanted[0], atol=1e-5, rtol=0)
        assert not frames[index, int(length) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_fewest_samples_are_exact(encoders, kind):
    frontend = PretrainedFrontend(encoders(kind), stack=2).eval()
    for num_frames in (1, 2, 5):
        fewest = frontend.fewest_samples(num_frames)
        assert int(frontend(waveform(fewest)[None], torch.tensor([fewest]))[1]) >= num_frames
        if fewest > frontend.min_samples:
            assert int(frontend(waveform(fewest - 1)[None], torch.tensor([fewest - 1]))[1]) < num_frames


@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet"])
def test_too_short_an_utterance_is_said(encoders, kind):
    frontend = PretrainedFrontend(encoders(kind)).eval()
    fewest = frontend.min_samples
    frontend(waveform(fewest)[None], torch.tensor([fewest]))
    with pytest.raises(TooShortUttError, match=f"the front end needs {fewest}"):
        frontend(waveform(16000).expand(2, -1), torch.tensor([16000, fewest - 1]))


def test_long_audio_is_read_in_windows_of_which_seams_are_cut_away(encoders):
    frontend = PretrainedFrontend(encoders("whisper")).eval()
    window, step, half = 30 * 16000, (30 - OVERLAP_SECONDS) * 16000, OVERLAP_SECONDS * 50 // 2
    samples = waveform(window + step + 5 * 16000)
    frames, lens = frontend(torch.stack([samples, samples]), torch.tensor([len(samples), 16000]))
    assert lens.tolist() == [len(samples) // 320, 50]
    parts = [
        frontend(part[None], torch.tensor([len(part)]))[0][0] for part in (samples[:window], samples[step:][:window])
    ]
    torch.testing.assert_close(frames[0, : 1500 - half], parts[0][: 1500 - half], atol=1e-5, rtol=0)
    seam = 1500 - half
    torch.testing.assert_close(frames[0, seam : seam + 1200], parts[1][half : half + 1200], atol=1e-5, rtol=0)


def test_exactly_a_window_is_one_window(encoders):
    frontend = PretrainedFrontend(encoders("whisper")).eval()
    assert frontend.encoder._starts(30 * 16000) == [0]
    assert len(frontend.encoder._starts(30 * 16000 + 1)) == 2


def test_mixed_layers_are_a_weighted_sum_of_normalised_ones(encoders):
    mixed = PretrainedFrontend(encoders("wavlm"), layers="mix").eval()
    listed = PretrainedFrontend(encoders("wavlm"), layers=[0, 1, 2, 3]).eval()
    mixed.mix.weights.data = torch.tensor([0.0, 1.0, -1.0, 2.0])
    samples, lens = waveform(8000)[None], torch.tensor([8000])
    layers = listed(samples, lens)[0].unflatten(-1, (4, -1))
    normal = (layers - layers.mean(-1, keepdim=True)) / (layers.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    wanted = (normal * mixed.mix.weights.softmax(0)[:, None]).sum(-2)
    torch.testing.assert_close(mixed(samples, lens)[0], wanted, atol=1e-5, rtol=0)


def test_stacked_frames_stand_side_by_side(encoders):
    plain, stacked = (PretrainedFrontend(encoders("whisper"), stack=stack).eval() for stack in (1, 3))
    samples, lens = waveform(320 * 10)[None], torch.tensor([3200])
    frames, (pairs, pair_lens) = plain(samples, lens)[0][0], stacked(samples, lens)
    assert pair_lens.tolist() == [4] and pairs.shape == (1, 4, 48) and stacked.hop_length == 960
    assert torch.equal(pairs[0, 0], frames[:3].flatten()) and torch.equal(pairs[0, 3, :16], frames[9])
    assert not pairs[0, 3, 16:].any()


def test_stored_frames_go_through(encoders):
    frontend = PretrainedFrontend(encoders("wavlm"), layers="mix", stack=2).eval()
    samples, lens = torch.stack([waveform(16000), waveform(16000, 1)]), torch.tensor([16000, 9000])
    hidden, frame_lens = frontend.hidden(samples, lens)
    assert hidden.shape == (2, 49, frontend.stored_size)
    for one, other in zip(frontend(samples, lens), frontend(hidden, frame_lens), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parts_are_as_in_decoding_while_the_rest_trains(encoders, kind):
    frontend = PretrainedFrontend(encoders(kind), layers="mix").train()
    samples, lens = torch.stack([waveform(16000), waveform(16000, 1)]), torch.tensor([16000, 9000])
    buffers = {name: buffer.clone() for name, buffer in frontend.named_buffers()}
    frames, _ = frontend(samples, lens)
    frames.sum().backward()
    assert frontend.mix.weights.grad is not None
    assert [name for name, parameter in frontend.named_parameters() if parameter.requires_grad] == ["mix.weights"]
    assert all(torch.equal(buffers[name], buffer) for name, buffer in frontend.named_buffers())
    torch.testing.assert_close(frames, frontend.eval()(samples, lens)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layers_learn_alone(encoders, kind):
    frontend = PretrainedFrontend(encoders(kind), train="last_n", last_n=1).train()
    learning = {name for name, parameter in frontend.named_parameters() if parameter.requires_grad}
    assert learning and all(".layers.2." in name or "norm" in name for name in learning)
    frontend(waveform(16000)[None], torch.tensor([16000]))[0].sum().backward()
    assert all(parameter.grad is not None for _, parameter in frontend.named_parameters() if parameter.requires_grad)
    modes = {name: module.training for name, module in frontend.encoder.named_modules() if name}
    assert not any(mode for name, mode in modes.items() if ".layers.2" not in name and "norm" not in name)


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2", "wavlm group", "parakeet"])
def test_everything_learns_without_layer_drop(encoders, kind):
    torch.manual_seed(0)
    frontend = PretrainedFrontend(encoders(kind), train="all", activation_checkpointing=kind == "whisper").train()
    frontend(waveform(16000)[None], torch.tensor([16000]))[0].sum().backward()
    without = [
        name for name, parameter in frontend.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []
    assert not any(
        "masked_spec_embed" in name and parameter.requires_grad for name, parameter in frontend.named_parameters()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_lora_begins_as_the_model_and_learns_alone(encoders, kind):
    plain = PretrainedFrontend(encoders(kind)).eval()
    frontend = PretrainedFrontend(encoders(kind), train="lora", lora_conf={"r": 2}).train()
    samples, lens = waveform(16000)[None], torch.tensor([16000])
    frames = frontend(samples, lens)[0]
    torch.testing.assert_close(frames, plain(samples, lens)[0], atol=1e-5, rtol=0)
    frames.sum().backward()
    learning = {name for name, parameter in frontend.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    # Its second factor is zero at the start, and the only one with a gradient.
    second = [parameter for name, parameter in frontend.named_parameters() if "lora_B" in name]
    assert second and all(parameter.grad is not None and parameter.grad.any() for parameter in second)


@pytest.mark.parametrize("targets", [["q_proj", "output_dense"], ".*out_proj"])
def test_lora_refuses_layers_that_wavlm_never_runs(encoders, targets):
    conf = {"target_modules": targets}
    with pytest.raises(ValueError, match=r"(q|out)_proj, which would not learn in a wavlm; allowed: i"):
        PretrainedFrontend(encoders("wavlm"), train="lora", lora_conf=conf)


@pytest.mark.parametrize("options", [{}, {"layers": "mix"}, {"train": "last_n"}, {"train": "lora"}, {"train": "all"}])
def test_checkpoints_hold_what_learns_and_complete_themselves(encoders, options):
    frontend = PretrainedFrontend(encoders("whisper"), **options)
    for parameter in frontend.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    state = frontend.state_dict()
    learning = {name for name, parameter in frontend.named_parameters() if parameter.requires_grad}
    rest = {"encoder.fingerprint"} | (
        {"encoder.model.embed_positions.weight"} if options.get("train") == "all" else set()
    )
    assert set(state) == learning | rest
    again = PretrainedFrontend(encoders("whisper"), **options)
    again.load_state_dict(state, strict=True)
    samples, lens = waveform(16000)[None], torch.tensor([16000])
    assert torch.equal(frontend.eval()(samples, lens)[0], again.eval()(samples, lens)[0])


def test_another_models_checkpoint_is_refused(encoders, tmp_path):
    torch.manual_seed(1)
    other = PretrainedFrontend(str(save_encoder("whisper", tmp_path / "other")))
    with pytest.raises(RuntimeError, match="model is not the speech encoder that the checkpoint was trained with"):
        PretrainedFrontend(encoders("whisper")).load_state_dict(other.state_dict())


def test_layers_begin_to_learn_where_a_frozen_training_ended(encoders):
    state = PretrainedFrontend(encoders("whisper")).state_dict()
    learning = PretrainedFrontend(encoders("whisper"), train="last_n")
    assert not any(learning.load_state_dict(state, strict=True))


def test_casts_of_the_whole_model_leave_its_type(encoders):
    frontend = PretrainedFrontend(encoders("whisper"), dtype="bfloat16").eval()
    plain = PretrainedFrontend(encoders("whisper")).eval()
    frontend.to(torch.float64)
    assert frontend.encoder.model.dtype == torch.bfloat16
    samples, lens = waveform(16000)[None], torch.tensor([16000])
    frames = frontend(samples, lens)[0]
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, plain(samples, lens)[0], atol=0.1, rtol=0.1)


def test_a_checkpoint_of_all_weights_needs_no_folder(encoders):
    from espnet_larm.pretrained.loading import config_of, settings_of

    folder = encoders("wavlm")
    trained = PretrainedFrontend(folder, train="all")
    state = {name: value for name, value in trained.state_dict().items() if not name.endswith("fingerprint")}
    whole = PretrainedFrontend(
        model_config=config_of(folder, None), preprocessor_config=settings_of(folder, None), train="all"
    )
    whole.load_state_dict(state, strict=True)
    samples, lens = waveform(16000)[None], torch.tensor([16000])
    assert torch.equal(whole.eval()(samples, lens)[0], trained.eval()(samples, lens)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "all"}, "layers is all; allowed: last, mix, or a list of different numbers of 0"),
        ({"layers": [2, 2]}, "layers is .2, 2.; allowed"),
        ({"layers": [True, 2]}, "layers is .True, 2.; allowed"),
        ({"last_n": 3}, "last_n is 3, but train is frozen; leave it out, or take last_n"),
        ({"activation_checkpointing": True}, "activation_checkpointing is true, but train is frozen"),
        ({"fs": "fast"}, "fs is fast; allowed: a sample rate in Hz"),
        ({"layers": [4]}, "layers is .4.; allowed"),
        ({"layers": []}, "layers is ..; allowed"),
        ({"stack": 0}, "stack is 0; allowed: 1 or more"),
        ({"train": "some"}, "train is some; allowed: frozen, last_n, all, lora"),
        ({"train": "last_n", "last_n": 4}, "last_n is 4; allowed: 1 to 3"),
        ({"fs": "8k"}, "fs is 8000 Hz, but the model reads 16000 Hz"),
        ({"dtype": "float16", "train": "all"}, "train is all and dtype float16"),
        ({"lora_conf": {"r": 1}}, "lora_conf is given, but train is frozen"),
        ({"train": "lora", "lora_conf": {"rank": 1}}, "lora_conf: .*rank"),
        ({"model_config": {}}, "one of them must be given"),
        ({"dtype": "int8"}, "dtype is int8; allowed: float32, bfloat16, float16"),
    ],
)
def test_wrong_options_are_refused(encoders, options, message):
    with pytest.raises(ValueError, match=message):
        PretrainedFrontend(encoders("whisper"), **options)


def test_what_is_no_speech_encoder_is_refused(tmp_path, save_lm):
    with pytest.raises(ValueError, match="is a llama, no speech encoder that is known here; allowed: whisper, "):
        PretrainedFrontend(save_lm(tmp_path / "lm"))


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch):
    # The variable HF_HUB_OFFLINE is read once, when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError,
        match="model nobody/nothing: this hub model cannot be loaded: .*--encoder_folder.* needs a network",
    ):
        PretrainedFrontend("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: this folder cannot be loaded"):
        PretrainedFrontend(str(tmp_path / "empty"))


def test_a_file_is_called_a_file(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"model.pt: this file cannot be loaded"):
        PretrainedFrontend(str(tmp_path / "model.pt"))


def change_settings(folder, **changes):
    path = Path(folder) / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_settings_are_named(tmp_path, content):
    folder = save_encoder("hubert", tmp_path / "hubert")
    path = folder / "preprocessor_config.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="hubert: its preprocessor_config.json is damaged .*; copy it again"):
        PretrainedFrontend(str(folder))
    path.unlink()
    assert PretrainedFrontend(str(folder)).encoder.is_normalised


# Of transformers' own extractor at 8 kHz.
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning")
@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("hubert", {"sampling_rate": "16k"}, "sampling_rate is '16k'; allowed: a whole number above 0"),
        ("hubert", {"do_normalize": "no"}, "do_normalize is 'no'; allowed: true or false"),
        ("parakeet", {"preemphasis": "much"}, "preemphasis is 'much'; allowed: a number or null"),
        ("whisper", {"chunk_length": 3}, "windows of 3 s .* are 150 frames, but the model reads 1500"),
        ("whisper", {"sampling_rate": 8000}, "30 s .chunk_length. at 8000 Hz are 750 frames, but"),
    ],
)
def test_wrong_settings_are_named(tmp_path, kind, changes, message):
    folder = save_encoder(kind, tmp_path / "model")
    change_settings(folder, **changes)
    with pytest.raises(ValueError, match=message):
        PretrainedFrontend(str(folder), fs=changes.get("sampling_rate", 16000))


def test_other_settings_or_statistics_are_another_model_and_the_defaults_are_those_of_the_weights(tmp_path):
    from espnet_larm.llm.fingerprint import fingerprint_of

    def fingerprint(folder):
        return PretrainedFrontend(str(folder)).encoder.fingerprint

    folder = save_encoder("hubert", tmp_path / "hubert")
    first = fingerprint(folder)
    assert torch.equal(first, fingerprint_of(PretrainedFrontend(str(folder), train="all").encoder))
    change_settings(folder, do_normalize=False)
    assert not torch.equal(first, fingerprint(folder))
    change_settings(folder, do_normalize=True)
    assert torch.equal(first, fingerprint(folder))

    folder = save_encoder("parakeet", tmp_path / "parakeet")
    first = fingerprint(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")).add_(1.0)
    model.save_pretrained(folder)
    assert not torch.equal(first, fingerprint(folder))


def test_lacking_weights_are_counted(encoders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_encoder("hubert", tmp_path / "hubert")
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in weights if "layers.1" in name)
    save_file(
        {name: value for name, value in weights.items() if name != removed},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"lacks 1 weights \(.*layers\.1"):
        PretrainedFrontend(str(folder))


def test_espnets_init_is_refused_before_it_trains_on_random_weights(encoders):
    from espnet2.torch_utils.initialize import initialize

    model = torch.nn.ModuleDict({"frontend": PretrainedFrontend(encoders("hubert"))})
    with pytest.raises(ValueError, match="init would overwrite the weights of frontend: pretrained"):
        initialize(model, "xavier_uniform")
