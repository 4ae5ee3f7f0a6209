"""Refuses wrong options with one sentence instead of a traceback.

Classes check their options as they are built; ESPnet's also use typeguard and bare asserts. The message of a `raise` is
kept; failures of typeguard and asserts are traced back to an option of the YAML, and failures of other packages to the
part that they were made for. An error of our own is a bug and keeps its traceback.
"""

import argparse
import ast
import contextlib
import filecmp
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from typeguard import TypeCheckError

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.train.trainer import autocast_args

from espnet_larm import registry
from espnet_larm.errors import DataError, OptionError, is_stated
from espnet_larm.files.locks import InUseError
from espnet_larm.pack.options import check_sections, empty_for_null

logger = logging.getLogger(__name__)

# Packages that check options of a YAML, as plugins do.
CHECKING = ("espnet", "espnet2", "torch.optim")
# What ends a program with a sentence; errors of the disk keep their traceback.
STATED = (
    ValueError, TypeError, ImportError, RuntimeError, FileNotFoundError, NotADirectoryError, IsADirectoryError,
    PermissionError, InUseError,
)  # fmt: skip
SILENT_SAMPLES = 16000
INITIALIZING = "espnet2.torch_utils.initialize"


@contextlib.contextmanager
def ends_with_a_sentence() -> Iterator[None]:
    """Let wrong options and data, and a folder in use, end the program with status 1 and a sentence.

    What ESPnet raises by itself is a sentence, too.
    """
    try:
        yield
    except STATED as error:
        if not is_stated(error, CHECKING):
            raise
        logger.debug("Where the option was refused:", exc_info=True)
        raise SystemExit(f"ERROR: {error}") from None


@contextlib.contextmanager
def traced_to_options(args: argparse.Namespace) -> Iterator[None]:
    """Turn an error that an option causes while a model is built into an OptionError.

    Args:
        args: Options that the model is built from.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        option = _option_behind(args, error)
        if option and isinstance(error, ModuleNotFoundError) and not (error.name or "espnet").startswith("espnet"):
            raise OptionError(
                f"{option} is ESPnet's and needs the package {error.name}, which is not installed here. Install it as "
                "ESPnet says (its tools/installers; pip does not have all packages), or choose another."
            ) from error
        if is_stated(error, (*CHECKING, *_plugin_packages())):
            raise OptionError(f"{option}: {error}" if option else str(error)) from error
        if (sentence := _failed_part(args, error)) is None:
            raise
        raise OptionError(sentence) from error
    except (TypeError, TypeCheckError, AssertionError) as error:
        sentence = _broken_rule(args, error) if isinstance(error, AssertionError) else _wrong_kind(args)
        sentence = sentence or _given_twice(args, error) or _named_argument(args, error) or _failed_part(args, error)
        if sentence is None:
            raise
        raise OptionError(sentence) from error
    except Exception as error:
        if (sentence := _failed_part(args, error)) is None:
            raise
        raise OptionError(sentence) from error


@contextlib.contextmanager
def traced_to_first_batch(args: argparse.Namespace, is_first: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn an error of ESPnet's parts at the first batch into an OptionError with their options.

    Args:
        args: Options of the training.
        is_first: Tells whether that batch is in progress.
    """
    try:
        yield
    except (OptionError, DataError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        if not is_first() or (sentence := _failed_part(args, error, "fails at the first batch with")) is None:
            raise
        raise OptionError(sentence) from error


def try_front_end(model: torch.nn.Module) -> None:
    """Give a model's front end a second of silence; many of its wrong options fail no earlier."""
    frontend: Any = getattr(model, "frontend", None)
    if frontend is None:
        return
    was_training = frontend.training
    frontend.eval()
    with torch.no_grad():
        frontend(torch.zeros(1, SILENT_SAMPLES), torch.tensor([SILENT_SAMPLES]))
    frontend.train(was_training)


def without_nulls(args: argparse.Namespace) -> argparse.Namespace:
    """Options in which `x_conf: null`, the value of `x_conf:` without a line below it, is an empty section.

    Raises:
        ValueError: An `x_conf` is neither null nor a set of options.
    """
    check_sections(vars(args))
    return argparse.Namespace(**empty_for_null(vars(args)))


def check_gpus(ngpu: int) -> None:
    """Refuse to train on more GPUs than there are.

    Raises:
        OptionError: There are fewer GPUs.
    """
    if ngpu > (found := torch.cuda.device_count()):
        raise OptionError(
            f"--ngpu is {ngpu}, but torch sees {found} GPUs here (`python -m espnet_larm doctor` tells more). "
            "Set it to their number; --ngpu 0 trains on the CPU."
        )


def check_half_types(args: argparse.Namespace) -> None:
    """Refuse an LM in one half type where `use_amp` computes in the other.

    Raises:
        ValueError: They differ.
    """
    if not getattr(args, "use_amp", False) or args.ngpu == 0 or args.decoder != "speech_llm":
        # Without a GPU, ESPnet's use_amp changes no type.
        return
    amp = str(autocast_args.get("dtype", torch.float16)).removeprefix("torch.")
    if (dtype := args.decoder_conf.get("dtype", "float32")) not in ("float32", amp):
        raise ValueError(
            f"decoder_conf: dtype is {dtype}, but use_amp computes in {amp} on this GPU. Set decoder_conf: "
            f"dtype: {amp} or float32, or use_amp: false."
        )


def check_same_ctc_tokens(args: argparse.Namespace) -> None:
    """Refuse texts in other tokens than the CTC head's: a list of the same size would train it wrongly.

    Raises:
        ValueError: They differ; it names both files.
    """
    head, texts = (
        (getattr(args, name, None) or {}).get("ctc_token_list") for name in ("model_conf", "preprocessor_conf")
    )
    if head is None or texts is None or not (Path(head).is_file() and Path(texts).is_file()):
        # The reader of a missing file will name it.
        return
    if not filecmp.cmp(head, texts, shallow=False):
        raise ValueError(
            f"model_conf: ctc_token_list is {head}, but preprocessor_conf: ctc_token_list is {texts}, which holds "
            "other tokens; name the same file in both."
        )


def check_same_tokenizer(args: argparse.Namespace, model: ESPnetASRModel) -> None:
    """Refuse texts in other tokens than the LM's: ESPnet's preprocessor takes the newest of the hub, not `revision`.

    Args:
        args: Options of the training.
        model: The model, as built.

    Raises:
        ValueError: The tokens differ; it says what to do.
        FileNotFoundError: The preprocessor's tokenizer cannot be had.
    """
    is_of_lm = args.token_type == "hugging_face"  # noqa: S105  # no password
    if args.decoder != "speech_llm" or not is_of_lm or args.bpemodel is None:
        return
    llm, tokenizer = args.decoder_conf.get("llm"), args.decoder_conf.get("tokenizer")
    revision = args.decoder_conf.get("revision") if tokenizer is None else None
    if args.bpemodel == (tokenizer or llm) and revision is None:
        return
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import load_tokenizer

    if load_tokenizer(args.bpemodel).get_vocab() != model.decoder.tokenizer.get_vocab():
        raise ValueError(
            f"bpemodel is {args.bpemodel}, of which ESPnet takes the newest tokenizer; its tokens are not those of the "
            f"decoder (decoder_conf: llm {llm}, revision {revision}, tokenizer {tokenizer}). Put the one that is meant "
            "into a folder (hf download NAME --revision REVISION --local-dir FOLDER), and name that in both."
        )


def check_checkpoint_losses(model: ESPnetASRModel) -> None:
    """Refuse a model whose loss leaves out checkpoint loops; warn if it weighs them unevenly.

    ESPnet's CTC loss is (1 - w) * last + w * mean(others) with w = `interctc_weight`, 0 by default: n checkpoints
    weigh the same with w = (n - 1) / n.

    Raises:
        ValueError: The feedback has no CTC head, intermediate checkpoint loops have no loss, or the decoder cannot be
            used with them.
    """
    encoder = model.encoder
    num_checkpoints = getattr(encoder, "num_checkpoints", 1)
    if getattr(encoder, "interctc_use_conditioning", False) and model.ctc is None:
        raise ValueError(
            "model_conf: ctc_weight is 0, but the encoder feeds CTC posteriors back. "
            "Set model_conf: ctc_weight above 0, or encoder_conf: feedback: false."
        )
    if num_checkpoints == 1:
        return
    if reason := _why_no_checkpoints(model):
        raise ValueError(
            f"{reason}, but encoder_conf: checkpoint_period {encoder.checkpoint_period} gives {num_checkpoints} "
            f"checkpoint loops. Set encoder_conf: checkpoint_period: {encoder.num_loops}."
        )
    even = (num_checkpoints - 1) / num_checkpoints
    if model.interctc_weight == 0.0:
        raise ValueError(
            f"model_conf: interctc_weight is 0, so that only the last of the encoder's {num_checkpoints} checkpoint "
            f"loops would have a loss. Set it to {even:.4f}, which weighs all alike, "
            f"or encoder_conf: checkpoint_period: {encoder.num_loops} for a loss at the last loop alone."
        )
    if abs(model.interctc_weight - even) > 0.005:
        logger.warning(
            "model_conf: interctc_weight %.4f weighs the last of %d checkpoint loops %.3f and each other %.3f; "
            "%.4f would weigh all alike.",
            model.interctc_weight,
            num_checkpoints,
            1 - model.interctc_weight,
            model.interctc_weight / (num_checkpoints - 1),
            even,
        )


def _why_no_checkpoints(model: ESPnetASRModel) -> str:
    """Why only the last loop can be used; empty if all can."""
    if getattr(model, "use_transducer_decoder", False):
        # ESPnet's asr_inference reads intermediate outputs with the tokens of a beam search that a transducer has not.
        return "decoder: transducer cannot be decoded with intermediate outputs"
    if model.ctc is None:
        return "model_conf: ctc_weight is 0, so that intermediate outputs have no loss"
    return ""


def _option_behind(args: argparse.Namespace, error: BaseException) -> str | None:
    """The option whose part of ESPnet raised an error; None for errors of others."""
    modules = _modules_inside_out(error)
    return _part_of(args, modules) if f"{modules[0]}.".startswith(tuple(f"{each}." for each in CHECKING)) else None


def _failed_part(args: argparse.Namespace, error: Exception, failed: str = "cannot be made of") -> str | None:
    """A sentence about ESPnet's or our part in which a package failed at the YAML's values; None for our own errors."""
    modules = _modules_inside_out(error)
    if modules[0].partition(".")[0] in _plugin_packages() or (part := _part_of(args, modules)) is None:
        return None
    conf = getattr(args, f"{part.partition(':')[0]}_conf", None) or {}
    values = ", ".join(f"{key}: {value!r:.60}" for key, value in conf.items())
    # Asserts of ESPnet's have no words; what they ask for stands in their line.
    said = " ".join(str(error).split()) or _condition(traceback.extract_tb(error.__traceback__)[-1].line or "")
    return f"{part} {failed} {values or 'its defaults'}; {type(error).__name__}: {said.rstrip('.')}."


def _plugin_packages() -> set[str]:
    """Packages of all plugins, ours among them."""
    return {plugin.path.partition(":")[0].partition(".")[0] for plugin in registry.plugins()}


def _modules_inside_out(error: BaseException) -> list[str]:
    return [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _part_of(args: argparse.Namespace, modules: list[str]) -> str | None:
    """The option whose class stands in the first of some modules that has one."""
    names = {kind: getattr(args, kind, None) for kind in (*registry.checked_kinds(), *registry.TABLES)}
    options = {registry.module_of(kind, name): f"{kind}: {name}" for kind, name in names.items() if name is not None}
    options[registry.module_of("ctc", "ctc")] = f"ctc_conf: ctc_type: {(args.ctc_conf or {}).get('ctc_type')}"
    # The model itself imports losses alone, and those are its decoder's.
    options[ESPnetASRModel.__module__] = f"decoder: {args.decoder}"
    options[INITIALIZING] = f"init: {args.init}"
    return next((options[module] for module in modules if module in options), None)


def _confs(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, conf in vars(args).items():
        if name.endswith("_conf") and isinstance(conf, dict):
            yield name, conf


def _wrong_kind(args: argparse.Namespace) -> str | None:
    """A sentence about the first option whose value has the wrong type, if there is one."""
    return (
        _wrong_type(args, registry.checked_kinds()) or _quoted_number(args) or _wrong_type(args, list(registry.TABLES))
    )


def _wrong_type(args: argparse.Namespace, kinds: list[str]) -> str | None:
    found = (
        registry.find_wrong_type(kind, getattr(args, kind, None), getattr(args, f"{kind}_conf", None) or {})
        for kind in kinds
    )
    return next(filter(None, found), None)


def _quoted_number(args: argparse.Namespace) -> str | None:
    for name, conf in _confs(args):
        for key, value in conf.items():
            texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
            if numbers := [text for text in texts if _is_number(text)]:
                return (
                    f"{name}: {key} {'has' if isinstance(value, list) else 'is'} {numbers[0]!r}, which YAML reads as "
                    "text; write the number without quotes, and 1e-3 as 1.0e-3."
                )
    return None


def _given_twice(args: argparse.Namespace, error: Exception) -> str | None:
    """A sentence about a key that ESPnet fills by itself, beside what the section holds."""
    name = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
    given = [f"{section}: {name[1]}" for section, conf in _confs(args) if name is not None and name[1] in conf]
    if name is None or not given:
        return None
    outside = f"; {name[1]} is an option of its own, outside of the section" if name[1] in vars(args) else ""
    return f"{' and '.join(given)} is filled by ESPnet itself; leave it out{outside}."


def _named_argument(args: argparse.Namespace, error: Exception) -> str | None:
    """A sentence about the options that have the name of the argument whose type was refused."""
    name = re.match(r'argument "(\w+)"', str(error))
    options = {(section, key): value for section, conf in _confs(args) for key, value in conf.items()}
    options |= {("", key): value for key, value in vars(args).items()}
    given = [
        f"{section + ': ' if section else ''}{key} is {value!r}"
        for (section, key), value in options.items()
        if name is not None and (key == name[1] or f"{key}_type" == name[1] or f"{key}_types" == name[1])
    ]
    return f"{', '.join(given)}; its type is another: {' '.join(str(error).split())}." if given else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _broken_rule(args: argparse.Namespace, error: AssertionError) -> str | None:
    """A sentence with the condition of an assert and the options in it; None if it names none."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    rule = _condition(frame.line or "")
    values = [
        f"{name}: {key} is {value!r}"
        for name, conf in _confs(args)
        for key, value in conf.items()
        if re.search(rf"(?<![\w.]){re.escape(key)}\b", rule)
    ]
    if not values:
        return None
    return f"{', '.join(values)}; allowed is what fulfils {rule} ({frame.filename}:{frame.lineno})."


def _condition(line: str) -> str:
    """The condition of an assert, without its message."""
    try:
        statement = ast.parse(line).body[0]
    except (SyntaxError, IndexError):
        return line
    return ast.unparse(statement.test) if isinstance(statement, ast.Assert) else line
