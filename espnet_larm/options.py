"""Options said once: range and sentence stand at a dataclass's fields or a constructor's parameters.

Checks, error messages, --help, `espnet-larm list` and docs/options.md are made from them.

Own code, after a trial of jsonargparse and tyro: neither adds fields to ESPnet's own argparse parser, whose `--config`
and names must stay; errors of the one do not say what is allowed, and the other takes `nan` for a weight.
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

KEY = "option"
WORDS = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", Mapping: "a mapping",
    tuple: "three words",
}  # fmt: skip
# Types of what ESPnet's parsers read, by the functions that do.
PARSED = {
    "int": int, "float": float, "str": str, "str2bool": bool, "str2triple_str": tuple, "parse_size": float,
    "humanfriendly_parse_size": float,
}  # fmt: skip


class Option(typing.NamedTuple):
    """What is said of a field.

    Attributes:
        sentence: What the option does, with its unit, for people; without range and default.
        least: Lowest value that is allowed; None for no bound.
        above: Bound that a value must exceed; None for no bound.
        most: Highest value that is allowed; None for no bound.
        below: Bound that a value must stay below; None for no bound.
        choices: The only values that are allowed; empty for all.
        note: What the ends of the range mean, for messages.
        unset: What a default of None means, "as trained" for example.
        is_odd: Even numbers are not allowed.
        may_be_infinite: Infinity is in the range.
        is_apart: The program adds the option by itself: it is ESPnet's own, or of a form of its own.
        metavar: Stands for the value in --help.
        words: Words that may stand in place of a number, `auto` for example.
    """

    sentence: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    note: str = ""
    unset: str = ""
    is_odd: bool = False
    may_be_infinite: bool = False
    is_apart: bool = False
    metavar: str | None = None
    words: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The range in words, without the note; empty if every value is allowed."""
        return " or ".join(filter(None, (self._range_of_numbers, *self.words)))

    @property
    def _range_of_numbers(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        if self.is_odd:
            return f"odd, {self.least:g} or more"
        start = f"above {self.above:g}" if self.above is not None else "" if self.least is None else f"{self.least:g}"
        if self.most is not None:
            # More digits than `g` shows.
            most = str(self.most) if isinstance(self.most, int) else f"{self.most:g}"
            return f"{start} to {most}" if start else f"up to {most}"
        if self.below is not None:
            return f"{start} to below {self.below:g}" if start else f"below {self.below:g}"
        return f"{start} or more" if self.least is not None else start

    @property
    def allowed(self) -> str:
        """The range and its note, for messages; empty if every value is allowed."""
        return f"{self.range} ({self.note})" if self.range and self.note else self.range or self.note

    def allows(self, value: Any) -> bool:
        """Whether a value lies in the range. A value that is not a number lies in none."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float) or isinstance(value, bool):
            return True
        return (
            (math.isfinite(value) or (self.may_be_infinite and value == math.inf))
            and (not self.is_odd or value % 2 == 1)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


ANY = Option("without a range")
SEED = Option("seed of all random numbers", least=0, most=2**32 - 1)


def option(default: Any, sentence: str, **said: Any) -> Any:
    """A field of a dataclass of options.

    Args:
        default: The value that stands if none is given.
        sentence: `Option.sentence`.
        said: Further attributes of `Option`.
    """
    return dataclasses.field(default=default, metadata={KEY: Option(sentence, **said)})


def options_of(config: Any) -> Iterator[tuple[str, Option, type, Any]]:
    """Name, `Option`, type and default of each field of a class of options, or of one of its objects."""
    hints = typing.get_type_hints(config if isinstance(config, type) else type(config))
    for field in dataclasses.fields(config):
        yield field.name, field.metadata[KEY], _types_of(hints[field.name])[0], field.default


def check_options(config: Any) -> None:
    """Refuse values that are out of range or of another type; None stands for the default where that is None.

    Raises:
        ValueError: With the option, its value and what is allowed.
        TypeError: A value is of another type.
    """
    for name, said, wanted, default in options_of(config):
        value = getattr(config, name)
        if (value is None and default is None) or (isinstance(value, str) and value in said.words):
            continue
        if not _is_of_type(value, wanted):
            kinds = " or ".join((WORDS.get(wanted, wanted.__name__), *said.words))
            raise TypeError(f"{name} is {value!r}; allowed: {kinds}.")
        if not said.allows(value):
            raise ValueError(f"{name} is {value}; allowed: {said.allowed}.")


def add_options(parser: Any, config: type, title: str) -> Any:
    """Add the fields that are not apart to a parser, each None unless it is given, so that `config` has the default.

    Args:
        parser: An argparse parser.
        config: A class of options.
        title: The group's title in --help.

    Returns:
        The group, for further options.
    """
    group = parser.add_argument_group(title)
    for name, said, _, _ in options_of(config):
        if not said.is_apart:
            add_option(group, config, name)
    return group


def add_option(parser: Any, config: type, name: str) -> None:
    """Add one field of a class of options to a parser or group, None unless it is given."""
    said, wanted = next((said, wanted) for each, said, wanted, _ in options_of(config) if each == name)
    kind: Any = _boolean if wanted is bool else wanted
    if said.words:
        kind = _or_words(kind, said.words)
    parser.add_argument(f"--{name}", type=kind, metavar=said.metavar, help=help_of(config, name))


def help_of(config: type, name: str) -> str:
    """What --help says of one field of a class of options."""
    said, default = next((said, default) for each, said, _, default in options_of(config) if each == name)
    return describe(said, default).replace("%", "%%")


def describe(said: Option, default: Any) -> str:
    """An option's sentence, its range and its default."""
    word = str(default).lower() if isinstance(default, bool) else str(default)
    shown = said.unset or ("" if default is None else word)
    parts = [part for part in (said.range, said.note, f"default: {shown}" if shown else "") if part]
    return f"{said.sentence} ({'; '.join(parts)})" if parts else said.sentence


def given_options(config: type, args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a class of options that a parsed command line has a value for."""
    values = {name: getattr(args, name, None) for name, *_ in options_of(config)}
    return {name: value for name, value in values.items() if value is not None}


def parameters_of(constructor: Any) -> Iterator[tuple[str, Option, tuple[type, ...]]]:
    """Name, `Option` and types of each parameter that is annotated `Annotated[T, Option(...)]`; None's is the last."""
    for name, hint in typing.get_type_hints(constructor, include_extras=True).items():
        said = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Option)), None)
        if said is not None:
            yield name, said, _types_of(hint.__origin__)


def check_parameters(constructor: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuse arguments of a constructor that are out of the ranges of its annotations.

    Args:
        constructor: A function whose parameters are annotated `Annotated[T, Option(...)]`.
        values: Arguments by name, all or some; None is always allowed.
        where: The YAML key that holds them, for the message.

    Raises:
        ValueError: With the option, its value and what is allowed.
    """
    for name, said, _ in parameters_of(constructor):
        value = values.get(name)
        if value is not None and not said.allows(value):
            raise ValueError(f"{where}: {name} is {value}; allowed: {said.allowed}.")


def check_conf(constructor: Any, conf: Mapping[str, Any], where: str = "") -> None:
    """Refuse names that a constructor does not take, and values of other types, from a YAML.

    Args:
        constructor: A function whose parameters are annotated `Annotated[T, Option(...)]`.
        conf: Its arguments by name; ranges are left to `check_parameters`.
        where: What the message begins with; `decoder_conf: pooling: ` for example.

    Raises:
        ValueError: With all unknown names, or with an option, its value and what is allowed.
    """
    known = {name: (said, wanted) for name, said, wanted in parameters_of(constructor)}
    if unknown := [str(name) for name in conf if name not in known]:
        raise ValueError(f"{where}unknown option {', '.join(unknown)}; allowed: {', '.join(known)}.")
    for name, value in conf.items():
        said, wanted = known[name]
        if not any(_is_of_type(value, each) for each in wanted):
            kinds = " or ".join(WORDS.get(each, each.__name__) for each in wanted if each is not type(None))
            words = said.range if said.choices else ", ".join(filter(None, (kinds, said.range)))
            raise ValueError(f"{where}{name} is {value!r}, of type {type(value).__name__}; allowed: {words}.")


def check_range(name: str, value: Any, said: Option) -> None:
    """Refuse a value that is out of its range, of an option that no class holds.

    Raises:
        ValueError: With the option, its value and what is allowed.
    """
    if not said.allows(value):
        raise ValueError(f"{name} is {value}; allowed: {said.allowed}.")


def number(kind: type, said: Option) -> Callable[[str], Any]:
    """A `type` of argparse for numbers of a range."""

    def read(word: str) -> Any:
        value = kind(word)
        if not said.allows(value):
            raise argparse.ArgumentTypeError(f"{word}; allowed: {said.allowed}")
        return value

    # argparse names it where the word is no number.
    read.__name__ = kind.__name__
    return read


# Types of options that several commands have.
hertz = number(int, Option("sampling rate in Hz", least=1, most=1_000_000))
jobs = number(int, Option("number of processes", least=1, most=1024))
seconds = number(float, Option("seconds", least=0, may_be_infinite=True))
seed = number(int, SEED)


def check_parsed(
    actions: Iterable[argparse.Action],
    args: argparse.Namespace,
    ranges: Mapping[str, Option] | None = None,
    apart: Collection[str] = (),
) -> None:
    """Refuse what a YAML says and the command line would not take: types, choices, lengths; ranges, NaN, null bytes.

    Args:
        actions: Options of a parser of ESPnet's, whose defaults no YAML has changed.
        args: What another such parser has read.
        ranges: Ranges of options by name.
        apart: Options whose type is checked elsewhere.

    Raises:
        ValueError: With the option, its value and what is allowed.
    """
    for action in actions:
        if action.dest not in apart and (action.type or action.choices) and hasattr(args, action.dest):
            _check_action(action, getattr(args, action.dest), (ranges or {}).get(action.dest, ANY))
        for problem in _impossible(getattr(args, action.dest, None), action.dest):
            raise ValueError(problem)


def _check_action(action: argparse.Action, value: Any, said: Option) -> None:
    kind = getattr(action.type, "__name__", "")
    if value is None and (action.default is None or kind.endswith("_or_none")):
        return
    wanted = PARSED.get(kind.removesuffix("_or_none"), object)
    is_many = action.nargs is not None or isinstance(action, argparse._AppendAction)
    values = list(value) if is_many and isinstance(value, list | tuple) else [value]
    # ESPnet takes one number for a list of it, keep_nbest_models alone.
    is_bare = is_many and not isinstance(value, list | tuple) and (action.nargs, wanted) != ("+", int)
    if action.choices is not None:
        said = said._replace(choices=tuple(action.choices))
    fits = all(_is_parsed(each, wanted) and said.allows(each) for each in values)
    if is_bare or not fits or (isinstance(action.nargs, int) and len(values) != action.nargs):
        allowed = said.range if said.choices else ", ".join(filter(None, (WORDS.get(wanted, ""), said.allowed)))
        many = f"{action.nargs if isinstance(action.nargs, int) else 'a list'} of: " if is_many else ""
        raise ValueError(f"{action.dest} is {value!r:.200}; allowed: {many}{allowed}.")


def _is_parsed(value: Any, wanted: type) -> bool:
    if wanted is tuple:
        return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(each, str) for each in value)
    return wanted is object or _is_of_type(value, wanted)


def _impossible(value: Any, place: str) -> Iterator[str]:
    """Sentences about NaN, and about null bytes, which no path holds, below an option's value."""
    if isinstance(value, float) and math.isnan(value):
        yield f"{place} is nan; allowed: a number."
    if isinstance(value, str) and "\0" in value:
        yield f"{place} is {value!r:.200}; allowed: a text without null bytes."
    for name, each in value.items() if isinstance(value, Mapping) else ():
        yield from _impossible(each, f"{place}: {name}")
    for each in value if isinstance(value, list | tuple) else ():
        yield from _impossible(each, place)


def _types_of(hint: Any) -> tuple[type, ...]:
    """The types of a hint, generic ones as their classes, with None's last."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    each = [typing.get_origin(one) or one for one in (typing.get_args(hint) if is_union else (hint,))]
    return tuple(sorted(each, key=lambda one: one is type(None)))


def _is_of_type(value: Any, wanted: type) -> bool:
    if wanted in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if wanted is float else wanted)


def _or_words(kind: Callable[[str], Any], words: Collection[str]) -> Callable[[str], Any]:
    """A `type` of argparse that leaves some words as they are."""

    def read(word: str) -> Any:
        return word if word in words else kind(word)

    read.__name__ = " or ".join((kind.__name__, *words))
    return read


def _boolean(word: str) -> bool:
    if word.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{word} is neither true nor false")
    return word.lower() in ("true", "1", "yes")
