"""A decoder whose speech is pooled at both places: no-ops, batches, cached steps, searches, training and options."""

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import LAYERS
from espnet_larm.pooling.in_llm import speech_pooling_of
from espnet_larm.pooling.options import OPTIONS, Pooling
from espnet_larm.search.beam import beam
from espnet_larm.search.drafts import TextDrafts
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy
from espnet_larm.search.prefix_beam import prefix_beam
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

from .conftest import ToyLm

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
EOS, VOCAB_SIZE, ENCODER_SIZE = ToyLm.eos, ToyLm.vocab_size, ToyLm.encoder_size
# Random tokens are less alike than those of speech.
INPUT, DEEP = {"tau": 0.6}, {"layer": 2, "tau": 0.3, "window": 2}
BOTH = {"input": INPUT, "deep": DEEP}
OFF = {"input": {"tau": 1.1}, "deep": {"layer": 2, "method": "stride", "retention": 1.0}}
BOUNDS = [Bounds(40), Bounds(25), Bounds(40, least=9), Bounds(12)]


@pytest.fixture
def build(save_lm, tmp_path, kind):
    """Decoders of one LM of 4 layers; of two that are added, as after training, one is in front of deep pooling."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))]
    llm = save_lm(tmp_path / "lm", words, kind, max_position_embeddings=512, num_hidden_layers=4, initializer_range=0.3)

    def make(pooling=None, layer=None, **options):
        torch.manual_seed(1)
        options = {"projector_frames": 1, "prefix": "w4 w7", "num_heads": 3, "pooling": pooling, **options}
        if layer is not None:
            conf = {"layer": layer, "num_layers": 2}
            options |= {"adaptation": "depth_upscaling", "depth_upscaling_conf": conf}
        made = SpeechLlmDecoder(VOCAB_SIZE, ENCODER_SIZE, llm=llm, **options).eval()
        with torch.no_grad():
            for parameter in (*made.backbone.added.parameters(), *made.heads.parameters()):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return made

    return make


def texts():
    """Start symbol and tokens of four utterances, and their lengths."""
    ys_in = torch.randint(3, VOCAB_SIZE, (4, 7))
    ys_in[:, 0] = EOS
    return ys_in, torch.tensor([7, 3, 5, 6])


def token_ids(found):
    return [one.token_ids for one in found]


def retentions(kept):
    return {site: float(each.retention) for site, each in kept.items()}


@torch.no_grad()
def test_neutral_settings_change_no_bit(build, frames):
    plain, off, given = build(), build(OFF), texts()
    assert torch.equal(off(*frames, *given)[0], plain(*frames, *given)[0])
    begun, other = off.start(*frames), plain.start(*frames)
    assert torch.equal(begun.logits, other.logits) and torch.equal(begun.cache.prompt_lens, other.cache.prompt_lens)
    for segment, wanted in zip(begun.cache.prompt, other.cache.prompt, strict=True):
        assert torch.equal(segment.keys, wanted.keys) and torch.equal(segment.values, wanted.values)
    found, expected = (greedy(decoder.start(*frames), BOUNDS, EOS).hypotheses for decoder in (off, plain))
    assert token_ids(found) == token_ids(expected)
    assert [one.score for one in found] == [one.score for one in expected]
    assert retentions(begun.kept) == {"input": 1.0, "deep": 1.0} and retentions(other.kept) == {}


@torch.no_grad()
def test_positions_are_contiguous_behind_the_input_and_those_of_first_tokens_behind_the_layer(build, frames):
    """2 positions of prefix, 20 frames of which 10 are left, 5 behind the layer, 1 position of suffix."""
    half = {"method": "stride", "retention": 0.5}
    decoder, seen = build({"input": half, "deep": {"layer": 2, **half}}), []
    for layer in decoder.backbone.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["position_ids"][0].tolist()), with_kwargs=True
        )
    begun = decoder.start(*frames)
    begun.step(torch.tensor([[3, 4]] * 4), torch.full((4,), 2))
    prompt, left = list(range(13)), [0, 1, 2, 4, 6, 8, 10, 12]
    assert seen == [prompt, prompt, left, left, *[[13, 14]] * 4]


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, *LAYERS])
def test_a_batch_gives_what_each_utterance_gives_alone(build, frames, layer):
    decoder, (ys_in, ys_lens) = build(BOTH, layer), texts()
    logits, _ = decoder(*frames, ys_in, ys_lens)
    kept = decoder.read_text(*frames, ys_in, ys_lens).kept
    assert all(0.1 < each < 0.95 for each in retentions(kept).values())
    for row in range(4):
        rows, num_frames, num_tokens = slice(row, row + 1), int(frames[1][row]), int(ys_lens[row])
        given = frames[0][rows, :num_frames], frames[1][rows], ys_in[rows, :num_tokens], ys_lens[rows]
        torch.testing.assert_close(logits[row, :num_tokens], decoder(*given)[0][0], **CLOSE)
        alone = decoder.read_text(*given).kept
        assert {site: each.after.tolist() for site, each in alone.items()} == {
            site: each.after[rows].tolist() for site, each in kept.items()
        }


@torch.no_grad()
def test_padding_has_no_effect(build, frames):
    decoder, given = build(BOTH), texts()
    logits, _ = decoder(*frames, *given)
    for row, length in enumerate(frames[1].tolist()):
        frames[0][row, length:] = frames[0][row, length - 1]
    found, _ = decoder(torch.nn.functional.pad(frames[0], (0, 0, 0, 5)), frames[1], *given)
    for row, length in enumerate(given[1].tolist()):
        torch.testing.assert_close(found[row, :length], logits[row, :length], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, *LAYERS])
def test_cached_steps_are_the_teacher_forced_forward(build, frames, layer):
    """Ragged rows that give tokens back, part and leave, with prompts of two lengths."""
    decoder, (ys_in, _) = build(BOTH, layer), texts()
    wanted, _ = decoder(*frames, ys_in, torch.full((4,), 7))
    started = decoder.start(*frames)
    whole, short = started.cache.prompt_lens[0], started.cache.prompt_lens[3]
    assert bool((short[:3] < whole[:3]).all())
    # Of the LM's layers, and of the added ones behind the second and the fourth.
    added = [] if layer is None else [whole, short]
    assert torch.equal(started.cache.prompt_lens, torch.stack([whole, whole, short, short, *added]))
    assert torch.equal(started.next_positions, whole)
    torch.testing.assert_close(started.logits, wanted[:, 0], **CLOSE)
    found = started.step(ys_in[:, 1:4], torch.tensor([3, 1, 2, 3]))
    torch.testing.assert_close(found[1, :1], wanted[1, 1:2], **CLOSE)
    torch.testing.assert_close(found[2, :2], wanted[2, 1:3], **CLOSE)
    started.give_back(torch.tensor([2, 0, 1, 2]), started.hidden)
    rows = torch.tensor([3, 0, 0, 1])
    started.select(rows)
    assert torch.equal(started.cache.prompt_lens[3], short[[0, 1, 3]])
    found = started.step(ys_in[rows, 2:5], torch.full((4,), 3))
    torch.testing.assert_close(found, wanted[rows, 2:5], **CLOSE)
    found = started.step(ys_in[rows, 5:7], torch.tensor([0, 2, 1, 2]))
    torch.testing.assert_close(found[1], wanted[0, 5:7], **CLOSE)
    torch.testing.assert_close(found[2, :1], wanted[0, 5:6], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, "e_branchformer"])
def test_verified_drafts_give_greedys_texts(build, frames, one_by_one, layer):
    decoder = build(BOTH, layer)
    expected = token_ids(greedy(decoder.start(*frames), BOUNDS, EOS).hypotheses)
    assert len({tuple(text) for text in expected}) == 4
    wrong = [[*text[:2], 7, *text[3:]] for text in expected]
    for known in (expected, wrong, [text[1:] for text in expected]):
        found = greedy(decoder.start(*frames), BOUNDS, EOS, TextDrafts(known, 3, EOS))
        assert token_ids(found.hypotheses) == expected and any(number > 0 for number in found.accepted)
    alone = [
        greedy(decoder.start(*one), [bound], EOS).hypotheses[0] for one, bound in zip(one_by_one, BOUNDS, strict=True)
    ]
    assert token_ids(alone) == expected
    assert expected != token_ids(greedy(build(layer=layer).start(*frames), BOUNDS, EOS).hypotheses)


@torch.no_grad()
def test_beams_find_in_batches_and_with_heads_what_an_ordinary_beam_finds_alone(
    build, toy, frames, one_by_one, assert_same
):
    decoder = build(BOTH)

    def pairs(found):
        return [[(one.token_ids, one.score) for one in row] for row in found.hypotheses]

    expected = pairs(beam(decoder.start(*frames), BOUNDS, EOS, 3, 3))
    heads = toy.random_heads(3)
    verified = pairs(beam(decoder.start(*frames), BOUNDS, EOS, 3, 3, lookahead=heads))
    prefixes = pairs(prefix_beam(decoder.start(*frames), BOUNDS, EOS, 3, 3, lookahead=heads))
    for row, (one, bound) in enumerate(zip(one_by_one, BOUNDS, strict=True)):
        assert_same(pairs(beam(decoder.start(*one), [bound], EOS, 3, 3))[0], expected[row])
        assert_same(verified[row], expected[row])
        assert_same(pairs(prefix_beam(decoder.start(*one), [bound], EOS, 3, 3, lookahead=heads))[0], prefixes[row])


@torch.no_grad()
def test_a_beams_scores_are_the_teacher_forced_log_probabilities(build, frames):
    decoder = build(BOTH)
    for search in (beam, prefix_beam):
        for row, hypotheses in enumerate(search(decoder.start(*frames), BOUNDS, EOS, 3, 3).hypotheses):
            tokens = hypotheses[-1].token_ids
            ys_in = torch.tensor([[EOS, *tokens]])
            given = frames[0][row : row + 1], frames[1][row : row + 1], ys_in, torch.tensor([ys_in.size(1)])
            log_probs = decoder(*given)[0][0].log_softmax(-1)
            score = sum(float(log_probs[place, token]) for place, token in enumerate([*tokens, EOS]))
            assert hypotheses[-1].score == pytest.approx(score, abs=1e-3)


@torch.no_grad()
def test_espnets_beam_search_finds_the_same_with_and_without_the_cache(build, frames):
    from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
    from espnet2.legacy.nets.beam_search import BeamSearch

    decoder, results = build(BOTH), []
    for kind in (BeamSearch, BatchBeamSearch):
        search = kind(
            scorers={"decoder": decoder},
            weights={"decoder": 1.0},
            beam_size=3,
            vocab_size=VOCAB_SIZE,
            sos=EOS,
            eos=EOS,
            token_list=[str(index) for index in range(VOCAB_SIZE)],
        )
        results.append(search(x=frames[0][0], maxlenratio=-8.0))
    for uncached, cached in zip(*results, strict=True):
        assert uncached.yseq.tolist() == cached.yseq.tolist()
        assert float(uncached.score) == pytest.approx(float(cached.score), abs=1e-3)


@torch.no_grad()
def test_drafts_of_the_models_own_heads_are_verified(build, frames):
    from espnet_larm.search.drafts import HeadDrafts

    decoder = build(BOTH)
    expected = greedy(decoder.start(*frames), BOUNDS, EOS).hypotheses
    drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 3), EOS)
    assert token_ids(greedy(decoder.start(*frames), BOUNDS, EOS, drafts).hypotheses) == token_ids(expected)


@pytest.mark.parametrize("pooling", [{"input": INPUT}, {"deep": DEEP}, BOTH], ids=["input", "deep", "both"])
def test_gradients_reach_all_speech_of_the_projector_and_no_padding(build, frames, pooling):
    decoder, given = build(pooling), texts()
    frames[0].requires_grad_()
    decoder.train()(*frames, *given)[0][:, :3].log_softmax(-1).square().sum().backward()
    assert set(decoder.start(*frames).kept) == set(pooling)
    assert all(each.grad.any() for each in decoder.projector.parameters())
    for row, length in enumerate(frames[1].tolist()):
        assert frames[0].grad[row, :length].any(1).all() and not frames[0].grad[row, length:].any()


def test_activation_checkpointing_gives_the_same_gradients(build, frames):
    given, gradients = texts(), []
    for activation_checkpointing in (False, True):
        decoder = build(BOTH, "e_branchformer", activation_checkpointing=activation_checkpointing).train()
        decoder(*frames, *given)[0].square().mean().backward()
        gradients.append([each.grad for each in decoder.parameters() if each.requires_grad and each.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


@torch.no_grad()
def test_a_checkpoint_without_pooling_decodes_with_it(build, frames):
    trained, given = build(layer="standard"), texts()
    trained.projector.out.weight.mul_(1.5)
    pooled = build(BOTH, "standard")
    pooled.load_state_dict(trained.state_dict(), strict=True)
    expected = pooled(*frames, *given)[0]
    plain = trained(*frames, *given)[0]
    assert not torch.allclose(expected, plain, **CLOSE)
    # A call may pool otherwise than the model, which stays as it is.
    given_pooling = speech_pooling_of(BOTH, trained.backbone)
    assert torch.equal(trained.start(*frames, pooling=given_pooling).logits, pooled.start(*frames).logits)
    assert torch.equal(trained(*frames, *given)[0], plain)


@torch.no_grad()
@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_decodes_at_both_places(build, frames, method):
    options = {"tau": 0.3} if method == "affinity" else {"retention": 0.5}
    decoder = build({"input": {"method": method, **options}, "deep": {"layer": 1, "method": method, **options}})
    begun = decoder.start(*frames)
    assert all(each < 1 for each in retentions(begun.kept).values())
    assert all(greedy(begun, BOUNDS, EOS).hypotheses)


@torch.no_grad()
def test_input_pooling_is_that_of_the_projectors_embeddings(build, frames):
    decoder, plain = build({"input": INPUT}), build()
    embeddings, lens = plain.projector(*frames, None)
    expected = Pooling(**INPUT)(embeddings, lens)
    found = decoder.read_prompt(*frames)
    prefix, suffix = map(len, decoder.prompt)
    assert found.lens.tolist() == (expected.lens + prefix + suffix).tolist()
    for row, length in enumerate(expected.lens.tolist()):
        assert torch.equal(found.embeddings[row, prefix : prefix + length], expected.tokens[row, :length])
        assert found.speech[row].sum() == length


@torch.no_grad()
def test_what_input_pooling_leaves_fits_into_the_context(build):
    from espnet_larm.speech_llm.prompt import ContextError

    frames = torch.randn(1, 600, ENCODER_SIZE), torch.tensor([600])
    with pytest.raises(ContextError, match="take 603 positions"):
        build({"deep": {"layer": 2, "method": "stride", "retention": 0.5}}).start(*frames)
    begun = build({"input": {"method": "stride", "retention": 0.5}}).start(*frames)
    assert begun.next_positions.tolist() == [303]


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"middle": {}}, "decoder_conf: pooling: unknown site middle; allowed: input, deep"),
        ({"input": 0.9}, "decoder_conf: pooling: input is 0.9; allowed: options, such as"),
        ({"input": {"tao": 0.9}}, "pooling: input: unknown option tao; allowed: method, tau, window, max_group"),
        ({"input": {"tau": 0.9, "layer": 2}}, "pooling: input: unknown option layer"),
        ({"input": {"tau": "high"}}, "pooling: input: tau is 'high', of type str; allowed: a number"),
        ({"input": {"tau": 0.9, "window": True}}, "pooling: input: window is True, of type bool; allowed: a whole"),
        ({"input": {"tau": -2}}, "decoder_conf: pooling: input: tau is -2; allowed: -1 or more"),
        ({"input": {}}, "decoder_conf: pooling: input: method affinity needs tau"),
        ({"deep": {"layer": 2, "tau": 0.9, "window": 0}}, "pooling: deep: window is 0; allowed: 1 or more"),
        ({"deep": {"layer": 2, "tau": 0.9, "max_group": 0}}, "pooling: deep: max_group is 0; allowed: 1 or more"),
        ({"deep": {"tau": 0.9}}, "pooling: deep: layer is not given; allowed: 1 to 3: so many of the LM's 4 layers"),
        ({"deep": {"tau": 0.9, "layer": 0}}, "pooling: deep: layer is 0; allowed: 1 to 3"),
        ({"deep": {"tau": 0.9, "layer": 4}}, "pooling: deep: layer is 4; allowed: 1 to 3"),
        ({"deep": {"tau": 0.9, "layer": 2.5}}, "pooling: deep: layer is 2.5, of type float; allowed: a whole number"),
    ],
)
def test_wrong_options_are_refused(build, pooling, message):
    with pytest.raises(ValueError, match=message):
        build(pooling)


def test_options_that_are_given_to_a_call_are_checked(build):
    backbone = build(BOTH).backbone
    with pytest.raises(ValueError, match="^pooling: deep: layer is 9; allowed: 1 to 3"):
        speech_pooling_of({"input": {"tau": 0.9}, "deep": {"layer": 9, "tau": 0.9}}, backbone)
    made = speech_pooling_of({"deep": {"layer": 3, "tau": 0.9, "window": None}}, backbone)
    assert list(made.after_layer()) == [2] and list(made.options) == ["deep"]
