"""tools/compare_upstream.py: what it compares."""

import compare_upstream as tool
import pytest


def write(path, **table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()))


def test_last_loop_becomes_an_intermediate_one():
    config = {"encoder": "larm", "encoder_conf": {"num_loops": 6, "checkpoint_period": 2}, "seed": 1}
    assert tool.with_one_more_period(config)["encoder_conf"]["num_loops"] == 8
    assert config["encoder_conf"]["num_loops"] == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": "transformer"}, "only encoder: larm with share_blocks: true"),
        ({"encoder": "larm", "encoder_conf": {"share_blocks": False}}, "only encoder: larm with share_blocks: true"),
        ({"encoder": "larm", "encoder_conf": {"num_loops": 5}}, "num_loops 5 is no multiple of checkpoint_period 4"),
    ],
)
def test_what_cannot_be_compared_is_said(config, message):
    with pytest.raises(ValueError, match=message):
        tool.with_one_more_period(config)


def test_difference_is_shown_and_counts(tmp_path, capsys):
    write(tmp_path / "ours/loop2/token", a="A B", b="", c="C")
    write(tmp_path / "theirs/encoder_interctc_layer2.txt", a="A B", c="C")
    assert tool.compare(tmp_path / "ours", tmp_path / "theirs") == 0
    write(tmp_path / "theirs/encoder_interctc_layer2.txt", a="A A", c="C", d="D")
    assert tool.compare(tmp_path / "ours", tmp_path / "theirs") == 1
    assert "loop 2: 2 of 3 utterances equal, 1 lacking\n  a\n    ours:     A B" in capsys.readouterr().out
