"""A text LM of ESPnet's that rescores CTC's beam: its scores, what it changes, and what is refused."""

import math

import pytest
import torch
import yaml

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recognize.config import DecodeConfig

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
LMS = {
    "transformer": {"lm": "transformer", "lm_conf": {"embed_unit": 8, "att_unit": 16, "unit": 16, "layer": 2}},
    "seq_rnn": {"lm": "seq_rnn", "lm_conf": {"unit": 16, "nlayers": 1}},
}


@pytest.fixture
def save_lm(larm_task, tmp_path):
    """Writes config.yaml and weights of an untrained LM; gives the options of decoding that name them."""
    from espnet2.tasks.lm import LMTask

    def save(kind="transformer", tokens=TOKENS, **config):
        (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
        (tmp_path / "options.yaml").write_text(yaml.safe_dump(LMS[kind] | {"token_type": "char"}))
        options = ["--config", str(tmp_path / "options.yaml"), "--token_list", str(tmp_path / "tokens.txt")]
        args = LMTask.get_parser().parse_args([*options, "--output_dir", str(tmp_path)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LMTask.build_model(args)
            for parameter in model.parameters():
                parameter.data += 0.5 * torch.randn_like(parameter)
        torch.save(model.state_dict(), tmp_path / "lm.pth")
        (tmp_path / "lm.yaml").write_text(yaml.safe_dump(vars(args) | config))
        return {"lm_train_config": str(tmp_path / "lm.yaml"), "lm_file": str(tmp_path / "lm.pth")}

    return save


@pytest.fixture
def recognizer(larm_task, tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    found = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)
    # Posteriors that leave an LM a say.
    with torch.no_grad():
        found.model.ctc.ctc_lo.weight.mul_(0.3)
    return found


@pytest.fixture
def waveforms(tiny_experiment):
    return [read_audio(path).samples for path in read_table(tiny_experiment.data / "wav.scp").values()]


def nbests(recognizer, waveforms, **options):
    config = DecodeConfig(**{"beam_size": 8, "nbest": 8, **options})
    found = recognizer.recognize(waveforms, recognizer.plan(config))
    return [{tuple(each.token_ids): each.score for each in (one.best, *one.others)} for one in found]


@pytest.mark.parametrize("kind", sorted(LMS))
def test_a_sentence_has_the_score_of_espnets_own_scorer_and_a_batch_that_of_each_alone(recognizer, save_lm, kind):
    rescorer = recognizer.plan(DecodeConfig(beam_size=2, **save_lm(kind))).rescorer
    lm, sos = rescorer.model.lm, rescorer.model.sos
    # More than the 100 that are scored together.
    texts = [[], [3], [4, 5, 2, 3], *([3 + index % 8] * (index % 5) for index in range(120))]
    found = rescorer.log_probs(texts)
    for text, score in zip(texts[:8], found, strict=False):
        prefix, state, total = [sos], None, 0.0
        with torch.no_grad():
            for token in (*text, sos):
                log_probs, state = lm.score(torch.tensor(prefix), state, torch.zeros(1, 1))
                total += float(log_probs[token])
                prefix.append(token)
        assert score == pytest.approx(total, abs=1e-4)
    assert found == pytest.approx([rescorer.log_probs([text])[0] for text in texts], abs=1e-4)


def test_scores_are_those_of_espnets_own_program(recognizer, waveforms, save_lm, tiny_experiment, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    options = save_lm()
    torch.save(recognizer.model.state_dict(), tmp_path / "soft.pth")
    files = {"asr_train_config": str(tiny_experiment.config), "asr_model_file": str(tmp_path / "soft.pth")}
    # With a beam as wide as the tokens are many, ESPnet's would go on behind blanks. Ours has room for all alignments.
    espnets = Speech2Text(**files, **options, ctc_weight=1.0, lm_weight=0.4, beam_size=8, nbest=5)
    short = waveforms[2][:4800]
    with torch.no_grad():
        best, _ = espnets(short)
    theirs = {tuple(hypothesis.yseq.tolist()[1:-1]): float(hypothesis.score) for *_, hypothesis in best}
    ours = nbests(recognizer, [short], beam_size=2000, nbest=2000, lm_weight=0.4, **options)[0]
    assert len(theirs) == 5 and next(iter(ours)) == next(iter(theirs))
    for tokens, score in theirs.items():
        assert ours[tokens] == pytest.approx(score, abs=2e-3)


def test_the_lm_adds_its_share_to_the_beams_scores_and_reorders_it(recognizer, waveforms, save_lm):
    plan = recognizer.plan(DecodeConfig(beam_size=8, nbest=8, lm_weight=0.7, **save_lm()))
    plain = nbests(recognizer, waveforms)
    heard = nbests(recognizer, waveforms, lm_weight=0.7, **save_lm())
    assert [next(iter(each)) for each in heard] != [next(iter(each)) for each in plain]
    for before, after in zip(plain, heard, strict=True):
        assert set(before) == set(after)
        assert list(after.values()) == sorted(after.values(), reverse=True)
        scores = dict(zip(before, plan.rescorer.log_probs(list(before)), strict=True))
        for tokens, score in after.items():
            assert score == pytest.approx(before[tokens] + 0.7 * scores[tokens], abs=1e-5)


def test_a_batch_is_rescored_as_each_utterance_alone(recognizer, waveforms, save_lm):
    options = save_lm()
    together = nbests(recognizer, waveforms, **options)
    for waveform, one in zip(waveforms, together, strict=True):
        (alone,) = nbests(recognizer, [waveform], **options)
        assert list(alone) == list(one)
        assert list(alone.values()) == pytest.approx(list(one.values()), abs=1e-3)


def test_a_weight_of_nothing_changes_nothing_and_the_best_of_the_whole_beam_is_kept(recognizer, waveforms, save_lm):
    options = save_lm()
    assert nbests(recognizer, waveforms, lm_weight=0.0, **options) == nbests(recognizer, waveforms)
    whole, first = (nbests(recognizer, waveforms, nbest=nbest, **options) for nbest in (8, 1))
    assert [list(each.items())[:1] for each in whole] == [list(each.items()) for each in first]


def test_lms_that_would_mean_nothing_are_refused(recognizer, save_lm, tmp_path):
    options = save_lm()

    def refused(message, error=ValueError, **changed):
        with pytest.raises(error, match=message):
            recognizer.plan(DecodeConfig(**{"beam_size": 4, **options, **changed}))

    refused("beam_size is 1, which is greedy; set beam_size: 10", beam_size=1)
    refused("lm_file is .*lm.pth, which needs lm_train_config", lm_train_config=None)
    refused("lm_train_config is .*lm.yaml, which needs lm_file", lm_file=None)
    refused("x.pth is missing; --lm_file is the LM's weights", FileNotFoundError, lm_file=str(tmp_path / "x.pth"))
    refused("x.yaml is missing", FileNotFoundError, lm_train_config=str(tmp_path / "x.yaml"))
    refused("lm_weight is nan", lm_weight=math.nan)
    (tmp_path / "x.yaml").write_text("token_type: char\n")
    refused("x.yaml holds no token_list", lm_train_config=str(tmp_path / "x.yaml"))
    save_lm(model="lm_multitask")
    refused("has model: lm_multitask; allowed: lm")
    save_lm("seq_rnn")
    torch.save({"lm.x": torch.zeros(1)}, tmp_path / "lm.pth")
    refused(r"lm.pth is not a checkpoint of .*lm.yaml \(lm\.")
    save_lm(tokens=[*TOKENS[:-1], "I", "<sos/eos>"])
    refused(r"the LM has 13 tokens, and they are not the CTC head's 12 \(I is in one alone\)")
    save_lm(tokens=[*TOKENS[:3], *"BACDEFGH", "<sos/eos>"])
    refused("their order differs")
