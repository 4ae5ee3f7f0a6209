"""Tasks of lm-eval, the EleutherAI Language Model Evaluation Harness, on an LM with what was added to it."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_larm.adaptation.export import save_for_text
from espnet_larm.llm.backbone import Backbone

# Those of Yano et al., arXiv:2604.00489.
PAPER_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "mmlu")


def check_installed() -> None:
    """Refuse before anything is computed.

    Raises:
        ImportError: lm-eval is missing.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ImportError('--lm_eval_tasks needs lm-eval: pip install "espnet-larm[lm-eval]"')


def run_tasks(
    backbone: Backbone, tokenizer: Any, folder: Path, tasks: Sequence[str], batch_size: int, device: str
) -> dict[str, Any]:
    """Save the LM to `folder` as Hugging Face loads it, and give lm-eval's results by task."""
    import lm_eval

    save_for_text(backbone, folder)
    tokenizer.save_pretrained(folder)
    options = {"pretrained": str(folder), "dtype": str(backbone.dtype).removeprefix("torch.")}
    found = lm_eval.simple_evaluate(
        model="hf", model_args=options, tasks=list(tasks), batch_size=batch_size, device=device
    )
    return dict(found["results"])
