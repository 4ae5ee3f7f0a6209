"""A small draw of tools/wrong_audio.py: damaged recordings are refused in a sentence, or lose nothing."""

import collections
import random

from wrong_audio import BAD, judge, made_recordings


def test_damaged_recordings_are_named_or_lose_nothing():
    generator = random.Random(20261201)  # no secret
    answers = collections.defaultdict(list)
    with made_recordings() as recordings:
        for _ in range(100):
            file = recordings.draw(generator)
            answers[judge(file.expected, recordings.reader.read(file.source))].append((file.form, file.what))
    assert {kind: answers[kind] for kind in BAD} == {kind: [] for kind in BAD}
    assert answers["whole"] and len(answers["named"]) > 20
