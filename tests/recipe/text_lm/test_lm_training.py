"""A small Llama from text: what it learns, and that nothing but the options decides what becomes of it."""

import copy
import random

import pytest
import torch
import transformers

from espnet_larm.llm.packing import PackedText, pack_sentences, whole_blocks
from espnet_larm.recipe.corpora.sentences import make_sentence
from espnet_larm.recipe.text_lm.options import ModelSize, Schedule, check_options
from espnet_larm.recipe.text_lm.perplexity import measure_perplexity
from espnet_larm.recipe.text_lm.training import make_config, train_llama, train_tokenizer

SIZE = ModelSize(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=24, max_positions=64)
SCHEDULE = Schedule(block_size=16, batch_size=4, max_steps=9, lr=1e-2, warmup_steps=2)
SENTENCES = [make_sentence(random.Random(index)) for index in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, vocab_size=80, max_positions=64)


@pytest.fixture(scope="module")
def text(tokenizer):
    return pack_sentences(tokenizer, SENTENCES)


def train(tokenizer, text, folder, schedule=SCHEDULE, should_stop=lambda: False, measure=lambda _: "not measured"):
    blocks = whole_blocks(text, schedule.block_size)
    return train_llama(make_config(SIZE, tokenizer), blocks, schedule, folder, 3, False, measure, should_stop)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Killed(BaseException):
    """What no program catches."""


def after(num_steps, action):
    """A should_stop that acts once so many steps are done."""
    seen = []

    def should_stop():
        seen.append(1)
        return action() if len(seen) == num_steps else False

    return should_stop


def kill():
    raise Killed


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one(tokenizer, text, tmp_path):
    undisturbed = weights(train(tokenizer, text, tmp_path / "a"))
    with pytest.raises(Killed):
        train(tokenizer, text, tmp_path / "b", should_stop=after(8, kill))
    assert (tmp_path / "b/checkpoint-6").is_dir()
    # As a kill in the middle of a save leaves it: a file is short, the mark is there or not.
    (tmp_path / "b/checkpoint-7").mkdir()
    (tmp_path / "b/checkpoint-6/optimizer.pt").write_bytes(b"short")
    torch.manual_seed(5)
    resumed = train(tokenizer, text, tmp_path / "b")
    assert torch.equal(weights(resumed), undisturbed)
    assert not (tmp_path / "b/checkpoint-7").exists()


@pytest.mark.slow
def test_a_training_killed_behind_its_last_checkpoint_is_done(tokenizer, text, tmp_path):
    undisturbed = weights(train(tokenizer, text, tmp_path / "a"))
    calls = []

    def measure(_model):
        calls.append(1)
        if len(calls) == 3:
            kill()

    with pytest.raises(Killed):
        train(tokenizer, text, tmp_path / "b", measure=measure)
    assert torch.equal(weights(train(tokenizer, text, tmp_path / "b")), undisturbed)


@pytest.mark.slow
def test_a_stopped_training_has_saved_and_ends_as_an_undisturbed_one(tokenizer, text, tmp_path):
    undisturbed = weights(train(tokenizer, text, tmp_path / "a"))
    assert train(tokenizer, text, tmp_path / "b", should_stop=after(5, lambda: True)) is None
    assert (tmp_path / "b/checkpoint-5").is_dir()
    steps = []
    resumed = train(tokenizer, text, tmp_path / "b", should_stop=lambda: steps.append(1))
    assert len(steps) == 4 and torch.equal(weights(resumed), undisturbed)


def test_the_loss_of_a_short_training_is_logged(tokenizer, text, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train(tokenizer, text, tmp_path / "a", SCHEDULE._replace(max_steps=2))
    assert "step 2/2: loss " in caplog.text and "loss nan" not in caplog.text


@pytest.mark.slow
def test_a_seed_decides_the_weights(tokenizer, text, tmp_path):
    once, again = (weights(train(tokenizer, text, tmp_path / name)) for name in "ab")
    other = weights(train(tokenizer, text, tmp_path / "c", SCHEDULE._replace(seed=1)))
    assert torch.equal(once, again) and not torch.equal(once, other)


@pytest.mark.slow
def test_a_trained_lm_beats_the_frequencies_of_tokens_on_text_it_has_not_seen(tokenizer, text, tmp_path):
    schedule = SCHEDULE._replace(max_steps=120)
    measured = []
    valid = pack_sentences(tokenizer, [make_sentence(random.Random(index)) for index in range(1000, 1050)])
    counts = torch.bincount(text.tokens.long(), minlength=len(tokenizer)) + 1
    by_frequency = (-(counts / counts.sum()).log()[valid.tokens.long()]).mean().exp()
    model = train(tokenizer, text, tmp_path, schedule, measure=lambda model: measured.append(measure(model, valid)))
    assert measure(model, valid) == measured[-1] < measured[0] and not model.training
    assert measured[-1] < 0.7 * by_frequency


def measure(model, text):
    return measure_perplexity(model, text, block_size=16).per_token


@pytest.fixture
def random_llama(tokenizer):
    config = make_config(SIZE, tokenizer)
    config.initializer_range = 0.5
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize(("block_size", "num_blocks", "num_read"), [(16, 0, 90), (16, 2, 32), (99, 0, 90)])
def test_perplexity_is_that_of_the_logits(tokenizer, text, random_llama, block_size, num_blocks, num_read):
    part = PackedText(text.tokens[:90], lens=[45, 45], num_sentences=2, num_words=28, num_unknown=0)
    found = measure_perplexity(random_llama.train(), part, block_size, num_blocks, batch_size=2)
    losses = []
    for block in part.tokens[:num_read].split(block_size):
        with torch.no_grad():
            logits = random_llama(input_ids=block.long().unsqueeze(0)).logits[0]
        for position in range(len(block) - 1):
            probabilities = logits[position].double().softmax(dim=0)
            losses.append(-probabilities[block[position + 1]].log())
    mean = torch.stack(losses).mean()
    assert found.num_tokens == len(losses) == num_read - len(part.tokens[:num_read].split(block_size))
    assert found.per_token == pytest.approx(mean.exp().item(), rel=1e-5)
    assert found.per_word == pytest.approx((mean * 90 / 30).exp().item(), rel=1e-5)
    assert random_llama.training


def test_sentences_are_packed_with_starts_and_ends(tokenizer):
    text = pack_sentences(tokenizer, ["SET AN ALARM", "CALL ANNA"])
    assert tokenizer.decode(text.tokens) == "<s> SET AN ALARM</s><s> CALL ANNA</s>"
    assert (text.num_sentences, text.num_words, text.num_unknown) == (2, 5, 0)
    blocks = whole_blocks(text, 4)
    assert blocks.size(1) == 4 and torch.equal(blocks.flatten(), text.tokens[: blocks.numel()])


def test_one_token_may_begin_and_end_texts_and_be_named_for_the_unknown(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = tokenizer.unk_token = "</s>"
    text = pack_sentences(tokenizer, ["SET AN ALARM", "CALL ANNA"])
    assert tokenizer.decode(text.tokens) == "</s> SET AN ALARM</s></s> CALL ANNA</s>"
    assert text.num_unknown == 0 and sum(text.lens) == len(text.tokens) and len(text.lens) == 2
    with pytest.raises(ValueError, match="holds </s>, which is a special token"):
        pack_sentences(tokenizer, ["CALL ANNA", "CALL </s>"])


def test_a_text_that_cannot_be_packed_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"cannot spell the text: \d+ of \d+ tokens are unknown, first in 'call anna'"):
        pack_sentences(tokenizer, ["CALL ANNA", "call anna"])
    with pytest.raises(ValueError, match="holds </s>, which is a special token of the tokenizer, in 'CALL </s>'"):
        pack_sentences(tokenizer, ["CALL ANNA", "CALL </s>"])
    with pytest.raises(ValueError, match="less than one block of --block_size 99"):
        whole_blocks(pack_sentences(tokenizer, ["CALL ANNA"]), 99)


def test_a_few_unknown_characters_are_counted(tokenizer):
    assert pack_sentences(tokenizer, [*SENTENCES, "CALL \u00c9VE"]).num_unknown == 1


def test_a_vocabulary_holds_the_characters_at_least():
    with pytest.raises(ValueError, match=r"--vocab_size 7 is too small: the text has 3 characters, .* makes 8"):
        train_tokenizer(["AB", "BC A"], 7, 64)
    assert len(train_tokenizer(["AB", "BC A"], 8, 64)) == 8


def test_the_tokenizer_is_made_as_ready_ones_are(tokenizer):
    names = ["<unk>", "<s>", "</s>", "<pad>"]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == names
    assert [tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == names
    ids = tokenizer.encode(SENTENCES[0])
    assert not {*ids} & {0, 1, 2, 3} and tokenizer.decode(ids) == SENTENCES[0]


@pytest.mark.parametrize(
    ("size", "schedule", "message"),
    [
        ({"hidden_size": 100}, {}, r"--hidden_size 100 is no multiple of 2 \* --num_heads 6"),
        ({"num_kv_heads": 4}, {}, "--num_heads 6 is no multiple of --num_kv_heads 4"),
        ({"num_layers": 0}, {}, "--num_layers 0 must be above 0"),
        ({}, {"block_size": 2048}, "--block_size 2048; allowed: 2 to --max_positions 1024"),
        ({}, {"lr": -1.0}, "--lr -1.0 must be above 0"),
        ({}, {"num_epochs": 0.0}, "--num_epochs 0.0 must be above 0 where --max_steps is not given"),
    ],
)
def test_impossible_options_are_refused(size, schedule, message):
    with pytest.raises(ValueError, match=message):
        check_options(ModelSize(**size), Schedule(**schedule))
