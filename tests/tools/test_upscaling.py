"""tools/bench/upscaling.py: FLOPs are those that torch counts, and each way has its row."""

import pytest
import torch
import upscaling as tool

TINY = {
    "model_type": "qwen3",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


def args_of(*options):
    args = tool.get_parser().parse_args(["--layers", "2", "--repeats", "1", *options])
    args.threads = torch.get_num_threads()
    return args


@pytest.mark.parametrize("way", ["alone", "standard", "e_branchformer"])
def test_flops_of_shapes_are_those_that_torch_counts(monkeypatch, way):
    backbone, added = tool.build(TINY, args_of())
    tool.put_back(backbone, added[way])
    load = tool.Load(rows=3, speech=20, text=4, tokens=3)
    tool.check_count(backbone, load)
    wrong = tool.flops_of(backbone, load)._replace(token=0.0)
    monkeypatch.setattr(tool, "flops_of", lambda *_: wrong)
    with pytest.raises(SystemExit, match="torch counts"):
        tool.check_count(backbone, load)


def test_layers_of_an_lm_cost_their_share_and_a_branch_is_the_prompts_alone():
    backbone, added = tool.build({**TINY, "vocab_size": 1}, args_of())
    found = {}
    for way, layers in added.items():
        tool.put_back(backbone, layers)
        found[way] = tool.flops_of(backbone, tool.Load(2, 20, 4, 3))
    assert found["standard"].prompt / found["alone"].prompt == pytest.approx(1.5, rel=1e-3)
    assert found["e_branchformer"].token == found["standard"].token
    # 7/2 of D x D and the convolutions; none behind the last of two layers.
    local = 2 * 2 * 20 * (7 * 32 * 32 // 2 + 16 * 31 + 64 * 3)
    assert found["e_branchformer"].prompt - found["standard"].prompt == local


def test_the_table_has_prompt_and_token_of_each_way_and_batch():
    args = args_of()
    loads = [tool.Load(rows, 6, 4, 2) for rows in (1, 2)]
    rows = [row.strip("| ").split(" | ") for row in tool.compare(TINY, loads, args)]
    fields = [(cells[0], cells[1], cells[2].strip()) for cells in rows]
    ways = ("alone", "e_branchformer", "standard")
    assert fields == [(field, size, way) for size in "12" for field in ("prompt", "token") for way in ways]
    assert all(float(cells[5]) > 1.2 for cells in rows if "alone" not in cells[2])


def test_layers_take_turns(monkeypatch):
    """All three in each repetition, none always first, and a first one that does not count."""
    seen, spents = [], iter(range(1, 100))

    def read(backbone, *_):
        seen.append(len(backbone.added))
        return tool.Spent(float(next(spents)), 1.0)

    monkeypatch.setattr(tool, "check_count", lambda *_: None)
    monkeypatch.setattr(tool, "read", read)
    args = args_of()
    args.repeats = 2
    rows = list(tool.compare(TINY, [tool.Load(1, 6, 4, 2)], args))
    assert seen == [0, 2, 2, 2, 2, 0, 2, 0, 2]
    assert rows[0].startswith("| prompt | 1 | alone | 7000.0 (6000.0-8000.0) |")
