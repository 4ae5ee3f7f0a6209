"""The table of commands: what `espnet-larm` runs, and what runs in place of ESPnet's programs. Imports nothing slow."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Its module, which has a `main`.
        sentence: What it does, for `espnet-larm --help`.
        is_run_as_program: It starts processes that must find it as their `__main__`.
    """

    module: str
    sentence: str
    is_run_as_program: bool = False


_RECIPE = "espnet_larm.recipe"
COMMANDS: dict[str, Command] = {
    "list": Command("espnet_larm.cli.list_plugins", "list every plugin with its options, their ranges and defaults"),
    "doctor": Command("espnet_larm.cli.doctor", "say what is installed, what is missing, and how to mend it"),
    "init-recipe": Command(f"{_RECIPE}.init_recipe", "make a recipe folder for a corpus or your own recordings"),
    "validate-data": Command(f"{_RECIPE}.validation.validate", "find faults of data folders"),
    "prepare-data": Command(f"{_RECIPE}.prepare_data", "make data folders of a corpus (stage 1)"),
    "synthesise-speech": Command(f"{_RECIPE}.corpora.synthesise", "make the synthetic corpus of egs/mini (stage 1)"),
    "perturb-speed": Command(f"{_RECIPE}.perturb_speed", "add copies at other speeds to a data folder (stage 2)"),
    "format-audio": Command(f"{_RECIPE}.format_audio", "bring audio to one rate, mono (stage 3)"),
    "filter-lengths": Command(f"{_RECIPE}.filter_lengths", "leave out utterances that are too short or long (stage 4)"),
    "make-tokens": Command(f"{_RECIPE}.make_tokens", "make the token list (stage 5)"),
    "train-lm": Command(f"{_RECIPE}.text_lm.train", "train a small language model from text (stages 6 and 7)"),
    "lm-perplexity": Command(f"{_RECIPE}.text_lm.perplexity", "measure the perplexity of a text (stage 8)"),
    "train-ngram": Command(f"{_RECIPE}.ngram.train", "train an n-gram over a model's tokens (stage 9)"),
    "store-frames": Command(f"{_RECIPE}.store_frames", "keep frames of a frozen front end on the disk (stage 10)"),
    "train": Command("espnet_larm.cli.train", "train with a program of ESPnet's, asr_train say (stage 11)", True),
    "decode": Command("espnet_larm.cli.decode", "recognise a data folder with a trained model (stage 12)"),
    "join-outputs": Command(f"{_RECIPE}.join_outputs", "join the outputs of parallel decoding jobs (stage 12)"),
    "score": Command(f"{_RECIPE}.score", "count errors of decoded hypotheses (stage 13)"),
    "score-loops": Command(f"{_RECIPE}.score_loops", "score a stock recipe's experiment by loops (after stage 12)"),
    "results": Command(f"{_RECIPE}.results", "write RESULTS.md of an experiment (stage 13)"),
    "pack": Command("espnet_larm.cli.pack", "put a trained model into one file (stage 14)"),
    "upload": Command(f"{_RECIPE}.upload", "put a pack on the Hugging Face hub (stage 15)"),
    "calibrate-drafts": Command("espnet_larm.cli.calibrate_drafts", "find the threshold of draft heads"),
    "calibrate-pooling": Command("espnet_larm.cli.calibrate_pooling", "find tau of affinity pooling"),
}
# ESPnet's programs that ours take the place of: a command's name, or a module and its first arguments.
IN_PLACE_OF: dict[str, list[str]] = {
    "espnet2.bin.asr_inference": ["decode"],
    "espnet2.bin.pack": ["pack"],
    "espnet2.bin.lightning_train": ["espnet_larm.cli.lightning_train"],
    **{
        f"espnet2.bin.{name}": ["espnet_larm.cli.train", name]
        for name in ("asr_train", "slu_train", "st_train", "s2t_train", "enh_s2t_train")
    },
}
