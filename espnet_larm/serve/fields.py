"""What a form asks for: OpenAI's fields, and one of ours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from espnet_larm.errors import OptionError
from espnet_larm.listen.engine import read_loops
from espnet_larm.recognize.config import AUTO
from espnet_larm.serve.errors import NO_MODEL, WRONG, RequestError

JSON, TEXT, SRT, VTT, VERBOSE = FORMS = ("json", "text", "srt", "vtt", "verbose_json")
# They have a place for the texts of several loops.
WITH_LOOPS = (JSON, VERBOSE)
SEGMENT, WORD = GRANULARITIES = ("segment", "word")
# Clients that know of OpenAI's models alone ask for it.
ALIAS = "whisper-1"
GRANULARITY, GRANULARITY_LIST = "timestamp_granularities", "timestamp_granularities[]"
# What a field may say that changes nothing here: recognition is deterministic, and long audio is always cut.
NEUTRAL = {"stream": ("false", "0"), "chunking_strategy": ("auto",), "prompt": ()}
FIELDS = ("model", "response_format", "language", "loops", "temperature", GRANULARITY_LIST, *NEUTRAL)


class Asked(NamedTuple):
    """What a caller asks for.

    Attributes:
        form: One of FORMS.
        loops: Depths to give a text of, ascending; empty for the model's own.
        language: Code of the spoken language; None if it is not named.
        granularities: What to give times of in `verbose_json`.
        auto: Whether each piece of the recording shall have as many loops as it needs.
    """

    form: str
    loops: tuple[int, ...]
    language: str | None
    granularities: frozenset[str]
    auto: bool = False

    @property
    def words(self) -> bool:
        """Whether times of words are asked for."""
        return WORD in self.granularities


def read_fields(fields: Sequence[tuple[str, str]], model: str) -> Asked:
    """Check what the fields of a form ask for, as far as it does not depend on the model.

    Args:
        fields: Names and values. An empty value is as none.
        model: Name of the model that is served.

    Raises:
        RequestError: A field is not known, is there twice, or has a value that is not allowed.
    """
    granularities = [value for name, value in fields if name in (GRANULARITY, GRANULARITY_LIST)]
    single = [(name, value) for name, value in fields if name not in (GRANULARITY, GRANULARITY_LIST) and value != ""]
    said: dict[str, str] = {}
    for name, value in single:
        if name not in FIELDS:
            raise RequestError(WRONG, f"{name} is no field here; allowed: file, {', '.join(FIELDS)}.", name)
        if name in said:
            raise RequestError(WRONG, f"{name} is there twice; allowed: once.", name)
        said[name] = value
    if said.get("model", model) not in (model, ALIAS):
        allowed = f"allowed: {model}, or {ALIAS}, which stands for it here"
        raise RequestError(NO_MODEL, f"model is {said['model']}; {allowed}.", "model")
    for name, neutral in NEUTRAL.items():
        if said.get(name, "").lower() not in ("", *neutral):
            allowed = f"allowed: {', '.join(neutral)}" if neutral else "this server takes none, leave it out"
            raise RequestError(WRONG, f"{name} is {said[name][:40]}; {allowed}.", name)
    _check_temperature(said.get("temperature", "0"))
    form = _one_of("response_format", said.get("response_format", JSON), FORMS)
    auto = said.get("loops") == AUTO
    loops = _loops(said["loops"], form) if "loops" in said and not auto else ()
    return Asked(form, loops, said.get("language"), _granularities(granularities, form), auto)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise RequestError(WRONG, f"{name} is {value}; allowed: {', '.join(allowed)}.", name)
    return value


def _check_temperature(word: str) -> None:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if value != 0:
        raise RequestError(WRONG, f"temperature is {word}; allowed: 0, nothing is drawn at random here.", "temperature")


def _loops(word: str, form: str) -> tuple[int, ...]:
    try:
        loops = read_loops(word)
    except OptionError as error:
        raise RequestError(WRONG, f"{str(error).removesuffix('.')}, or {AUTO}.", "loops") from error
    if len(loops) > 1 and form not in WITH_LOOPS:
        allowed = f"allowed: one loop, or response_format {' or '.join(WITH_LOOPS)}"
        raise RequestError(WRONG, f"loops is {word} with response_format {form}; {allowed}.", "loops")
    return loops


def _granularities(values: Sequence[str], form: str) -> frozenset[str]:
    # One field may hold several, as some clients send lists.
    words = [word.strip() for value in values for word in value.split(",") if word.strip()]
    for word in words:
        _one_of(GRANULARITY, word, GRANULARITIES)
    if words and form != VERBOSE:
        message = f"{GRANULARITY} is {','.join(words)} with response_format {form}; allowed: with {VERBOSE} alone."
        raise RequestError(WRONG, message, GRANULARITY)
    return frozenset(words or (SEGMENT,))
