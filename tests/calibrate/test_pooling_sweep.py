"""tau for a wanted retention, by bisection."""

from types import SimpleNamespace

import pytest
import torch
import yaml

from espnet_larm.calibrate.pooling_places import refusal
from espnet_larm.calibrate.pooling_sweep import (
    OFF,
    EncodedFolder,
    Tokens,
    UnreachableError,
    find_tau,
    retention_at,
    speech_of,
)
from espnet_larm.pooling.in_llm import SpeechPooling
from espnet_larm.pooling.options import Pooling
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.recognizer import Recognizer


def tokens_of(*cosines):
    """A row of tokens, each turned from the one before it by an angle with this cosine."""
    angles = torch.tensor([0.0, *cosines]).acos()
    angles[0] = 0.0
    turned = angles.to(torch.float64).cumsum(0)
    xs_pad = torch.stack([turned.cos(), turned.sin()], dim=-1).unsqueeze(0)
    return [Tokens(xs_pad, torch.tensor([len(cosines) + 1]))]


def retention_of(tokens, **options):
    return lambda tau: retention_at(tokens, Pooling(tau=tau, **options))


def test_tau_lies_between_the_cosines_that_merge_and_those_that_do_not():
    tokens = tokens_of(0.9, 0.1, 0.5, 0.7)
    for wanted, (low, high) in {0.8: (0.7, 0.9), 0.6: (0.5, 0.7), 0.4: (0.1, 0.5)}.items():
        tau, found = find_tau(retention_of(tokens), wanted, (0.2, 1.0))
        assert low - 1e-5 <= tau <= high + 1e-5 and found == pytest.approx(wanted)


def test_of_two_retentions_about_the_wanted_one_the_nearer_is_taken():
    tokens = tokens_of(0.5, 0.5, 0.5, 0.9)
    # 0.8 above a tau of 0.5, 0.2 below it.
    assert find_tau(retention_of(tokens), 0.55, (0.2, 1.0))[1] == pytest.approx(0.8)
    assert find_tau(retention_of(tokens), 0.45, (0.2, 1.0))[1] == pytest.approx(0.2)


def test_all_of_the_speech_is_no_pooling():
    tau, found = find_tau(retention_of(tokens_of(1.0)), 1.0, (0.5, 0.5))
    assert tau == OFF and found == 1 and Pooling(tau=tau).is_off


@pytest.mark.parametrize(("wanted", "is_below"), [(0.2, True), (0.95, False)])
def test_what_no_tau_leaves_is_refused_with_the_range(wanted, is_below):
    with pytest.raises(UnreachableError, match=r"leaves 0\.4000 to 0\.9000 of the speech") as raised:
        find_tau(lambda tau: 0.4 if tau < 0 else 0.9, wanted, (0.4, 0.9))
    assert raised.value.is_below == is_below


@pytest.mark.parametrize(
    ("wanted", "leaves_less", "end"),
    [
        (0.2, "raise --max_group, which is 2", "in that range, or raise --max_group, which is 2."),
        (0.2, None, "in that range."),
        (0.95, None, "in that range, or ask for 1, which is no pooling."),
    ],
)
def test_a_refusal_names_the_option_the_number_and_what_bounds(wanted, leaves_less, end):
    place = SimpleNamespace(leaves_less=leaves_less)
    said = refusal("--retentions", 0.25, place, UnreachableError(wanted, (0.4, 0.9)))
    assert said.startswith("--retentions is 0.25, but with these bounds tau") and said.endswith(end)


def test_runs_of_speech_are_cut_out_of_prompts():
    speech = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    embeddings = torch.randn(3, 5, 4)
    xs_pad, lens = speech_of(embeddings, speech)
    assert lens.tolist() == [3, 1, 0] and xs_pad.size(1) == 3
    assert torch.equal(xs_pad[0], embeddings[0, 1:4]) and torch.equal(xs_pad[1, :1], embeddings[1, 2:3])


@pytest.mark.slow
def test_tokens_are_those_that_decoding_pools_before_they_have_the_type_of_the_lm(
    build_speech_llm, tiny_experiment, tmp_path, monkeypatch
):
    model = build_speech_llm(decoder_conf={"projector_frames": 1, "dtype": "bfloat16"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    recognizer = Recognizer.from_files(tmp_path / "config.yaml", tmp_path / "model.pth", "cpu")
    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000, recognizer.preprocess)
    folder = EncodedFolder(recognizer, table, table.keys(None)[:2], 60.0)
    (tokens,) = folder.tokens_at("input", 0, {})
    pooled, pool_input = [], SpeechPooling.pool_input
    monkeypatch.setattr(
        SpeechPooling, "pool_input", lambda self, *given: pooled.append(Tokens(*given[:2])) or pool_input(self, *given)
    )
    folder.decode()
    assert tokens.xs_pad.dtype == torch.float32 and torch.equal(tokens.xs_pad, pooled[0].xs_pad)
    assert torch.equal(tokens.lens, pooled[0].lens)
