"""Two processes share the training set: over an epoch, each utterance is trained on once, by one of them.

ESPnet makes batches as for one process, and process n of N takes every Nth utterance of each, from the nth on.
"""

from collections import Counter

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.slow

TOO_SHORT = 100


@pytest.fixture
def data(tmp_path):
    """Writes utterances of so many samples; returns the options that name them and their shapes, and their ids."""

    def data(lengths):
        random = np.random.default_rng(0)
        ids = [f"u{number:02}" for number in range(len(lengths))]
        for key, length in zip(ids, lengths, strict=True):
            soundfile.write(tmp_path / f"{key}.wav", random.uniform(-0.5, 0.5, length), 16000)
        columns = {
            "wav.scp": [f"{tmp_path}/{key}.wav" for key in ids],
            "text": ["".join(random.choice(list("ABC"), 3)) for _ in ids],
            "speech_shape": lengths,
            "text_shape": ["3,7"] * len(ids),
        }
        for name, values in columns.items():
            lines = (f"{key} {value}\n" for key, value in zip(ids, values, strict=True))
            (tmp_path / name).write_text("".join(lines))
        words = []
        for named in ("wav.scp,speech,sound", "text,text,text"):
            words += ["--train_data_path_and_name_and_type", f"{tmp_path}/{named}"]
        for named in ("speech_shape", "text_shape"):
            words += ["--train_shape_file", f"{tmp_path}/{named}"]
        return words, ids

    return data


@pytest.fixture
def read(trainings, tmp_path):
    """Trains with two processes, and returns the batches of each."""

    def read(*options):
        folder = tmp_path / "run"
        options = ("--accum_grad", "1", "--valid_batch_type", "unsorted", *options)
        status = trainings.run(folder, *options, num_processes=2, records=True, train_data=())
        assert status == 0, trainings.log(folder)
        return [trainings.read(folder, rank) for rank in (0, 1)]

    return read


def count(batches):
    return Counter(key for batch in batches for key in batch)


@pytest.mark.parametrize("num_utterances", [9, 10, 11])
def test_batches_of_like_size_have_each_utterance_once_an_epoch(data, read, num_utterances):
    words, ids = data([8000 + 10 * number for number in range(num_utterances)])
    # Three utterances a batch. The tenth would be a batch of one, which two processes cannot share: it joins another.
    by_rank = read(*words, "--batch_type", "numel", "--batch_bins", "18000", "--max_epoch", "2")
    one, other = by_rank
    assert len(one) == len(other) == 2 * (4 if num_utterances == 11 else 3)
    for epoch in (slice(len(one) // 2), slice(len(one) // 2, None)):
        assert count(one[epoch]) + count(other[epoch]) == Counter(ids)


def test_short_epochs_have_each_utterance_once_a_pass(data, read):
    words, ids = data([8000 + 10 * number for number in range(10)])
    options = ["--batch_type", "numel", "--batch_bins", "18000", "--num_iters_per_epoch", "2", "--max_epoch", "3"]
    one, other = read(*words, *options)
    assert len(one) == len(other) == 6
    # Three batches are a pass.
    for batches in (slice(3), slice(3, None)):
        assert count(one[batches]) + count(other[batches]) == Counter(ids)


def test_a_batch_that_one_process_leaves_out_costs_the_other_its_last(data, read):
    lengths = [8000] * 10
    # The second utterance of a batch of two, which is all that the second process has of it.
    lengths[5] = TOO_SHORT
    words, ids = data(lengths)
    one, other = read(*words, "--batch_type", "unsorted", "--batch_size", "2", "--max_epoch", "1")
    assert len(one) == len(other) == 4
    assert count(other) == Counter(ids[1::2]) - Counter([ids[5]])
    assert not count(one) - Counter(ids[::2])
