"""Tables of decoding.py about drafts: calls, tokens a call and their upper bounds, acceptance."""

import argparse
from collections.abc import Mapping, Sequence

from benching import print_header
from decoding_inputs import Inputs
from drafted_checks import along_references, long_greedy, long_texts
from drafted_ways import Drafted, draftings, name_of
from llm_ways import Frames, Run

from espnet_larm.recognize.output.effort import Effort, Prompts

# Shorter texts leave several tokens a call little room.
LONG_TEXT = 12


def ceilings(lens: Sequence[int], num_tokens: int) -> tuple[float, float]:
    """Upper bounds of tokens a call, reached if every draft is right.

    Args:
        lens: Tokens of each hypothesis, the end included, 1 or more.
        num_tokens: Most tokens that a call yields (K).

    Returns:
        The bound if every call could yield K, and the bound of this search, whose prefill yields one token.
    """
    in_full = sum(-(-length // num_tokens) for length in lens)
    behind_prefill = sum(1 - (-(length - 1) // num_tokens) for length in lens)
    return sum(lens) / in_full, sum(lens) / behind_prefill


def report_drafts(
    inputs: Inputs, ways: Mapping[str, Drafted], runs: Mapping[str, Sequence[Run]], greedy: str, greedy_batched: str
) -> None:
    """Print a row a way, beside greedy search one by one; figures are of the last repetition.

    Args:
        inputs: Inputs that were decoded.
        ways: Ways with drafts.
        runs: Runs of all ways.
        greedy: The way without drafts, one by one.
        greedy_batched: The same in batches.
    """
    expected = runs[greedy][-1]
    lens = {index: len(row) + 1 for index, row in enumerate(expected.token_ids)}
    long = {index for index, length in lens.items() if length >= LONG_TEXT}
    print(f"{sum(lens.values())} tokens, ends included; {len(long)} utterances have at least {LONG_TEXT}.")
    print("Row calls: of the LM, summed over utterances, prefills included. At most: sum L / sum ceil(L / K), and of")
    print("this search, sum L / sum (1 + ceil((L - 1) / K)). Fewer: row calls without drafts / with them.")
    print("What HF's early exit takes to draft is in its calls, not in its row calls.")
    print_header(
        *("drafts", "calls", "row calls", "a word", "tokens a row call", "at most", "fewer"),
        *(f"fewer, from {LONG_TEXT} tokens (at most)", "accepted, token 2, 3, ...", "hypotheses that are greedy's"),
    )
    for name in (greedy, greedy_batched, *ways):
        run, most = runs[name][-1], ways[name].num_tokens if name in ways else 1
        effort = Effort()
        for indices, found in run.searches:
            texts = inputs.decoded([run.token_ids[index] for index in indices])
            effort = effort.plus(Effort.of(found, found.hypotheses, texts, Prompts()))
        fewer = _row_calls(expected) / effort.num_row_calls
        words = f"{effort.num_row_calls / effort.num_words:.2f}" if effort.num_words else "-"
        same = sum(left == right for left, right in zip(expected.token_ids, run.token_ids, strict=True))
        tokens = sum(len(row) + 1 for row in run.token_ids)
        print(
            f"| {name} | {run.calls} | {effort.num_row_calls} | {words} | {tokens / effort.num_row_calls:.2f} "
            f"| {_both(list(lens.values()), most)} | {fewer:.2f} | {_fewer_of(long, expected, run, lens, most)} "
            f"| {_accepted(effort)} | {same} of {inputs.num_utts} |"
        )


def _row_calls(run: Run, only: set[int] | None = None) -> int:
    return sum(found.num_row_calls for indices, found in run.searches if only is None or only.issuperset(indices))


def _fewer_of(only: set[int], expected: Run, run: Run, lens: Mapping[int, int], most: int) -> str:
    """Ratio of row calls for some utterances; `-` for a run in batches, which does not tell them apart."""
    if not only or any(len(indices) > 1 for indices, _ in run.searches):
        return "-"
    _, exact = ceilings([lens[index] for index in sorted(only)], most)
    return f"{_row_calls(expected, only) / _row_calls(run, only):.2f} ({exact:.2f})"


def _both(lens: Sequence[int], most: int) -> str:
    in_full, exact = ceilings(lens, most)
    return f"{in_full:.2f}, {exact:.2f}"


def _accepted(effort: Effort) -> str:
    shares = [f"{100 * share:.0f}" for share in effort.acceptance().values()]
    return f"{' '.join(shares)} %" if shares else "-"


def report_references(inputs: Inputs, numbers: Sequence[int]) -> None:
    """Print drafts and acceptance along the references."""
    if not inputs.texts:
        return
    lens = [len(reference) + 1 for reference in inputs.references()]
    print_header("drafts along references", "row calls", "tokens a row call", "at most", "accepted, token 2, 3, ...")
    for drafting in draftings(inputs, numbers):
        effort = along_references(inputs, drafting)
        print(
            f"| {name_of(drafting)} | {effort.num_row_calls} "
            f"| {effort.num_tokens / effort.num_row_calls:.2f} | {_both(lens, drafting.tokens_per_call)} "
            f"| {_accepted(effort)} |"
        )


def report_long(inputs: Inputs, few: Sequence[Frames], args: argparse.Namespace) -> None:
    """Print whether long hypotheses are greedy search's, for each source of drafts at its largest K."""
    expected = long_greedy(inputs, few, args.long_tokens)
    lens = list(map(len, expected))
    largest = {drafting.drafts: drafting for drafting in draftings(inputs, sorted(args.tokens_per_call))}
    for drafting in (None, *largest.values()):
        name = "no drafts" if drafting is None else name_of(drafting)
        for how, found in long_texts(inputs, few, args.long_tokens, expected, drafting).items():
            margins = ", ".join(f"{margin:.1e}" for margin in sorted(found.margins))
            print(
                f"held open to {args.long_tokens} tokens ({min(lens)} to {max(lens)} found), {name}, "
                f"{how}: {found.num_same} of {len(lens)} are greedy search's one by one"
                + (f"; margins of its two best tokens where they part (nats): {margins}" if margins else "")
            )
