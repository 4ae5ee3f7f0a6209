"""CTC losses of some classes alone."""

import torch

from espnet_larm.speech_llm.losses.ctc import ctc_losses, ctc_losses_of_some


def test_some_classes_give_the_loss_of_all():
    """Value and gradient in the logits of all classes, also of those that are not handed on."""
    logits = torch.randn(3, 9, 7).double().requires_grad_()
    lens, target_lens = torch.tensor([9, 5, 6]), torch.tensor([4, 2, 0])
    targets, weights = torch.tensor([[1, 2, 2, 1], [2, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([1.0, 3.0, 0.5])
    log_probs = logits.log_softmax(-1)
    expected = ctc_losses(log_probs, targets, lens, target_lens)
    found = ctc_losses_of_some(log_probs[..., :3], targets, lens, target_lens)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weights * one).sum(), logits, retain_graph=True)[0] for one in (expected, found)]
    torch.testing.assert_close(*gradients)
    assert gradients[0][0, :, 5].all() and not gradients[1][1, 5:].any()
