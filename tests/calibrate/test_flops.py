"""FLOPs of prompts from shapes, beside torch's count."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_larm.adaptation.depth_upscaling import wrap
from espnet_larm.calibrate.flops import by_layer, prefill_flops
from espnet_larm.llm.backbone import Backbone
from espnet_larm.pooling.deep import pool_deep
from espnet_larm.pooling.options import Pooling

LLAMA = {
    "model_type": "llama",
    "vocab_size": 30,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TEXT, SPEECH = 3, 10


def counted(backbone, after_layer):
    """What torch counts of two prompts, a text of 3 with a speech of 10 in it."""
    embeddings, lens = torch.randn(2, TEXT + SPEECH, 24), torch.tensor([TEXT + SPEECH] * 2)
    speech = torch.zeros(2, TEXT + SPEECH, dtype=torch.bool)
    speech[:, 2 : 2 + SPEECH] = True
    positions = torch.arange(TEXT + SPEECH).expand(2, -1)
    # Attention in products that are counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        stream = backbone(embeddings, positions, lens, speech, after_layer=after_layer)
        backbone.logits(stream.hidden[:, -1:])
    # Those of the rotary embedding's angles, which are no layer's.
    rotary = counter.get_flop_counts().get("LlamaRotaryEmbedding", {})
    return counter.get_total_flops() - sum(rotary.values()), int(stream.lens.sum()) - 2 * TEXT


@pytest.mark.parametrize("added", [None, "standard", "e_branchformer"])
@pytest.mark.parametrize("retention", [1.0, 0.4])
def test_shapes_give_what_torch_counts(added, retention):
    backbone = Backbone.from_config(LLAMA).eval()
    if added:
        wrap(backbone, {"layer": added, "num_layers": 2})
    pooling = Pooling(method="stride", retention=retention)
    found, left = counted(backbone, {0: partial(pool_deep, pooling)})
    assert left == 2 * SPEECH * retention
    text, speech = torch.tensor([TEXT] * 2), torch.tensor([SPEECH] * 2)
    lens = by_layer(4, speech, 1, torch.tensor([left // 2] * 2))
    assert prefill_flops(backbone, text, *lens).total == found


def test_layers_in_front_of_deep_pooling_cost_what_they_did():
    backbone = Backbone.from_config(LLAMA)
    text, speech = torch.tensor([3, 2]), torch.tensor([10, 7])
    full = prefill_flops(backbone, text, *by_layer(4, speech))
    deep = prefill_flops(backbone, text, *by_layer(4, speech, 3, speech // 2))
    assert deep.layers[:3] == full.layers[:3] and deep.layers[3] < full.layers[3] and deep.head == full.head


def test_rows_add_up():
    backbone = Backbone.from_config(LLAMA)
    text, speech = torch.tensor([3, 2]), torch.tensor([10, 7])
    alone = [prefill_flops(backbone, text[[row]], *by_layer(4, speech[[row]])).total for row in range(2)]
    assert prefill_flops(backbone, text, *by_layer(4, speech)).total == sum(alone)
