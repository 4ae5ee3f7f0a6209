"""The LM as a decoder: teacher-forced, cached, in batches, under ESPnet's search and beside Hugging Face's generate."""

import pytest
import torch
import transformers

from espnet2.asr.ctc import CTC

from espnet_larm.adaptation.export import load_upscaled, save_pretrained
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

VOCAB_SIZE, EOS = 23, 2
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def llm(save_lm, tmp_path, kind):
    """A folder with a tiny random LM and a tokenizer."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))]
    return save_lm(tmp_path / "llm", words, kind, hidden_size=32, initializer_range=0.4)


@pytest.fixture
def decoder(llm):
    torch.manual_seed(1)
    options = {"projector": "stack", "projector_frames": 2, "prefix": "w4 w7"}
    return SpeechLlmDecoder(VOCAB_SIZE, 6, llm=llm, **options).eval()


def speech(num_rows=3, length=11):
    torch.manual_seed(2)
    return torch.randn(num_rows, length, 6), torch.tensor([11, 4, 7])[:num_rows]


def texts(num_rows=3, length=6):
    """Start symbol and tokens, and their lengths."""
    torch.manual_seed(3)
    ys_in = torch.randint(3, VOCAB_SIZE, (num_rows, length + 1))
    ys_in[:, 0] = EOS
    return ys_in, torch.tensor([7, 3, 5])[:num_rows]


@torch.no_grad()
def test_batch_gives_what_each_utterance_gives_alone(decoder):
    (hs_pad, hlens), (ys_in, ys_lens) = speech(), texts()
    logits, olens = decoder(hs_pad, hlens, ys_in, ys_lens)
    assert logits.shape == (3, 7, VOCAB_SIZE) and olens.tolist() == [7, 3, 5]
    for row in range(3):
        rows, tokens = slice(row, row + 1), int(ys_lens[row])
        alone, _ = decoder(hs_pad[rows, : hlens[row]], hlens[rows], ys_in[rows, :tokens], ys_lens[rows])
        torch.testing.assert_close(logits[row, :tokens], alone[0], **CLOSE)


@torch.no_grad()
def test_the_start_symbol_has_no_effect(decoder):
    (hs_pad, hlens), (ys_in, ys_lens) = speech(), texts()
    logits, _ = decoder(hs_pad, hlens, ys_in, ys_lens)
    ys_in[:, 0] = 9
    assert torch.equal(decoder(hs_pad, hlens, ys_in, ys_lens)[0], logits)


@torch.no_grad()
def test_cached_steps_are_the_teacher_forced_forward(decoder):
    (hs_pad, hlens), (ys_in, _) = speech(), texts()
    wanted, _ = decoder(hs_pad, hlens, ys_in, torch.full((3,), 7))
    started = decoder.start(hs_pad, hlens)
    torch.testing.assert_close(started.logits, wanted[:, 0], **CLOSE)
    found = started.step(ys_in[:, 1:4], torch.tensor([3, 1, 2]))
    torch.testing.assert_close(found[1, :1], wanted[1, 1:2], **CLOSE)
    started.give_back(torch.tensor([2, 0, 1]), started.hidden)
    found = started.step(ys_in[:, 2:5], torch.full((3,), 3))
    torch.testing.assert_close(found, wanted[:, 2:5], **CLOSE)


@torch.no_grad()
def test_greedy_is_hugging_faces_generate(decoder, llm):
    hs_pad, hlens = speech()
    found = greedy(decoder.start(hs_pad, hlens), [Bounds(20)] * 3, EOS, guards_loops=False).hypotheses
    model = transformers.AutoModelForCausalLM.from_pretrained(llm).eval()
    for row in range(3):
        prompt = decoder.read_prompt(hs_pad[row : row + 1, : hlens[row]], hlens[row : row + 1])
        output = model.generate(
            inputs_embeds=prompt.embeddings, max_new_tokens=20, do_sample=False, eos_token_id=EOS, pad_token_id=EOS
        )
        tokens = output[0].tolist()
        assert found[row].token_ids == (tokens[: tokens.index(EOS)] if EOS in tokens else tokens)
    assert len({tuple(text.token_ids) for text in found}) == 3


@torch.no_grad()
def test_a_greedy_score_is_the_teacher_forced_log_probability(decoder):
    hs_pad, hlens = speech()
    found = greedy(decoder.start(hs_pad, hlens), [Bounds(20), Bounds(3), Bounds(0)], EOS).hypotheses
    for row, text in enumerate(found):
        tokens = text.token_ids
        ys_in = torch.tensor([[EOS, *tokens]])
        logits, _ = decoder(hs_pad[row : row + 1], hlens[row : row + 1], ys_in, torch.tensor([ys_in.size(1)]))
        log_probs = logits[0].log_softmax(-1)
        expected = sum(float(log_probs[index, token]) for index, token in enumerate([*tokens, EOS]))
        torch.testing.assert_close(text.score, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
def test_espnets_beam_search_finds_the_same_with_and_without_the_cache(decoder, ctc_weight):
    from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
    from espnet2.legacy.nets.beam_search import BeamSearch
    from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

    torch.manual_seed(4)
    ctc = CTCPrefixScorer(CTC(VOCAB_SIZE, 6), eos=EOS)
    results = []
    for kind in (BeamSearch, BatchBeamSearch):
        search = kind(
            scorers={"decoder": decoder, "ctc": ctc},
            weights={"decoder": 1 - ctc_weight, "ctc": ctc_weight},
            beam_size=4,
            vocab_size=VOCAB_SIZE,
            sos=EOS,
            eos=EOS,
            token_list=[str(index) for index in range(VOCAB_SIZE)],
        )
        results.append(search(x=speech(1)[0][0], maxlenratio=-8.0))
    for uncached, cached in zip(*results, strict=True):
        assert uncached.yseq.tolist() == cached.yseq.tolist()
        torch.testing.assert_close(float(uncached.score), float(cached.score), **CLOSE)


def test_gradients_reach_the_projector_and_no_frozen_weight(decoder):
    (hs_pad, hlens), (ys_in, ys_lens) = speech(), texts()
    hs_pad.requires_grad_()
    decoder.train()
    logits, _ = decoder(hs_pad, hlens, ys_in, ys_lens)
    logits.log_softmax(-1)[:, :3].square().sum().backward()
    learning = {name for name, each in decoder.named_parameters() if each.grad is not None and each.grad.any()}
    assert learning == {name for name, _ in decoder.named_parameters() if name.startswith("projector.")}
    assert hs_pad.grad[1, :4].any() and not hs_pad.grad[1, 4:].any()


def test_state_dict_round_trip_after_changing_it(decoder, llm):
    with torch.no_grad():
        for parameter in decoder.projector.parameters():
            parameter.add_(0.1)
    state = decoder.state_dict()
    assert all(name.startswith("projector.") or name == "backbone.fingerprint" for name in state)
    torch.manual_seed(5)
    fresh = SpeechLlmDecoder(VOCAB_SIZE, 6, llm=llm, projector_frames=2, prefix="w4 w7").eval()
    fresh.load_state_dict(state, strict=True)
    arguments = (*speech(), *texts())
    with torch.no_grad():
        assert torch.equal(fresh(*arguments)[0], decoder(*arguments)[0])


def test_wrong_options_are_refused(llm):
    with pytest.raises(ValueError, match="the token list has 30 tokens, but the LM's head has 23 rows"):
        SpeechLlmDecoder(30, 6, llm=llm)
    for options in ({}, {"llm": llm, "llm_config": {"model_type": "llama"}}):
        with pytest.raises(ValueError, match="give llm .* or llm_config .*, one of them"):
            SpeechLlmDecoder(VOCAB_SIZE, 6, **options)
    with pytest.raises(ValueError, match="llm_config needs tokenizer"):
        SpeechLlmDecoder(VOCAB_SIZE, 6, llm_config={"model_type": "llama"})


def test_what_is_longer_than_the_context_is_refused(decoder):
    hs_pad, hlens = torch.randn(1, 200, 6), torch.tensor([200])
    with pytest.raises(ValueError, match="take 103 positions, more than the 64 of the LM's context"):
        decoder.start(hs_pad, hlens)


@torch.no_grad()
def test_states_are_used_once_and_for_one_utterance(decoder):
    frames = speech(1)[0].expand(2, -1, -1)
    _, states = decoder.batch_score(torch.tensor([[EOS], [EOS]]), [None, None], frames)
    ys = torch.tensor([[EOS, 5], [EOS, 6]])
    _, later = decoder.batch_score(ys, states, frames)
    with pytest.raises(ValueError, match="used a second time"):
        decoder.batch_score(ys, states, frames)
    _, others = decoder.batch_score(torch.tensor([[EOS]]), [None], frames[:1])
    with pytest.raises(ValueError, match="of different utterances"):
        decoder.batch_score(ys, [later[0], others[0]], frames)


@torch.no_grad()
def test_a_search_may_begin_with_tokens(decoder):
    frames, ys = speech(1)[0].expand(2, -1, -1), torch.tensor([[EOS, 5, 7], [EOS, 6, 4]])
    found, _ = decoder.batch_score(ys, [None, None], frames)
    logits, _ = decoder(frames, torch.full((2,), 11), ys, torch.full((2,), 3))
    torch.testing.assert_close(found, logits[:, -1].log_softmax(-1), **CLOSE)


@torch.no_grad()
def test_a_text_that_outgrows_the_context_is_refused(decoder):
    started = decoder.start(*speech(1))
    tokens = torch.full((1, 64 - int(started.next_positions) + 1), 5)
    with pytest.raises(ValueError, match="a hypothesis has grown to 65 positions, prompt included, more than the 64"):
        started.step(tokens, torch.tensor([tokens.size(1)]))


def test_an_init_that_would_overwrite_the_lm_is_refused(decoder):
    with pytest.raises(ValueError, match="init would overwrite the weights of the LM"):
        decoder.reload_pretrained_parameters()


def test_a_folder_with_added_layers_is_not_taken_for_the_lm_alone(llm, tmp_path):
    # Not behind the last layer, where it would have no branch, and the folder be that of a deeper LM.
    conf = {"num_layers": 1, "placement": "bottom"}
    adaptation = {"adaptation": "depth_upscaling", "depth_upscaling_conf": conf}
    backbone = SpeechLlmDecoder(VOCAB_SIZE, 6, llm=llm, **adaptation).backbone
    save_pretrained(backbone, tmp_path)
    with pytest.raises(ValueError, match=r"holds added_layers.json: .* \(load_upscaled\) and decoder_conf does not;"):
        SpeechLlmDecoder(VOCAB_SIZE, 6, llm=str(tmp_path), tokenizer=llm)
    assert list(load_upscaled(tmp_path).added) == list(backbone.added)
    (tmp_path / "added_layers.json").unlink()
    SpeechLlmDecoder(VOCAB_SIZE, 6, llm=str(tmp_path), tokenizer=llm)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0; allowed: 1 to 8"),
        ({"num_heads": 9}, "num_heads is 9; allowed: 1 to 8"),
        ({"head_type": "medusa"}, "head_type is medusa; allowed: latent, projection"),
        ({"projector": "mlp"}, "projector is mlp; allowed: linear, stack, conv, posterior"),
        ({"projector_frames": 0}, "projector_frames is 0; allowed: 1 or more"),
        ({"adaptation": "half"}, "adaptation is half; allowed: frozen, full, lora, depth_upscaling"),
    ],
)
def test_values_out_of_range_are_refused_before_the_lm_is_sought(option, message):
    with pytest.raises(ValueError, match=f"^decoder_conf: {message}"):
        SpeechLlmDecoder(7, 8, llm="none", **option)
