"""Gives wrong values to commands, training options, decoding options and packs, and counts how each is answered.

Example:
    PYTHONPATH=. python tools/wrong_values.py --seed 1 --count 1000

A seed draws the same cases each time. A case is `named` if the answer is one sentence, `taken` if the value does no
harm, `traceback` if the user would see one, and `hang` after a minute. Tracebacks and hangs are printed with their
case, and the status is then 1.
"""

import argparse
import collections
import contextlib
import importlib
import io
import logging
import os
import random
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from espnet_larm import registry
from espnet_larm.cli.commands import COMMANDS
from espnet_larm.errors import is_stated
from espnet_larm.process import set_up

CONF = Path(__file__).resolve().parents[1] / "conf/tiny/train_larm.yaml"
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        10**30,
        -(10**9),
        0.5,
        -0.5,
        1.5,
        1e300,
        float("nan"),
        float("inf"),
        -float("inf"),
    ),
    *("", "x", "none", "0", "1e400", "../..", "/", "\x00", "\x1b[2J", "ÄÖ", "a" * 5000, "%s", "{", "a: b", "nan"),
    *([], [1], ["x"], {}, {"x": 1}, {"tau": "x"}, [[1]]),
)
SECONDS = 60
# Options that say where to write, or have a training wait for other machines.
APART = ("output_dir", "config", "dist_", "local_rank", "multiprocessing", "wandb")
NO_YAML = (
    *(
        b"",
        b"- a\n",
        b"encoder:larm\n",
        b"a: &a [*a]\n",
        b"\tencoder: larm\n",
        b"max_epoch: 2020-99-99\n",
        b"? [1]\n: 2\n",
    ),
    *(b"encoder: !!python/object/apply:os.getcwd []\n", b"[" * 5000, b"\xff\xfe\x00", b"1: 2\n", b"%s: {", b"null: 1"),
)
DOORS = ("command", "training", "decoding", "config", "manifest")
COMMANDS_TRIED = [name for name in COMMANDS if name not in ("train", "doctor", "list")]


class Case(NamedTuple):
    """One wrong value.

    Attributes:
        door: One of DOORS, where it comes in.
        what: The option and its value, for people.
        run: What gives it to the product.
    """

    door: str
    what: str
    run: Callable[[], object]


class HangError(Exception):
    """A case took longer than SECONDS."""


def answer(case: Case) -> str:
    """How a case is answered: named, taken, hang, or the traceback's last line."""
    said = io.StringIO()
    signal.signal(signal.SIGALRM, _hang)
    # Again every second: what a foreign library calls swallows an error.
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            case.run()
    except HangError:
        return "hang"
    except SystemExit as end:
        return "taken" if end.code in (0, None) else "named"
    except (ValueError, TypeError, OSError, ImportError) as error:
        return "named" if is_stated(error) else f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001  # it is what is counted
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "taken"


def _hang(_number: int, _frame: object) -> None:
    raise HangError


class Doors:
    """Draws cases for a tiny model in a folder.

    Args:
        folder: Where the model, its pack and what commands write are kept.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        from espnet_larm.cli.pack import main as pack
        from espnet_larm.recognize.packs import load
        from espnet_larm.train.task import LarmASRTask

        self.folder, self.task = folder, LarmASRTask
        tokens = folder / "tokens.txt"
        tokens.write_text("\n".join(["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]) + "\n", encoding="utf-8")
        self.words = ["--config", str(CONF), "--token_list", str(tokens), "--token_type", "char"]
        self.words += ["--output_dir", str(folder / "exp")]
        self.data = folder / "data"
        _write_data(self.data)
        args = LarmASRTask.get_parser().parse_args(self.words)
        model = LarmASRTask.build_model(args)
        torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)), encoding="utf-8")
        self.pack = folder / "model.zip"
        pack(["asr", "--exp_dir", str(folder), "--outpath", str(self.pack)])
        self.recognizer = load(folder)
        self.given = self._given()

    def draw(self, generator: random.Random, names: Sequence[str] = DOORS) -> Case:
        """One case of a random door of these."""
        case: Case = getattr(self, f"_{generator.choice(names)}")(generator)
        return case

    def _command(self, generator: random.Random) -> Case:
        name = generator.choice(COMMANDS_TRIED)
        module = importlib.import_module(COMMANDS[name].module)
        parser = module.get_parser()
        wrong = generator.choice([action for action in parser._actions if action.option_strings and action.nargs != 0])
        words = []
        # Where a wrong value says where to write, nothing right must be there to be written.
        given = {} if wrong.dest.startswith("out") else self.given.get(name, {})
        for action in parser._actions:
            if (action.required or action.dest in given) and action.option_strings and action is not wrong:
                words += [action.option_strings[0], *given.get(action.dest, (str(self.folder / "given"),))]
        value = str(generator.choice(VALUES)).replace("\x00", "NUL")
        words += [wrong.option_strings[0], value]
        return Case("command", f"{name} {wrong.option_strings[0]} {value[:80]!r}", lambda: module.main(words))

    def _given(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """What commands that work are given, by their options."""
        data, out, tokens = str(self.data), str(self.folder / "out"), str(self.folder / "tokens.txt")
        weights = str(self.folder / "valid.loss.ave.pth")
        model = {"asr_train_config": (str(self.folder / "config.yaml"),), "asr_model_file": (weights,)}
        table = {"data_path_and_name_and_type": (f"{data}/wav.scp,speech,sound",)}
        text = {"text": (f"{data}/text",), "token_list": (tokens,), "token_type": ("char",)}
        return {
            "decode": {**model, **table, "output_dir": (out,)},
            "validate-data": {"data_dirs": (data,)},
            "format-audio": {"in_dir": (data,), "output_dir": (out,)},
            "filter-lengths": {"in_dir": (data,), "output_dir": (out,)},
            "perturb-speed": {"in_dir": (data,), "output_dir": (out,), "factors": ("0.9",)},
            "train-ngram": {**text, "outpath": (f"{out}/ngram.arpa",)},
            "pack": {**model, "outpath": (f"{out}.zip",)},
        }

    def _training(self, generator: random.Random) -> Case:
        return generator.choice((self._part, self._top_level, self._top_level, self._no_yaml))(generator)

    def _top_level(self, generator: random.Random) -> Case:
        """A whole training with a wrong value of an option of ESPnet's own."""
        kinds = {*registry.checked_kinds(), *registry.TABLES}
        parser = self.task.get_parser()
        names = [action.dest for action in parser._actions if action.dest not in kinds and action.nargs != 0]
        name = generator.choice([name for name in names if not name.endswith("_conf") and not name.startswith(APART)])
        value = generator.choice(VALUES)
        config = {**yaml.safe_load(CONF.read_text(encoding="utf-8")), "max_epoch": 1, name: value}
        words = [word for each, word in self._files_of_training() if each != name]
        return Case("training", f"{name} {value!r:.80}", lambda: self._train(yaml.safe_dump(config).encode(), words))

    def _no_yaml(self, generator: random.Random) -> Case:
        """A training with a --config that is no YAML of options, or a piece or a changed byte of one."""
        text = CONF.read_bytes()
        cut, byte = generator.randrange(len(text)), generator.randrange(256).to_bytes()
        content = generator.choice(
            (*NO_YAML, text[:cut], text[:cut] + byte + text[cut + 1 :], text.decode().encode("utf-16"))
        )
        words = [word for _, word in self._files_of_training()]
        words.append("--max_epoch=1")
        return Case("training", f"--config {content[-60:]!r}", lambda: self._train(content, words))

    def _files_of_training(self) -> list[tuple[str, str]]:
        """Options with files, and the words that set them."""
        words = [("output_dir", f"--output_dir={self.folder}/trained"), ("token_type", "--token_type=char")]
        words += [("token_list", f"--token_list={self.folder}/tokens.txt"), ("resume", "--resume=false")]
        words += [("num_att_plot", "--num_att_plot=0"), ("use_matplotlib", "--use_matplotlib=false")]
        for phase in ("train", "valid"):
            for table, name, kind in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
                option = f"{phase}_data_path_and_name_and_type"
                words.append((option, f"--{option}={self.data}/{table},{name},{kind}"))
                words.append((f"{phase}_shape_file", f"--{phase}_shape_file={self.data}/{name}_shape"))
        return [*words, ("fold_length", "--fold_length=80000"), ("fold_length", "--fold_length=150")]

    def _train(self, config: bytes, words: list[str]) -> None:
        path = self.folder / "wrong.yaml"
        path.write_bytes(config)
        self.task.main(cmd=[*words, "--config", str(path)])

    def _part(self, generator: random.Random) -> Case:
        args = self.task.get_parser().parse_args(self.words)
        changed = vars(args)
        # Their classes are made in no time, and need nothing else.
        kind = generator.choice(registry.TABLES)
        name = generator.choice(sorted(registry.classes_of(kind)))
        changed |= {kind: name, f"{kind}_conf": dict.fromkeys(registry.needed_conf(kind, name), 3)}
        if generator.random() < 0.7:
            place, value = generator.choice(_options_of(changed)), generator.choice(VALUES)
        else:
            place, value = _misspelt(generator, changed), 1
        _put(changed, place, value)
        what = f"{kind} {name}, {':'.join(place)} {value!r:.80}"
        return Case("training", what, lambda: self._begin(argparse.Namespace(**changed)))

    def _begin(self, args: argparse.Namespace) -> None:
        """What a training makes of its options."""
        from espnet_larm.train.refusals import traced_to_options, without_nulls

        with traced_to_options(args):
            args = without_nulls(args)
        model = self.task.build_model(args)
        self.task.build_optimizers(args, model)
        self.task.build_preprocess_fn(args, train=True)

    def _decoding(self, generator: random.Random) -> Case:
        import numpy as np

        from espnet_larm.options import options_of
        from espnet_larm.recognize.config import DecodeConfig

        name, value = generator.choice([name for name, *_ in options_of(DecodeConfig)]), generator.choice(VALUES)

        def run() -> None:
            plan = self.recognizer.plan(DecodeConfig(**{name: value}))
            self.recognizer.decode([np.zeros(16000, dtype=np.float32)], plan)

        return Case("decoding", f"{name} {value!r:.80}", run)

    def _config(self, generator: random.Random) -> Case:
        return self._changed_pack("config", "config.yaml", generator)

    def _manifest(self, generator: random.Random) -> Case:
        return self._changed_pack("manifest", "meta.yaml", generator)

    def _changed_pack(self, door: str, member: str, generator: random.Random) -> Case:
        from espnet_larm.pack.archive import write_archive
        from espnet_larm.recognize.packs import load

        with zipfile.ZipFile(self.pack) as archive:
            members: dict[str, Any] = {info.filename: archive.read(info) for info in archive.infolist()}
        parts = {name: yaml.safe_load(members[name]) for name in ("config.yaml", "meta.yaml")}
        # Or any change would be given away by its digest.
        parts["meta.yaml"]["espnet_larm"]["sha256"] = {}
        place, value = generator.choice(_leaves(parts[member])), generator.choice(VALUES)
        _put(parts[member], place, value)
        members |= {name: yaml.safe_dump(part).encode() for name, part in parts.items()}
        changed = self.folder / "changed.zip"

        def run() -> None:
            write_archive(changed, members)
            load(changed)

        return Case(door, f"{':'.join(map(str, place))} {value!r:.80}", run)


def _write_data(folder: Path) -> None:
    """Make a data folder of three recordings, formatted and with its shapes."""
    import numpy as np
    import soundfile

    from espnet_larm.data.kaldi_dir import Utterance, write_dir, write_tables

    folder.mkdir()
    texts = {"s-a": "A B", "s-b": "CAFE", "s-c": "BAD BED"}
    for number, key in enumerate(texts):
        samples = 0.1 * np.random.default_rng(number).standard_normal(16000)
        soundfile.write(folder / f"{key}.wav", samples, 16000)
    write_dir(folder, [Utterance(key, "s", str(folder / f"{key}.wav"), text) for key, text in texts.items()])
    shapes = {key: f"{len(text)},12" for key, text in texts.items()}
    counts = dict.fromkeys(texts, 16000)
    write_tables(folder, {"speech_shape": counts, "text_shape": shapes, "utt2num_samples": counts})


def _options_of(args: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Places of the options of a training's parts: names of classes, sections and all that these may hold."""
    kinds = [*registry.checked_kinds(), *registry.TABLES, *registry.SINGLE]
    keys = [(f"{kind}_conf", key) for kind in kinds for key in registry.default_conf(kind, args.get(kind, kind))]
    given = _leaves({name: value for name, value in args.items() if name.endswith("_conf")})
    return [*dict.fromkeys([*given, *keys]), *((kind,) for kind in kinds), ("init",), ("token_list",)]


def _misspelt(generator: random.Random, args: dict[str, Any]) -> tuple[str, str]:
    """Place of an option whose name has lost a letter."""
    section, key = generator.choice([place for place in _options_of(args) if len(place) == 2])
    letter = generator.randrange(len(key))
    return section, key[:letter] + key[letter + 1 :]


def _leaves(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of all values below a mapping, those of mappings included."""
    if not isinstance(tree, dict):
        return [place]
    inner = [leaf for name, value in tree.items() for leaf in _leaves(value, (*place, name))]
    return [*inner, place] if place else inner


def _put(tree: Any, place: tuple[Any, ...], value: Any) -> None:
    for name in place[:-1]:
        tree = tree.setdefault(name, {})
    tree[place[-1]] = value


@contextlib.contextmanager
def made_doors() -> Iterator[Doors]:
    """The doors of a tiny model in a temporary folder, which is the working folder for as long."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Doors(Path(folder))
        finally:
            os.chdir(before)


def print_counts(title: str, kinds: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print a table of how often each kind was the answer."""
    print(f"| {' | '.join((title, *kinds))} |\n|{' --- |' * (1 + len(kinds))}")
    for name, found in sorted(counts.items()):
        print(f"| {' | '.join((name, *(str(found[kind]) for kind in kinds)))} |")


def main() -> int:
    """Draw cases, count the answers, print those that are no sentence."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases (0)")
    parser.add_argument("--count", type=int, default=1000, help="number of cases (1000)")
    parser.add_argument("--door", choices=DOORS, help="the only door of the cases (all)")
    args = parser.parse_args()
    set_up()
    logging.disable(logging.CRITICAL)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with made_doors() as doors:
        generator = random.Random(args.seed)  # no secret
        for _ in range(args.count):
            case = doors.draw(generator, (args.door,) if args.door else DOORS)
            said = answer(case)
            kind = said if said in ("named", "taken", "hang") else "traceback"
            counts[case.door][kind] += 1
            if kind in ("traceback", "hang"):
                print(f"{case.door}: {case.what}: {said[:300]}", flush=True)
    print_counts("door", ("named", "taken", "traceback", "hang"), counts)
    return int(any(found["traceback"] or found["hang"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
