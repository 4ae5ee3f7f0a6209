"""The effective batch."""

from types import SimpleNamespace

from espnet_larm.train.batches.epoch import describe_batches


def factory(batches, num_iters_per_epoch=None):
    return SimpleNamespace(sampler=SimpleNamespace(batches=batches), num_iters_per_epoch=num_iters_per_epoch)


def processes(count):
    return SimpleNamespace(distributed=count > 1, dist_world_size=count if count > 1 else None)


def test_effective_batch_counts_processes_and_accumulation():
    said = describe_batches(factory([["a"], ["b", "c", "d"]] * 4), 2, processes(3))
    assert said == (
        "Effective batch: 12.0 utterances on average (batches of 1 to 3 x 3 process(es) x accum_grad 2), "
        "4 steps an epoch"
    )


def test_steps_follow_the_iterations_of_an_epoch():
    assert describe_batches(factory([["a"]] * 100, 10), 2, processes(1)).endswith("5 steps an epoch")


def test_iterator_without_a_list_of_batches_is_described_in_words():
    said = describe_batches(SimpleNamespace(), 4, processes(1))
    assert said == "Effective batch: 1 process(es) x accum_grad 4 x the iterator's batch"
