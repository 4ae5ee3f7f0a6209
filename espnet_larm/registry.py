"""The table of plugins, and the only module that writes to ESPnet's state.

ESPnet has no plugin mechanism. A task's module holds a `ClassChoices` object for each kind, and YAML can name a class
that is put into its `.classes` before the parser is built; inference uses the same objects. Each task has objects of
its own (HOSTS), which take 10 s to import, so plugins are put into them when they are imported.
Other packages add plugins through the entry-point group `espnet_larm.plugins`, an entry a plugin, named
`<kind>.<name>`: `"encoder.average" = "my_package:AverageEncoder"`.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import typing
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

from espnet_larm.process import stdout_aside

ENTRY_POINT_GROUP = "espnet_larm.plugins"
KINDS = ("frontend", "encoder", "decoder", "model", "preprocessor")
Choices = dict[str, tuple[str, ...]]
ALL: Choices = {kind: (f"{kind}_choices",) for kind in KINDS}
# Decoders, models and preprocessors of other tasks take other arguments than those of asr.
FEATURES: Choices = {kind: ALL[kind] for kind in ("frontend", "encoder")}
# The modules that plugins are put into: by kind, the names of their ClassChoices.
HOSTS: dict[str, Choices] = {
    "espnet2.tasks.asr": ALL,
    "espnet3.systems.esp2_asr.task": ALL,
    "espnet2.tasks.slu": FEATURES,
    "espnet2.tasks.st": FEATURES,
    "espnet2.tasks.s2t": FEATURES,
    # It uses asr's front ends, and copies the encoders of asr and st when it is imported.
    "espnet2.tasks.enh_s2t": {"encoder": ("asr_encoder_choices", "st_encoder_choices")},
}


# Types of data that our programs write, by name: the reader's class, and what ESPnet's --help says.
DATA_TYPES = {
    "frames": (
        "espnet_larm.pretrained.store:FramesReader",
        "frames of a front end, as espnet-larm store-frames writes them",
    )
}
# Kinds with tables of classes of their own in ESPnet's task, `<kind>_classes`.
TABLES = ("optim", "scheduler")
# Kinds whose classes ESPnet makes of their section alone.
OF_SECTION = ("frontend", "specaug", "normalize", "preencoder")
# Kinds with a section `<kind>_conf` whose class no name chooses.
SINGLE = {"ctc": "espnet2.asr.ctc:CTC"}


class Plugin(NamedTuple):
    """A class that YAML can name.

    Attributes:
        kind: One of KINDS, the YAML key.
        name: The value in YAML, in lower case.
        path: The class as `module:Class`, imported when it is registered or listed.
        package: The distribution that brings it.
    """

    kind: str
    name: str
    path: str
    package: str = "espnet_larm"


class Broken(NamedTuple):
    """A plugin that cannot be registered.

    Attributes:
        entry_point: Name of the entry point, `<kind>.<name>`.
        package: The distribution that brings it.
        reason: The message with which `register` refuses it.
    """

    entry_point: str
    package: str
    reason: str


class Survey(NamedTuple):
    """All plugins: the sound ones, and those that `register` refuses."""

    sound: list[Plugin]
    broken: list[Broken]


PLUGINS: tuple[Plugin, ...] = (
    Plugin("frontend", "affinity_pooling", "espnet_larm.pooling.frontend:AffinityPoolingFrontend"),
    Plugin("frontend", "pretrained", "espnet_larm.pretrained.frontend:PretrainedFrontend"),
    Plugin("encoder", "fast_conformer", "espnet_larm.fast_conformer.encoder:FastConformerEncoder"),
    Plugin("encoder", "larm", "espnet_larm.looped.encoder:LarmEncoder"),
    Plugin("encoder", "passthrough", "espnet_larm.pretrained.passthrough:PassthroughEncoder"),
    Plugin("decoder", "speech_llm", "espnet_larm.speech_llm.decoder:SpeechLlmDecoder"),
    Plugin("model", "speech_llm", "espnet_larm.speech_llm.model:SpeechLlmModel"),
    Plugin("preprocessor", "speech_llm", "espnet_larm.speech_llm.preprocessor:SpeechLlmPreprocessor"),
)


def plugins() -> list[Plugin]:
    """Our plugins, then those of other installed packages.

    Raises:
        ValueError: An entry point's name is not `<kind>.<name>`.
    """
    return [*PLUGINS, *map(_plugin_of, _entry_points())]


def survey() -> Survey:
    """Register every plugin as `register` does, but go on after a refused one.

    Without plugins of other packages, ours are imported and not registered, which would import ESPnet's task (10 s).
    """
    entries = _entry_points()
    found = Survey([], [])
    sources: list[Plugin | importlib.metadata.EntryPoint] = [*PLUGINS, *entries]
    for source in sources:
        _try_plugin(source, found, is_registered=bool(entries))
    return found


def load(plugin: Plugin) -> type:
    """Import the class of a plugin.

    Raises:
        ImportError: The module or class is missing, or its import fails.
        TypeError: The object is no class.
    """
    module_name, _, class_name = plugin.path.partition(":")
    try:
        with stdout_aside():
            found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        # Code of another package may raise anything; the user must be told whose it is.
        raise ImportError(
            f"{plugin.kind}: {plugin.name} of package {plugin.package} cannot be imported from {plugin.path}: "
            f"{type(error).__name__}: {error}. Mend or uninstall {plugin.package}."
        ) from error
    if not isinstance(found, type):
        raise TypeError(
            f"{plugin.kind}: {plugin.name} of package {plugin.package} must be a class, but {plugin.path} is a "
            f"{type(found).__name__}."
        )
    return found


def register() -> None:
    """Make every plugin nameable in the YAML of ESPnet's tasks, imported now or later.

    Repeated calls change nothing. If a task is imported later, its import raises these errors.

    Raises:
        ValueError: A name is taken by another class, or is not lower case.
        TypeError: A class is not of its kind, or leaves out methods of its kind.
        ImportError: A plugin cannot be imported.
    """
    # The doctor imports this file where nothing is installed yet.
    import wrapt

    for host in HOSTS:
        wrapt.register_post_import_hook(_register_in, host)
    wrapt.register_post_import_hook(_add_data_types, "espnet2.train.dataset")


def _add_data_types(dataset: ModuleType) -> None:
    for name, (path, sentence) in DATA_TYPES.items():
        module_name, _, class_name = path.partition(":")
        reader = getattr(importlib.import_module(module_name), class_name)
        dataset.DATA_TYPES.setdefault(name, {"func": reader, "kwargs": [], "help": sentence})


def _register_in(host: ModuleType) -> None:
    for plugin in plugins():
        for attribute in HOSTS[host.__name__].get(plugin.kind, ()):
            _register_one(plugin, load(plugin), getattr(host, attribute))


def check_name(kind: str, name: str | None) -> None:
    """Refuse a name that neither ESPnet nor a plugin has.

    Args:
        kind: One of `checked_kinds()` or TABLES.
        name: The value of the YAML key `<kind>`.

    Raises:
        ValueError: The name is unknown; the message has the nearest names.
    """
    classes = classes_of(kind)
    if not isinstance(name, str | None):
        raise ValueError(f"{kind} is {name!r}; allowed: the name of a class, such as {next(iter(classes))}.")
    if name is None and not _may_be_null(kind):
        raise ValueError(f"{kind} is null; allowed: {', '.join(sorted(classes))}.")
    if name is not None and name not in classes:
        raise ValueError(f"{kind}: {name} is not known. {_nearest(name, classes)}")


def check_conf(kind: str, name: str | None, conf: dict[str, Any]) -> None:
    """Refuse keys of `<kind>_conf` that the named class does not take, and the lack of those that it needs.

    Args:
        kind: One of `checked_kinds()`, TABLES or SINGLE.
        name: The value of the YAML key `<kind>`; the kind itself where no such key chooses a class.
        conf: The section.

    Raises:
        ValueError: Keys are unknown or missing; the message has all of them, unknown ones with the nearest options.
    """
    if not isinstance(name, str | None):
        raise ValueError(f"{kind} is {name!r}; allowed: a name.")
    if name is None or (found := classes_of(kind).get(name)) is None:
        return
    # The first parameter of an optimiser or schedule is what it works on.
    parameters = list(inspect.signature(found).parameters.values())[1 if kind in TABLES else 0 :]
    allowed = [parameter.name for parameter in parameters]
    unknown = [str(key) for key in conf if key not in allowed]
    owner = kind if name == kind else f"{kind}: {name}"
    if (kind in TABLES or kind in OF_SECTION) and not unknown and (missing := _lacking(parameters, conf)):
        raise ValueError(f"{kind}_conf: {owner} needs {', '.join(missing)}; set {'them' if missing[1:] else 'it'}.")
    if not unknown or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    # The class wraps another of its kind, whose options users often leave where they were.
    inner = f"{kind}_conf: {kind}_conf"
    moved = f" Options of the {kind} that it wraps go into {inner}:." if f"{kind}_conf" in allowed else ""
    if len(unknown) == 1:
        said = f"{unknown[0]} is not an option of {owner}. {_nearest(unknown[0], allowed)}"
    else:
        near = ((key, difflib.get_close_matches(key, allowed, n=1)) for key in unknown)
        listed = ", ".join(f"{key} (did you mean {found[0]}?)" if found else key for key, found in near)
        said = f"{listed} are not options of {owner}. Allowed: {', '.join(sorted(allowed))}."
    raise ValueError(f"{kind}_conf: {said}{moved}")


def _lacking(parameters: Iterable[inspect.Parameter], conf: dict[str, Any]) -> list[str]:
    """Parameters without a default that a section leaves out."""
    needed = [each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    return [each.name for each in needed if each.name not in conf]


def find_wrong_type(kind: str, name: str | None, conf: dict[str, Any]) -> str | None:
    """A sentence about the first value of `<kind>_conf` with a wrong type; None if there is none."""
    if name is None:
        return None
    found: Any = classes_of(kind)[name]
    try:
        hints = typing.get_type_hints(found.__init__)
    except NameError:
        # torch's schedules import the names of some types for type checkers alone.
        return None
    for key, value in conf.items():
        wanted = hints.get(key, Any)
        # YAML has no tuples: torch's classes take lists in their places.
        given = tuple(value) if isinstance(value, list) and "tuple" in str(wanted).lower() else value
        if not (_is_of_type(value, wanted) or _is_of_type(given, wanted)):
            allowed = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
            return f"{kind}_conf: {key} is {value!r}; allowed: {allowed}."
    return None


def classes_of(kind: str) -> dict[str, type]:
    """Classes by name in YAML; a section that no name chooses has one, under the name of its kind."""
    if kind in TABLES:
        from espnet2.tasks import abs_task

        return dict(getattr(abs_task, f"{kind}_classes"))
    if kind in SINGLE:
        module_name, _, class_name = SINGLE[kind].partition(":")
        return {kind: getattr(importlib.import_module(module_name), class_name)}
    choices = _class_choices().get(kind)
    return {} if choices is None else dict(choices.classes)


def default_conf(kind: str, name: str | None) -> dict[str, Any]:
    """Default values of `<kind>_conf`, also for the optimiser; empty if the kind or name is unknown."""
    classes = classes_of(kind)
    if name not in classes:
        return {}
    parameters = inspect.signature(classes[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def needed_conf(kind: str, name: str) -> list[str]:
    """Keys of `<kind>_conf` without a default, for a class of TABLES."""
    return _lacking(list(inspect.signature(classes_of(kind)[name]).parameters.values())[1:], {})


def module_of(kind: str, name: str) -> str | None:
    """Name of the module with the class that YAML names; None for an unknown name."""
    found = classes_of(kind).get(name)
    return None if found is None else found.__module__


def checked_kinds() -> list[str]:
    """Kinds that `check_name` and `check_conf` know: ours and the others of ESPnet (specaug, normalize, ...)."""
    return list(_class_choices())


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))


def _package_of(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _plugin_of(entry: importlib.metadata.EntryPoint) -> Plugin:
    kind, _, name = entry.name.partition(".")
    if kind not in KINDS or not name:
        raise ValueError(
            f"Entry point {entry.name!r} of package {_package_of(entry)} (group {ENTRY_POINT_GROUP}) must be named "
            f"<kind>.<name>, with kind one of {', '.join(KINDS)}."
        )
    return Plugin(kind, name, entry.value, _package_of(entry))


def _try_plugin(source: Plugin | importlib.metadata.EntryPoint, found: Survey, *, is_registered: bool) -> None:
    """Add a plugin to the sound or the broken ones."""
    try:
        plugin = source if isinstance(source, Plugin) else _plugin_of(source)
        plugin_class = load(plugin)
        if is_registered:
            _register_one(plugin, plugin_class, _class_choices()[plugin.kind])
    except (ValueError, TypeError, ImportError) as error:
        if isinstance(source, Plugin):
            found.broken.append(Broken(f"{source.kind}.{source.name}", source.package, str(error)))
        else:
            found.broken.append(Broken(source.name, _package_of(source), str(error)))
    else:
        found.sound.append(plugin)


def _register_one(plugin: Plugin, plugin_class: type, choices: Any) -> None:
    """Put a class into ESPnet's ClassChoices of its kind."""
    if plugin.name != plugin.name.lower():
        # ClassChoices.get_class tests the lower-cased name and indexes with the raw one.
        raise ValueError(f"{plugin.kind}: {plugin.name} of package {plugin.package} must be lower case.")
    if choices.base_type is not None and not issubclass(plugin_class, choices.base_type):
        raise TypeError(
            f"{plugin.kind}: {plugin.name} of package {plugin.package} must be a subclass of "
            f"{_full_name(choices.base_type)}, but {_full_name(plugin_class)} is not."
        )
    missing = sorted(getattr(plugin_class, "__abstractmethods__", ()))
    if missing:
        raise TypeError(
            f"{plugin.kind}: {plugin.name} of package {plugin.package} must define {', '.join(missing)}, but "
            f"{_full_name(plugin_class)} does not."
        )
    present = choices.classes.setdefault(plugin.name, plugin_class)
    if present is not plugin_class:
        raise ValueError(
            f"{plugin.kind}: {plugin.name} is {_full_name(present)} already; package {plugin.package} cannot make it "
            f"{_full_name(plugin_class)}. Rename one of them."
        )


def _class_choices() -> dict[str, Any]:
    """ClassChoices of ESPnet's ASR task by kind, whose import takes 10 s."""
    from espnet2.tasks.asr import ASRTask

    return {choices.name: choices for choices in ASRTask.class_choices_list}


def _may_be_null(kind: str) -> bool:
    return kind == "scheduler" if kind in TABLES else _class_choices()[kind].optional


def _nearest(name: str, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}Allowed: {', '.join(names)}."


def _is_of_type(value: Any, wanted: Any) -> bool:
    # The doctor imports this file where nothing is installed yet.
    from typeguard import TypeCheckError, check_type

    try:
        check_type(value, wanted)
    except TypeCheckError:
        return False
    return True


def _full_name(some_class: type) -> str:
    return f"{some_class.__module__}.{some_class.__qualname__}"
