"""The decoding program: its files, its equality with ESPnet's, and what happens to audio that cannot be decoded."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import yaml

from espnet_larm.data.kaldi_dir import read_table

GREEDY = Path(__file__).parents[2] / "conf/decode_ctc_greedy.yaml"
FILES = ("text", "token", "token_int", "score")


@pytest.fixture
def decode(larm_task, tiny_experiment, tmp_path, monkeypatch):
    """Runs the program on the tiny experiment; returns its status and output folder."""
    from espnet_larm.cli.decode import main

    # The program sets the level of the root logger, which later tests shall not see.
    monkeypatch.setattr(logging.getLogger(), "level", logging.getLogger().level)

    def decode(*options, data=tiny_experiment.data, config=tiny_experiment.config, name="out"):
        status = main(
            [
                *(
                    "--data_path_and_name_and_type",
                    f"{data}/wav.scp,speech,sound",
                    "--output_dir",
                    str(tmp_path / name),
                ),
                *("--asr_train_config", str(config), "--asr_model_file", str(tiny_experiment.model)),
                *map(str, options),
            ]
        )
        return status, tmp_path / name

    return decode


@pytest.fixture
def data(tiny_experiment, tmp_path):
    """A copy of the data folder, to be damaged."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_experiment.data, folder)
    scp = folder / "wav.scp"
    scp.write_text(scp.read_text().replace(str(tiny_experiment.data), str(folder)))
    return folder


def keys_of(path):
    return [line.split()[0] for line in path.read_text().splitlines()]


def test_every_loop_and_the_best_are_written_in_the_key_files_order(decode, tiny_experiment, tmp_path):
    keys = list(reversed(keys_of(tiny_experiment.data / "wav.scp")))[:5]
    (tmp_path / "keys").write_text("".join(f"{key} x\n" for key in keys))
    status, out = decode("--key_file", tmp_path / "keys")
    assert status == 0
    for folder in ("1best_recog", "loop2", "loop4"):
        assert [keys_of(out / folder / name) for name in FILES] == [keys] * 4
    assert all((out / "1best_recog" / name).read_bytes() == (out / "loop4" / name).read_bytes() for name in FILES)
    assert not list(out.rglob("*.part"))


def test_files_hold_one_hypothesis_in_four_forms(decode, tiny_experiment):
    _, out = decode()
    text, token, token_int, score = (read_table(out / "loop2" / name) for name in FILES)
    tokens = yaml.safe_load(tiny_experiment.config.read_text())["token_list"]
    for key in text:
        assert token[key].split() == [tokens[int(number)] for number in token_int[key].split()]
        assert text[key] == token[key].replace(" ", "").replace("<space>", " ").strip()
        assert float(score[key]) < 0


def test_n_best_hypotheses_have_folders_and_fall_in_score(decode):
    status, out = decode("--beam_size", 4, "--nbest", 3)
    assert status == 0
    scores = [read_table(out / f"{rank}best_recog" / "score") for rank in (1, 2, 3)]
    for key in scores[0]:
        assert float(scores[0][key]) >= float(scores[1][key]) >= float(scores[2][key])
    assert (out / "1best_recog" / "text").read_bytes() == (out / "loop4" / "text").read_bytes()
    assert not (out / "4best_recog").exists()


def test_statistics_count_audio_and_cost(decode):
    _, out = decode("--num_loops", 6)
    stats = json.loads((out / "stats.json").read_text())
    assert stats["num_utts"] == 7
    assert stats["audio_seconds"] == pytest.approx(sum((9000, 25600, 6400, 16000, 16000, 21111, 12345)) / 16000)
    costs = [stats["loops"][loop]["seconds"] for loop in ("2", "4", "6")]
    # Each has the encoder up to it and its own search: on a machine with other work, a later one may take less.
    assert 0 < stats["feature_seconds"] < min(costs) and max(costs) < stats["wall_seconds"]
    assert stats["peak_memory_bytes"] > 1e8 and stats["skipped"] == stats["failed"] == {}


def test_real_time_factors_are_printed(decode, capsys):
    decode()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 utterances, 6.7 s of audio, 0 not decoded"
    assert [line.split()[0] for line in lines[1:4]] == ["loop", "2", "4"]
    assert "peak memory" in lines[-1]


def test_frames_that_pooling_leaves_are_said(decode, tiny_experiment, tmp_path, capsys):
    inner = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160}
    options = {"frontend_conf": {"frontend_conf": inner, "tau": 0.5}, "frontend": "affinity_pooling"}
    status, out = decode(config=tiny_experiment.with_config(tmp_path / "pooled.yaml", **options))
    frames = json.loads((out / "stats.json").read_text())["frames"]
    assert status == 0 and 0 < frames["left"] < frames["before"]
    assert f"frames left by pooling: {frames['left']} of {frames['before']}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--batch_seconds", "0.1"], ["--batch_size", "2"], ["--num_workers", "0"]])
def test_batches_change_nothing(decode, options):
    _, out = decode()
    _, other = decode(*options, name="other")
    for loop in ("loop2", "loop4"):
        assert (out / loop / "token").read_text() == (other / loop / "token").read_text()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # espnet2.train.iterable_dataset
def test_greedy_config_and_text_of_every_loop_are_espnets(decode, tiny_experiment, tmp_path, monkeypatch):
    # ESPnet writes the greedy text of intermediate checkpoints only. Blocks are shared, so the weights fit a
    # configuration with one checkpoint more, in which the last loop (4) is an intermediate one.
    from espnet2.bin.asr_inference import main

    longer = tiny_experiment.with_config(tmp_path / "longer.yaml", encoder_conf={"num_loops": 6})
    main(
        [
            *("--data_path_and_name_and_type", f"{tiny_experiment.data}/wav.scp,speech,sound", "--num_workers", "0"),
            *("--asr_train_config", str(longer), "--asr_model_file", str(tiny_experiment.model)),
            *("--config", str(GREEDY), "--maxlenratio", "-1", "--output_dir", str(tmp_path / "upstream")),
        ]
    )
    _, out = decode()
    for loop in (2, 4):
        expected = read_table(tmp_path / f"upstream/1best_recog/encoder_interctc_layer{loop}.txt")
        assert read_table(out / f"loop{loop}" / "token") == expected
        assert len(set(expected.values())) == 7


def test_greedy_config_is_understood(decode):
    status, _ = decode("--config", GREEDY)
    assert status == 0


def test_unreadable_audio_is_named_and_the_others_are_written(decode, data, caplog):
    (data / "u1.wav").unlink()
    (data / "u2.wav").write_bytes((data / "u2.wav").read_bytes()[:3000])
    (data / "u3.wav").write_text("no audio")
    status, out = decode(data=data)
    assert status == 1
    assert keys_of(out / "1best_recog" / "text") == ["s0-u0", "s0-u5", "s1-u6", "s4-u4"]
    failed = json.loads((out / "stats.json").read_text())["failed"]
    assert sorted(failed) == ["s1-u1", "s2-u2", "s3-u3"]
    last = caplog.records[-1].getMessage()
    assert "3 of 7 utterances could not be read; the others are in" in last
    assert "u1.wav is missing" in last and "u2.wav is truncated" in last and "u3.wav is no audio" in last


def test_too_short_utterance_is_empty_and_named(decode, data, caplog):
    soundfile.write(data / "u1.wav", [0.1] * 900, 16000)
    status, out = decode(data=data)
    assert status == 0
    texts = read_table(out / "1best_recog" / "text")
    assert texts.pop("s1-u1") == "" and len(texts) == 6 and all(texts.values())
    assert "s1-u1" in json.loads((out / "stats.json").read_text())["skipped"]
    assert "s1-u1: an utterance has 6 frames, fewer than the 7" in caplog.text


def test_without_lengths_beside_it_audio_is_measured(decode, data):
    _, out = decode()
    (data / "utt2num_samples").unlink()
    _, other = decode(data=data, name="other")
    assert (out / "loop4" / "token").read_text() == (other / "loop4" / "token").read_text()


def test_a_folder_that_another_decoding_writes_is_refused(decode, tmp_path):
    hold = (
        "import pathlib, sys; from espnet_larm.files.locks import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(flush=True), sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, tmp_path / "out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BlockingIOError, match=f"out is being written by process {holder.pid} "):
            decode()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
        holder.stdin.close()


def test_wrong_loops_are_refused_before_anything_is_written(decode, tmp_path):
    with pytest.raises(ValueError, match="num_loops is 5; allowed: 2, 4"):
        decode("--num_loops", 5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ctc_weight", "0.0"], "ctc_weight is 0.0, but the model has a CTC head alone"),
        (["--ctc_weight", "1.1"], "ctc_weight is 1.1; allowed: 0 to 1"),
        (
            ["--lm_file", "lm.pth", "--num_loops", "2"],
            "ESPnet's own asr_inference, but --num_loops is an option of ours",
        ),
        (["--seed", "-12"], "seed is -12; allowed: a whole number, 0 to 4294967295"),
        (["--minlenratio=-inf"], "minlenratio is -inf; allowed: a number, 0 or more"),
        (["--lm_weight", "nan"], "lm_weight is nan; allowed: a number"),
        (["--quantize_modules", "Linear", "linear"], "quantize_modules: linear: not in torch.nn; allowed"),
        (["--data_path_and_name_and_type", "text,text,text"], "names speech, text; allowed: speech alone"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode(*options)


def test_wishes_in_yaml_are_refused_too(decode, tmp_path):
    (tmp_path / "beam.yaml").write_text("ctc_weight: 1.5\n")
    with pytest.raises(ValueError, match="ctc_weight is 1.5"):
        decode("--config", tmp_path / "beam.yaml")


def test_a_file_of_options_that_is_none_is_said(decode, tmp_path, capsys):
    for content, message in (
        (b"\xff\xfeb", "no YAML of options in UTF-8"),
        (b"beam_sise: 3\n", "did you mean beam_size"),
    ):
        (tmp_path / "beam.yaml").write_bytes(content)
        with pytest.raises(SystemExit):
            decode("--config", tmp_path / "beam.yaml")
        assert message in capsys.readouterr().err


def test_a_file_where_results_shall_go_is_said(decode, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(NotADirectoryError, match=r"out cannot be a folder: a file has its name|cannot be a folder"):
        decode()


def test_a_weight_of_ctc_changes_nothing_where_nothing_is_beside_it(decode):
    _, plain = decode()
    _, weighted = decode("--ctc_weight", 0.3, name="weighted")
    assert (weighted / "1best_recog/score").read_bytes() == (plain / "1best_recog/score").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["--lm_file", "lm.pth", "--lm_train_config", "lm.yaml"],
        ["--beam_size", "4", "--lm_file", "lm.pth", "--lm_train_config", "multitask.yaml"],
        ["--penalty", "0.1"],
    ],
)
def test_what_ours_cannot_do_is_handed_over_with_all_arguments_and_said(decode, tmp_path, monkeypatch, caplog, options):
    calls = []
    monkeypatch.setattr("espnet2.bin.asr_inference.main", calls.append)
    monkeypatch.chdir(tmp_path)
    Path("multitask.yaml").write_text("model: lm_multitask\n")
    with caplog.at_level(logging.INFO):
        status, out = decode(*options)
    assert status == 0 and not out.exists()
    assert calls[0][-len(options) :] == options and "--asr_model_file" in calls[0]
    assert "ESPnet's own asr_inference takes over." in caplog.text


def test_options_of_ours_in_yaml_are_refused_where_another_program_decodes(decode, tmp_path):
    (tmp_path / "loops.yaml").write_text("num_loops: 2\n")
    with pytest.raises(ValueError, match="penalty is 0.1: .*--num_loops is an option of ours; leave one of both out"):
        decode("--config", tmp_path / "loops.yaml", "--penalty", "0.1")


def test_a_model_with_an_attention_decoder_is_handed_over(decode, tiny_experiment, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("espnet2.bin.asr_inference.main", calls.append)
    hybrid = tiny_experiment.with_config(
        tmp_path / "hybrid.yaml", decoder="transformer", model_conf={"ctc_weight": 0.3}
    )
    assert decode(config=hybrid)[0] == 0 and len(calls) == 1


def test_espnets_recipes_read_the_seconds_of_a_batch_once(decode, caplog):
    """calculate_rtf.py pairs both lines of each utterance and adds up the seconds between them."""
    with caplog.at_level(logging.INFO):
        decode()
    told = [record for record in caplog.records if record.message.startswith(("speech length: ", "best hypo: "))]
    lengths = [int(record.message.partition(": ")[2]) for record in told if record.message.startswith("speech")]
    assert sum(lengths) == sum((9000, 25600, 6400, 16000, 16000, 21111, 12345))
    kinds = [record.message.split()[0] for record in told]
    assert kinds == ["speech", "best"] * 7
    # One batch: the first utterance has its time, and the others none.
    times = [record.created for record in told]
    assert times[1] - times[0] > 10 * (times[13] - times[1])


def test_interrupted_run_leaves_no_statistics(decode, monkeypatch):
    _, out = decode()

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("espnet_larm.recognize.recognizer.Recognizer.decode", stop)
    with pytest.raises(KeyboardInterrupt):
        decode("--num_workers", 0)
    assert not (out / "stats.json").exists()


def test_times_of_words_are_write_beside_the_text(decode):
    _, out = decode("--write_ctm", "true")
    texts = read_table(out / "loop2" / "text")
    words = {}
    for line in (out / "loop2" / "ctm").read_text().splitlines():
        key, channel, start, duration, word, confidence = line.split()
        words.setdefault(key, []).append(word)
        assert channel == "1" and float(start) >= 0 and float(duration) > 0 and 0 <= float(confidence) <= 1
    assert {key: " ".join(found) for key, found in words.items()} == {key: text for key, text in texts.items() if text}
    assert (out / "loop4" / "ctm").read_bytes() == (out / "1best_recog" / "ctm").read_bytes()
    assert json.loads((out / "stats.json").read_text())["word_seconds"] > 0


def test_times_of_words_are_those_of_the_best_hypotheses_of_a_beam(decode):
    _, out = decode("--write_ctm", "true", "--beam_size", "3", "--nbest", "2")
    words = [line.split()[4] for line in (out / "1best_recog" / "ctm").read_text().splitlines()]
    texts = read_table(out / "1best_recog" / "text")
    assert words == [word for key in keys_of(out / "1best_recog" / "text") for word in texts[key].split()]
    assert (out / "loop2" / "ctm").is_file() and not (out / "2best_recog" / "ctm").exists()


def test_times_of_words_are_not_written_unless_they_are_asked_for(decode):
    _, out = decode()
    assert not list(out.rglob("*ctm*"))


def test_long_audio_is_cut_and_named(decode, data, caplog):
    options = ("--long_seconds", "1.2", "--longest_piece", "1.0", "--shortest_piece", "0.3", "--overlap", "0.3")
    (data / "utt2num_samples").unlink()
    (data / "u0.wav").write_bytes((data / "u0.wav").read_bytes()[:3000])
    status, out = decode(*options, data=data)
    assert status == 1
    stats = json.loads((out / "stats.json").read_text())
    assert stats["cut"] == ["s0-u5", "s1-u1"] and stats["num_utts"] == 6 and list(stats["failed"]) == ["s0-u0"]
    assert "s1-u1 has 0.0 minutes: it is cut at silences" in caplog.text
    _, other = decode(data=data, name="other")
    found, whole = (read_table(folder / "loop4" / "text") for folder in (out, other))
    assert list(found) == list(whole)
    assert [key for key in found if found[key] != whole[key]] == ["s0-u5", "s1-u1"]


def test_long_audio_that_cannot_be_read_to_its_end_is_named(decode, data):
    # utt2num_samples promises more than there is.
    (data / "u1.wav").write_bytes((data / "u1.wav").read_bytes()[:3000])
    _, out = decode("--long_seconds", "1.2", data=data)
    stats = json.loads((out / "stats.json").read_text())
    assert "u1.wav is truncated" in stats["failed"]["s1-u1"] and stats["num_utts"] == 6


def test_impossible_pieces_are_refused(decode):
    with pytest.raises(ValueError, match="longest_piece is 5; allowed: at least shortest_piece and twice overlap"):
        decode("--longest_piece", "5")


@pytest.fixture
def num_decoded(monkeypatch):
    """Utterances of each batch that a recogniser was given; a third batch is interrupted where it is asked for."""
    from espnet_larm.recognize.recognizer import Recognizer

    sizes, decode = [], Recognizer.decode

    def counting(recognizer, waveforms, config):
        if counting.stops_at == len(sizes):
            raise KeyboardInterrupt
        sizes.append(len(waveforms))
        return decode(recognizer, waveforms, config)

    counting.stops_at = None
    monkeypatch.setattr(Recognizer, "decode", counting)
    counting.sizes = sizes
    return counting


def test_the_same_command_goes_on_behind_an_interruption(decode, num_decoded, tmp_path):
    options = ("--batch_size", 2, "--beam_size", 3, "--nbest", 2, "--write_ctm", "true")
    decode(*options, name="whole")
    num_decoded.sizes.clear()
    num_decoded.stops_at = 2
    with pytest.raises(KeyboardInterrupt):
        decode(*options)
    assert not list((tmp_path / "out").rglob("text"))
    with (tmp_path / "out/finished.jsonl").open("a") as file:
        file.write('[{"torn": [')
    num_decoded.stops_at = None
    status, out = decode(*options)
    assert status == 0 and sum(num_decoded.sizes) == 7 and not (out / "finished.jsonl").exists()
    whole, resumed = (
        {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", out)
    )
    stats, expected = (json.loads(files.pop(Path("stats.json"))) for files in (resumed, whole))
    assert resumed == whole
    assert all(stats[name] == expected[name] for name in ("num_utts", "audio_seconds", "skipped", "few_hypotheses"))


@pytest.mark.parametrize("changes", [("--beam_size", 2), ("--num_loops", 2), ("--seed", 1)])
def test_batches_of_another_decoding_are_not_taken(decode, num_decoded, changes):
    num_decoded.stops_at = 2
    with pytest.raises(KeyboardInterrupt):
        decode("--batch_size", 2)
    num_decoded.stops_at = None
    status, out = decode("--batch_size", 2, *changes)
    assert status == 0 and sum(num_decoded.sizes) == 4 + 7 and not (out / "finished.jsonl").exists()


def test_mended_audio_alone_is_decoded_when_the_command_is_repeated(decode, num_decoded, data):
    audio = Path(read_table(data / "wav.scp")["s3-u3"])
    good = audio.read_bytes()
    audio.write_bytes(good[: len(good) // 2])
    status, out = decode("--batch_size", 2, data=data)
    assert status == 1 and "s3-u3" not in read_table(out / "1best_recog/text")
    audio.write_bytes(good)
    num_decoded.sizes.clear()
    status, _ = decode("--batch_size", 2, data=data)
    assert status == 0 and sum(num_decoded.sizes) <= 2
    assert list(read_table(out / "1best_recog/text")) == keys_of(data / "wav.scp")


def test_read_outs_of_an_earlier_decoding_are_gone(decode):
    _, out = decode("--beam_size", 3, "--nbest", 2)
    assert (out / "loop4").is_dir() and (out / "2best_recog").is_dir()
    (out / "notes").mkdir()
    status, _ = decode("--num_loops", 2)
    assert status == 0 and sorted(path.name for path in out.glob("*/")) == ["1best_recog", "loop2", "notes"]


def test_a_model_decodes_in_bfloat16(decode):
    status, out = decode("--dtype", "bfloat16")
    assert status == 0 and (out / "1best_recog/score").is_file()
    assert not json.loads((out / "stats.json").read_text())["failed"]


def test_utterances_without_finite_scores_fail_with_a_reason(decode, tiny_experiment, tmp_path):
    import torch

    weights = torch.load(tiny_experiment.model)
    weights["encoder.subsampling_norm.weight"].fill_(3e38)
    torch.save(weights, tmp_path / "large.pth")
    status, out = decode("--asr_model_file", tmp_path / "large.pth")
    failed = json.loads((out / "stats.json").read_text())["failed"]
    assert status == 1 and len(failed) == 7
    assert set(failed.values()) == {"the model's scores are no finite numbers; with a half type, take --dtype float32"}
    assert (out / "1best_recog/text").read_text() == ""


def test_pieces_that_are_all_too_short_are_said(decode, caplog):
    options = ("--long_seconds", 0.5, "--longest_piece", 0.05, "--shortest_piece", 0.01, "--overlap", 0.01)
    status, out = decode(*options)
    skipped = json.loads((out / "stats.json").read_text())["skipped"]
    assert status == 0 and len(skipped) == 6
    assert all("pieces are left out, the first since" in reason for reason in skipped.values())
