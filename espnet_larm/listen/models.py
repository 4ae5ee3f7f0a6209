"""From the name of a model to what transcribes with it.

A name is a pack, an experiment's folder, a packaged model, an id of the hub, or a folder of a model of transformers.
"""

from pathlib import Path

from espnet_larm.errors import PACKAGE, OptionError
from espnet_larm.listen.transcriber import Transcriber
from espnet_larm.pack.hub import holds_pack

# Models that come with the package, as packs; one is taken where none is named.
PACKAGED = PACKAGE / "models"
DEFAULT_NAME = "default"
# A folder of transformers has it; experiments and packs have config.yaml.
TRANSFORMERS_CONFIG = "config.json"


def load(
    source: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    asr_model_file: str | Path | None = None,
    llm: str | None = None,
    encoder: str | None = None,
) -> Transcriber:
    """What `espnet_larm.load` gives; its arguments are explained there.

    Raises:
        FileNotFoundError: There is no such model, or a file of it is missing.
        ValueError: The model is damaged or refused, or an option does not go with it.
    """
    place = _place_of(str(source))
    if isinstance(place, Path) or not _is_of_transformers(place):
        # ESPnet takes 10 s to import, which transformers' models do without.
        from espnet_larm.listen.ours import LarmEngine
        from espnet_larm.recognize import packs

        return Transcriber(LarmEngine(packs.load(place, device, dtype, asr_model_file, llm, encoder)))
    for name, value in (("asr_model_file", asr_model_file), ("llm", llm), ("encoder", encoder)):
        if value is not None:
            raise OptionError(f"{name} is {value}, but {source} is a recogniser of transformers; leave the option out.")
    from espnet_larm.listen.hugging_face import load_engine

    return Transcriber(load_engine(place, device, dtype))


def default_model() -> Path:
    """The packaged model that is taken where none is named.

    Raises:
        FileNotFoundError: It is not in this installation.
    """
    path = PACKAGED / f"{DEFAULT_NAME}.zip"
    if path.is_file():
        return path
    names = ", ".join([*packaged_names(), "a pack (.zip)"])
    raise FileNotFoundError(
        f"model is not given; allowed: {names}, an experiment's folder, or a recogniser of transformers, "
        "openai/whisper-tiny for example."
    )


def packaged_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.zip"))


def pack_of(source: str | Path) -> str | Path:
    """The file of the packaged model of this name, if there is one and nothing else is called so; else the source."""
    is_packaged = str(source) in packaged_names() and not Path(source).exists()
    return PACKAGED / f"{source}.zip" if is_packaged else source


def _place_of(source: str) -> str | Path:
    """A path of our own formats, else the name of a recogniser of transformers or of the hub."""
    path = Path(source)
    if path.is_dir():
        return source if _is_folder_of_transformers(path) else path
    if path.exists() or path.suffix == ".zip":
        return path
    if "/" not in source:
        if source in packaged_names():
            return PACKAGED / f"{source}.zip"
        known = ", ".join(packaged_names()) or "none in this installation"
        raise FileNotFoundError(
            f"model is {source}: there is no such file or folder, and no packaged model of that name; packaged: "
            f"{known}. An id of the hub is written user/name."
        )
    return source


def _is_folder_of_transformers(folder: Path) -> bool:
    return (folder / TRANSFORMERS_CONFIG).is_file() and not (folder / "config.yaml").is_file()


def _is_of_transformers(name: str) -> bool:
    """Whether a folder, or what the hub has under a name, is a model of transformers; a pack of ours otherwise."""
    return Path(name).is_dir() or not holds_pack(name)
