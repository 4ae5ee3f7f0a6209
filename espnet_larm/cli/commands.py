"""The table of commands: what `espnet-larm` runs, and what runs in place of ESPnet's programs. Imports nothing slow."""

from typing import NamedTuple

USE, TRAIN, LOOK, STAGE = "use a model", "train a model of your own", "look", "stages of a recipe, in their order"


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Its module, which has a `main`.
        sentence: What it does, for `espnet-larm --help`.
        group: Title that it stands under there.
        example: Arguments of a call that can be pasted; empty for a stage, which a recipe calls.
        is_run_as_program: It starts processes that must find it as their `__main__`.
    """

    module: str
    sentence: str
    group: str = STAGE
    example: str = ""
    is_run_as_program: bool = False


_RECIPE = "espnet_larm.recipe"
_DRAFTS = f"{_RECIPE}.drafts"
_EXPERIMENT = "--asr_train_config exp/asr/config.yaml --asr_model_file exp/asr/valid.loss.ave.pth"
COMMANDS: dict[str, Command] = {
    "transcribe": Command(
        "espnet_larm.cli.listen.transcribe",
        "write down what recordings say",
        USE,
        "--model openai/whisper-tiny.en talk.m4a",
    ),
    "serve": Command(
        "espnet_larm.cli.listen.serve",
        "answer clients of OpenAI's API of transcriptions",
        USE,
        "--model model.zip --port 8000",
    ),
    "demo": Command(
        "espnet_larm.cli.listen.demo",
        "open a page to record, drop files, and see the text at each loop",
        USE,
        "--model model.zip",
    ),
    "pack": Command(
        "espnet_larm.cli.pack", "put a trained model into one file (stage 14)", USE, "--exp_dir exp/asr_larm"
    ),
    "upload": Command(
        f"{_RECIPE}.upload",
        "put a pack on the Hugging Face hub (stage 15)",
        USE,
        "--pack model.zip --hf_repo user/name",
    ),
    "calibrate-drafts": Command(
        "espnet_larm.cli.calibrate.drafts",
        "find the threshold of draft heads",
        USE,
        f"{_EXPERIMENT} --data_dir dump/raw/dev",
    ),
    "calibrate-edits": Command(
        "espnet_larm.cli.calibrate.edits",
        "find the weight of CTC in the choice among edits",
        USE,
        f"{_EXPERIMENT} --data_dir dump/raw/dev",
    ),
    "edit-text": Command(
        f"{_DRAFTS}.edit_text",
        "edit drafts of any recogniser, without speech",
        USE,
        f"{_EXPERIMENT} --drafts drafts/text --outpath edited/text",
    ),
    "calibrate-pooling": Command(
        "espnet_larm.cli.calibrate.pooling",
        "find tau of affinity pooling",
        USE,
        f"{_EXPERIMENT} --data_dir dump/raw/dev",
    ),
    "train-halting-head": Command(
        "espnet_larm.cli.calibrate.halting",
        "train a small head that says when utterances may leave the looped encoder",
        USE,
        f"{_EXPERIMENT} --data_dir dump/raw/dev",
    ),
    "calibrate-loops": Command(
        "espnet_larm.cli.calibrate.loops",
        "find when utterances may leave the looped encoder",
        USE,
        f"{_EXPERIMENT} --data_dir dump/raw/dev",
    ),
    "init-recipe": Command(
        f"{_RECIPE}.init_recipe",
        "make a recipe folder for a corpus or your own recordings",
        TRAIN,
        "my_recipe --manifests my_recordings",
    ),
    "train": Command(
        "espnet_larm.cli.train",
        "train with a program of ESPnet's, asr_train say (stage 11)",
        TRAIN,
        "asr_train --config exp/asr/config.yaml --output_dir exp/again",
        is_run_as_program=True,
    ),
    "plan": Command(
        "espnet_larm.cli.plan",
        "say what a training takes: parameters, memory, FLOPs, steps, days",
        TRAIN,
        "--config conf/librispeech/train_larm_100h.yaml --vocab_size 500 --hours 300 --gpu 80GB",
    ),
    "train-lm": Command(
        f"{_RECIPE}.text_lm.train",
        "train a small language model from text (stages 6 and 7)",
        TRAIN,
        "--text lines.txt --output_dir exp/lm --ngpu 0",
    ),
    "lower-case-lm": Command(
        f"{_RECIPE}.text_lm.lower_case",
        "copy an LM of capitals for small letters",
        TRAIN,
        "--llm models/novels-3M --output_dir exp/novels-3M-lower",
    ),
    "train-ngram": Command(
        f"{_RECIPE}.ngram.train",
        "train an n-gram over a model's tokens (stage 9)",
        TRAIN,
        "--text lines.txt --token_list data/token_list/char/tokens.txt --token_type char --outpath 4gram.arpa",
    ),
    "remove-overlap": Command(
        f"{_DRAFTS}.overlap",
        "leave lines out of a text that test sets share",
        TRAIN,
        "--text lines.txt --held_out_text dump/raw/test/text --outpath left.txt",
    ),
    "learn-confusions": Command(
        f"{_DRAFTS}.learn_confusions",
        "learn how a recogniser errs, from transcripts and drafts",
        TRAIN,
        "--text dump/raw/dev/text --drafts exp/asr/decode/dev/loop4/text --outpath confusions.json",
    ),
    "simulate-drafts": Command(
        f"{_DRAFTS}.simulate",
        "make drafts of plain text, for an LM that learns to edit",
        TRAIN,
        "--text lines.txt --confusions confusions.json --wer_percent 30 --output_dir exp/simulated",
    ),
    "draft-speech": Command(
        f"{_DRAFTS}.draft_speech",
        "make drafts of speech with dropout and SpecAugment",
        TRAIN,
        f"{_EXPERIMENT} --data_dir dump/raw/train --output_dir exp/drafts",
    ),
    "split-folds": Command(
        f"{_DRAFTS}.folds",
        "cut a training set into folds by speaker, whose drafts models make that have not learned them",
        TRAIN,
        "--data_dir dump/raw/train --output_dir dump/raw/train_folds",
    ),
    "list": Command(
        "espnet_larm.cli.list_plugins",
        "list every plugin with its options, their ranges and defaults",
        LOOK,
        "--name larm --yaml",
    ),
    "doctor": Command("espnet_larm.cli.doctor", "say what is installed, what is missing, and how to mend it", LOOK),
    "validate-data": Command(
        f"{_RECIPE}.validation.validate", "find faults of data folders", LOOK, "--data_dirs data/train data/dev"
    ),
    "lm-perplexity": Command(
        f"{_RECIPE}.text_lm.perplexity",
        "measure the perplexity of a text (stage 8)",
        LOOK,
        "--llm exp/lm --text lines.txt --ngpu 0",
    ),
    "score": Command(
        f"{_RECIPE}.score",
        "count errors of decoded hypotheses (stage 13)",
        LOOK,
        "--ref_dir dump/raw/test --hyp_dir exp/asr/decode/test",
    ),
    "score-loops": Command(
        f"{_RECIPE}.score_loops",
        "score a stock recipe's experiment by loops (after stage 12)",
        LOOK,
        "--exp_dir exp/asr_larm --data_dir dump/raw",
    ),
    "compare-drafts": Command(
        f"{_DRAFTS}.compare",
        "measure how far drafts to learn from are from those of a test set",
        LOOK,
        "--text train/text --drafts train/drafts --other_text dev/text --other_drafts dev/drafts",
    ),
    "score-edits": Command(
        f"{_DRAFTS}.score_edits",
        "count the words of drafts that edits fix and break",
        LOOK,
        "--data_dirs dump/raw/test --drafts drafts/test/text --edits edits/test/text",
    ),
    "results": Command(
        f"{_RECIPE}.results", "write RESULTS.md of an experiment (stage 13)", LOOK, "--exp_dir exp/asr_larm"
    ),
    "prepare-data": Command(f"{_RECIPE}.prepare_data", "make data folders of a corpus (stage 1)"),
    "synthesise-speech": Command(f"{_RECIPE}.corpora.synthesise", "make the synthetic corpus of egs/mini (stage 1)"),
    "perturb-speed": Command(f"{_RECIPE}.perturb_speed", "add copies at other speeds to a data folder (stage 2)"),
    "format-audio": Command(f"{_RECIPE}.format_audio", "bring audio to one rate, mono (stage 3)"),
    "filter-lengths": Command(f"{_RECIPE}.filter_lengths", "leave out utterances that are too short or long (stage 4)"),
    "make-tokens": Command(f"{_RECIPE}.make_tokens", "make the token list (stage 5)"),
    "store-frames": Command(f"{_RECIPE}.store_frames", "keep frames of a frozen front end on the disk (stage 10)"),
    "decode": Command("espnet_larm.cli.decode", "recognise a data folder with a trained model (stage 12)"),
    "join-outputs": Command(f"{_RECIPE}.join_outputs", "join the outputs of parallel decoding jobs (stage 12)"),
}


def describe_commands() -> str:
    """Titles, and under each a line a command, with an example below it."""
    width = max(map(len, COMMANDS))
    lines = []
    for title in (USE, TRAIN, LOOK, STAGE):
        lines.append(f"\nTo {title}:" if title != STAGE else f"\nThe {title}:")
        for name, command in COMMANDS.items():
            if command.group == title:
                lines.append(f"  {name:<{width}}  {command.sentence}")
                if command.example:
                    lines.append(f"  {'':<{width}}    espnet-larm {name} {command.example}")
    return "\n".join(lines)


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
