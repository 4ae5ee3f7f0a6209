#!/usr/bin/env python3
"""Writes an LM of 30 million random weights, the shape of decoding.py --random, with the tokenizer of another one.

For trainings that are to be timed at that size; `adaptation: full` learns it. Its vocabulary has 8000 rows, of which
the tokenizer's tokens are the first.

    cd egs/mini && python ../../tools/bench/random_lm.py --tokenizer exp/lm_train_lm --output_dir exp/lm_30m
    ./run_llm.sh --hugging_face_model_name_or_path exp/lm_30m --lm_train_text "" --lm_config "" \
        --asr_config conf/mini/train_llm_30m.yaml --pretrained_model <experiment of run_llm.sh>/latest.pth:::decoder
"""

from pathlib import Path

import torch
from benching import new_parser
from decoding_inputs import RANDOM_LM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Write the folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--tokenizer", required=True, help="folder or hub id of an LM with at most 8000 tokens")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write the LM to")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    if len(tokenizer) > RANDOM_LM["vocab_size"]:
        raise SystemExit(f"{args.tokenizer} has {len(tokenizer)} tokens; allowed: {RANDOM_LM['vocab_size']} at most.")
    options = {name: value for name, value in RANDOM_LM.items() if name != "model_type"}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(RANDOM_LM["model_type"], **options, **special))
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"{args.output_dir}: {sum(one.numel() for one in model.parameters()) / 1e6:.1f} M random weights")


if __name__ == "__main__":
    main()
