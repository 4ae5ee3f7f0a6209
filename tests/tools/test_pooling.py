"""tools/bench/pooling.py: prompts are shortened as asked, and what it says about them is so."""

import pooling as tool
import pytest
import torch

from espnet_larm.llm.backbone import Backbone


@pytest.fixture
def backbone():
    config = {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return Backbone.from_config(config).eval().requires_grad_(False)


@pytest.fixture
def args():
    options = ["--seconds", "2", "--tokens_per_s", "10", "20", "--repeats", "2", "--text", "6"]
    return tool.get_parser().parse_args(options)


def test_deep_layer_is_what_is_given_or_as_deep_as_the_papers(backbone):
    assert [tool.deep_layer_of(backbone, given) for given in (1, 3, None)] == [1, 3, 3]


@pytest.mark.parametrize("layer", ["0", "-1", "4"])
def test_a_deep_layer_outside_the_lm_is_refused(backbone, layer, monkeypatch):
    monkeypatch.setattr(tool.Backbone, "from_config", lambda *_: backbone)
    with pytest.raises(SystemExit, match=f"--deep_layer {layer}; allowed: 1 to 3; the LM's input is pooled by"):
        tool.main(["--deep_layer", layer, "--repeats", "0"])


@pytest.mark.parametrize("way", [(1, 1), (0.8, 1), (1, 0.25), (0.6, 0.25), (0.05, 1)])
@pytest.mark.parametrize("num_tokens", [1, 20, 101])
def test_affinity_pooling_leaves_of_a_prompt_what_is_asked(backbone, way, num_tokens):
    way, clock = tool.Way(*way), tool.Clock("cpu")
    prompt = tool.make_prompt(num_tokens, 6, way, 16, "cpu")
    kept = tool.read(backbone, tool.pooling_of(backbone, way, 3), prompt, clock).kept
    tool.check_retention(kept, way, num_tokens)
    left = [int(each.after) for each in kept.values()]
    assert left == [each for each, share in zip(way.lens(num_tokens), way, strict=True) if share < 1]


def test_another_retention_ends_it(backbone):
    clock = tool.Clock("cpu")
    pooling = tool.pooling_of(backbone, tool.Way(0.5, 1), 3)
    kept = tool.read(backbone, pooling, tool.make_prompt(20, 6, tool.Way(0.8, 1), 16, "cpu"), clock).kept
    with pytest.raises(SystemExit, match="Of 20 tokens"):
        tool.check_retention(kept, tool.Way(0.5, 1), 20)


@pytest.mark.parametrize("way", [(1, 1), (0.6, 0.25)])
def test_eager_attention_gives_the_same_logits_with_more_memory(backbone, way):
    way, clock = tool.Way(*way), tool.Clock("cpu")
    pooling = tool.pooling_of(backbone, way, 3)
    prompt = tool.make_prompt(100, 6, way, 16, "cpu")
    found = {}
    for kind in tool.ATTENTIONS:
        with tool.attention_of(kind):
            found[kind] = (
                tool.read(backbone, pooling, prompt, clock).logits,
                tool.peak_of(backbone, pooling, prompt, clock),
            )
    # Sums in another order.
    torch.testing.assert_close(found["eager"][0], found["sdpa"][0], rtol=1e-4, atol=1e-4)
    # The scores of one layer, before and behind the softmax at least.
    scores = 4 * (way.lens(100)[0] + 6) ** 2 * 4
    assert found["eager"][1] > found["sdpa"][1] + scores
    assert torch.equal(tool.read(backbone, pooling, prompt, clock).logits, found["sdpa"][0]), "it is put back"


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_products_that_are_left_out_change_no_count_of_memory(backbone, kind):
    clock = tool.Clock("cpu")
    pooling = tool.pooling_of(backbone, tool.Way(0.8, 0.25), 3)
    prompt = tool.make_prompt(50, 6, tool.Way(0.8, 0.25), 16, "cpu")
    with tool.attention_of(kind):
        peaks = [tool.peak_of(backbone, pooling, prompt, clock, computes) for computes in (False, True)]
    assert peaks[0] == peaks[1] > 0


def test_time_of_pooling_is_part_of_the_time_to_the_first_token(backbone):
    clock, way = tool.Clock("cpu"), tool.Way(0.8, 0.25)
    ticks = iter(range(100))
    clock.clock = lambda: float(next(ticks))
    pooling = tool.pooling_of(backbone, way, 3)
    prompt = tool.make_prompt(20, 6, way, 16, "cpu")
    # The clock is asked at the start and the end, and around each of two places.
    assert tool.read(backbone, pooling, prompt, clock).spent == (5.0, 2.0)


def test_flops_agree_with_torch_or_end_it(backbone):
    way, clock = tool.Way(0.6, 0.25), tool.Clock("cpu")
    pooling = tool.pooling_of(backbone, way, 3)
    prompt = tool.make_prompt(50, 6, way, 16, "cpu")
    expected = tool.flops_of(backbone, 50, 6, way, 3)
    assert expected < tool.flops_of(backbone, 50, 6, tool.ALONE, 3)
    tool.check_count(backbone, pooling, prompt, expected, clock)
    with pytest.raises(SystemExit, match="are expected from shapes"):
        tool.check_count(backbone, pooling, prompt, expected + 2, clock)


def test_the_table_has_a_row_a_way_with_ratios_to_no_pooling(backbone, args):
    ways = tool.ways_of(tool.get_parser(), args)
    rows = [row.strip("| ").split(" | ") for row in tool.compare(backbone, ways, 20, args)]
    assert [row[2:4] for row in rows[:4]] == [
        ["none", "1 x 1 = 1"],
        ["deep", "1 x 0.25 = 0.25"],
        ["input", "0.8 x 1 = 0.8"],
        ["input and deep", "0.8 x 0.19 = 0.152"],
    ]
    assert all(row[:2] == ["2 (10/s)", "20"] and len(row) == 10 for row in rows)
    assert rows[0][4] == "100.00" and rows[0][6] == "1.00 (1.00-1.00)" and rows[0][8] == "1.00"
    assert all(float(row[4]) < 100 and float(row[8]) >= 1 for row in rows[1:])
    parts = [row.strip("| ").split(" | ") for row in tool.parts_of(backbone, 20, args)]
    assert [row[:2] for row in parts] == [["20", "1"], ["20", "3"]]


def test_flops_alone_are_those_of_the_other_table_at_the_rates_of_all_sites(backbone, args, capsys, monkeypatch):
    way = tool.Way(0.5, 0.4)
    rows = [row.strip("| ").split(" | ") for row in tool.count(backbone, [tool.ALONE, way], 20, args)]
    flops = [tool.flops_of(backbone, 20, 6, each, 3) for each in (tool.ALONE, way)]
    assert rows[0] == ["2 (10/s)", "none", "10 -> 10 -> 10", f"{flops[0] / 1e9:.1f}", "100.00"]
    assert rows[1][2] == "10 -> 5 -> 2" and rows[1][4] == f"{100 * flops[1] / flops[0]:.2f}"
    # Nothing is read, and no weight is made.
    monkeypatch.setattr(tool, "read", None)
    tool.main(["--flops_only", "--shape", "Gemma-3-270M", "--tokens_per_s", "25", "50", "--seconds", "60"])
    table = capsys.readouterr().out
    assert "Gemma-3-270M, deep pooling behind layer 16 of 18" in table and table.count("\n| 60 (") == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--input_retention", "0.8"], "--input_retention has 1 numbers, --deep_retention 5"),
        (["--input_retention", "0.8", "--deep_retention", "0"], "a retention is 0.0; allowed: over 0, up to 1"),
    ],
)
def test_retentions_that_mean_nothing_are_refused(given, message, capsys):
    parser = tool.get_parser()
    with pytest.raises(SystemExit):
        tool.ways_of(parser, parser.parse_args(given))
    assert message in capsys.readouterr().err
