"""Stage 2: copies of a set at other speeds."""

from pathlib import Path

import pytest

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recipe.perturb_speed import main, perturb_speed


def test_copies_have_ids_speakers_and_audio_of_their_own(data_dir: Path) -> None:
    out = data_dir.parent / "sp"
    main(["--in_dir", str(data_dir), "--output_dir", str(out), "--factors", "0.9", "1.0"])
    before, after = read_dir(data_dir), read_dir(out)
    assert [utterance for utterance in after if not utterance.id.startswith("sp")] == before
    slow = [utterance for utterance in after if utterance.id.startswith("sp0.9-")]
    assert [utterance.speaker for utterance in slow] == ["sp0.9-ann", "sp0.9-ann", "sp0.9-bob"]
    assert [utterance.text for utterance in slow] == [utterance.text for utterance in before]
    assert len(read_audio(slow[0].audio).samples) == pytest.approx(16000 / 0.9, abs=1)


def test_repeating_it_gives_the_same_bytes(data_dir: Path) -> None:
    out = data_dir.parent / "sp"
    options = ["--in_dir", str(data_dir), "--output_dir", str(out), "--factors", "1.1"]
    main(options)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    main(options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("factor", ["fast", "0.1", "nan", "-1"])
def test_a_senseless_factor_is_refused(tmp_path: Path, factor: str) -> None:
    with pytest.raises(ValueError, match=f"{factor} must be a number from 0.5 to 2.0"):
        perturb_speed([], [factor], tmp_path, 16000, 1)


def test_a_factor_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a factor twice: 1 1.0"):
        perturb_speed([], ["1", "1.0"], tmp_path, 16000, 1)
