"""The LM's decoder, its caches and all searches on a GPU, or on one that is not there, where waits are counted."""

import pytest
import torch

from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.beam import prefix_beam as prefix_beam_ctc
from espnet_larm.search.ctc.fusion import Weights
from espnet_larm.search.ctc.posteriors import greedy as greedy_ctc
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, Spelled
from espnet_larm.search.drafts import HeadDrafts, LongerDrafts, TextDrafts
from espnet_larm.search.fetch import fetch
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.search.multi_token import Opening, greedy
from espnet_larm.search.ngram_scorer import NgramScorer, chain
from espnet_larm.search.prefix_beam import prefix_beam
from tests.search.ctc.test_fusion import fusion_of

EOS, NUM_UTTERANCES = 2, 4
BOUNDS = [Bounds(12), Bounds(3), Bounds(12, least=4), Bounds(7)]


class Bigram:
    """An n-gram over tokens that prefers the next number."""

    def start(self):
        return 0

    def score(self, state, token):
        return -0.3 * abs(state + 1 - token) - 0.1, token


def spell(token_ids, is_complete):
    """Spells a token as itself and, if it is odd, as another beside it, which is sure when something follows."""
    tokens = [piece for token in token_ids for piece in ([token, 3] if token % 2 else [token])]
    return Spelled(tokens, []) if is_complete or not token_ids else Spelled(tokens[:-1], tokens[-1:])


def scorers(log_probs, lens, names):
    """Scorers of a search by their names."""
    made = {
        "ctc": lambda: CtcScorer(CtcPrefixScores(log_probs, lens), spell, EOS, 0.3, [0, 1]),
        "ngram": lambda: NgramScorer(Bigram(), NUM_UTTERANCES, EOS, 0.5, [0, 1]),
    }
    return chain([made[name]() for name in names])


# Search, options, how often it may wait in a call, and how often it may copy to the GPU. It waits for its choices, once
# more for each scorer, and once for what a scorer may give back; as often again for each token that is drafted (3) or
# looked ahead (2). Never once a hypothesis. What it chose it copies for each cache and scorer, without a wait.
SEARCHES = {
    "greedy": (greedy, {}, 1, 9),
    "greedy with CTC and an n-gram": (greedy, {"names": ["ctc", "ngram"]}, 3, 18),
    "greedy with drafts": (greedy, {"drafts": True}, 5, 15),
    "greedy with drafts, CTC": (greedy, {"drafts": True, "names": ["ctc"]}, 9, 28),
    "greedy with unverified drafts": (greedy, {"drafts": True, "verifies": False}, 5, 24),
    "greedy behind an opening": (
        greedy,
        {"opening": Opening([[3, 4, EOS], [5, EOS], [EOS], [6, 7, EOS]], 0.05)},
        2,
        11,
    ),
    "beam": (beam, {"width": 3}, 1, 16),
    "beam with CTC and an n-gram": (beam, {"width": 3, "names": ["ctc", "ngram"]}, 4, 28),
    "beam that looks ahead": (beam, {"width": 3, "looks": True}, 5, 24),
    "beam that looks ahead with CTC": (beam, {"width": 3, "looks": True, "names": ["ctc"]}, 11, 48),
    "prefix beam": (prefix_beam, {"width": 3}, 2, 18),
    "prefix beam with CTC and an n-gram": (prefix_beam, {"width": 3, "names": ["ctc", "ngram"]}, 5, 30),
    "prefix beam that looks ahead": (prefix_beam, {"width": 3, "looks": True}, 4, 25),
    "prefix beam that looks ahead with CTC": (prefix_beam, {"width": 3, "looks": True, "names": ["ctc"]}, 8, 45),
}
# Lengths of prompts, and where the LM's layers see windows, of those.
AT_START = 6


def heads_of(toy, num_ahead=2):
    """Heads that know nothing."""
    size = toy.decoder.backbone.hidden_size
    table = torch.randn(size, num_ahead * toy.vocab_size, generator=torch.Generator().manual_seed(0))
    return lambda hidden: (hidden @ table.to(hidden.device, non_blocking=True)).view(-1, num_ahead, toy.vocab_size)


def run(search, toy, frames, log_probs, names=(), drafts=False, looks=False, width=None, **options):
    """What a search finds: tokens, scores, and how it ended."""
    if names:
        options["scorer"] = scorers(log_probs, frames[1], names)
    if looks:
        options["lookahead"] = Lookahead(heads_of(toy))
    if drafts:
        heads = HeadDrafts(heads_of(toy), EOS, 0.01)
        options["drafts"] = LongerDrafts([heads, TextDrafts([[3, 4, 5, 6]] * NUM_UTTERANCES, 3, EOS)])
    sizes = [] if width is None else [width, 2]
    with torch.no_grad():
        found = search(toy.decoder.start(*frames), BOUNDS, EOS, *sizes, **options)
    rows = found.hypotheses if width else [[each] for each in found.hypotheses]
    return found, [[[each.token_ids, each.score, each.ending, each.was_held_open] for each in row] for row in rows]


@pytest.fixture
def log_probs():
    """A CTC head's view of the utterances."""
    return torch.randn(NUM_UTTERANCES, 20, 13).log_softmax(2)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_it_finds_on_the_cpu_and_waits_seldom(gpu, toy, frames, log_probs, name):
    search, options, most, most_copies = SEARCHES[name]
    _, expected = run(search, toy, frames, log_probs, **options)
    toy.decoder = gpu.put(toy.decoder)
    given = gpu.put(frames), gpu.put(log_probs)
    gpu.waits.clear()
    gpu.copies.clear()
    found, there = run(search, toy, *given, **options)
    assert gpu.num_waits <= AT_START + most * found.num_calls, gpu.waits
    assert gpu.copies.total() <= most_copies * found.num_calls, gpu.copies
    scores = [each.pop(1) for row in there for each in row]
    assert scores == pytest.approx([each.pop(1) for row in expected for each in row], abs=1e-4)
    assert there == expected


def test_results_are_fetched_to_the_bit_in_one_copy(gpu):
    results = torch.randn(2, 3), torch.randn(4).double(), torch.tensor([[2**40 + 1]]), torch.tensor([True, False])
    results += torch.randn(3).bfloat16(), torch.tensor([-torch.inf, torch.inf]), torch.zeros(0, 2)
    given = gpu.put(results)
    gpu.waits.clear()
    assert fetch(*given) == fetch(*results) == [each.tolist() for each in results]
    assert gpu.num_waits <= 1


def test_a_cache_remembers_what_it_does_on_the_cpu(gpu, toy, frames):
    """Rows part, leave, give back and go on by different numbers of tokens."""

    def states(device, put):
        decoder = put(toy.decoder)
        begun = decoder.start(*put(frames))
        tokens = torch.tensor([[3, 4], [5, 5], [6, 7], [8, 9]])
        found = [begun.read(tokens.to(device), torch.tensor([2, 1, 0, 2]))[0]]
        begun.select(torch.tensor([3, 0, 0, 1]))
        begun.give_back(torch.tensor([1, 0, 1, 0]), begun.hidden)
        return [*found, begun.read(tokens.flip(0).to(device), torch.tensor([1, 2, 2, 1]))[:, 0], begun.logits]

    with torch.no_grad():
        expected = states("cpu", lambda each: each)
        found = states("cuda", gpu.put)
    for there, here in zip(found, expected, strict=True):
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def test_ctc_searches_wait_at_their_ends_and_for_words_once_a_frame(gpu):
    fusion, log_probs = fusion_of(Weights(1.0, 0.2, 1.0)), torch.randn(4, 15, 5).log_softmax(2)
    lens = torch.tensor([15, 12, 3, 0])
    searches = (
        (greedy_ctc, 4),
        (lambda *given: prefix_beam_ctc(*given, 5), 6),
        (lambda *given: prefix_beam_ctc(*given, 5, fusion=fusion), 15 + 7),
    )
    for search, most in searches:
        expected, given = search(log_probs, lens), gpu.put((log_probs, lens))
        gpu.waits.clear()
        found = search(*given).to_lists()
        assert gpu.num_waits <= most, gpu.waits
        assert found == expected.to_lists()
