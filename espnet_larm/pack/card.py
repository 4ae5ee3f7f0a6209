"""The model card of a pack, `README.md`: a YAML header for model hubs, use, results and origin."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from espnet_larm.origin import footer
from espnet_larm.pack.llm import has_llm
from espnet_larm.pack.manifest import Manifest
from espnet_larm.pack.models import KINDS, conf_of
from espnet_larm.pack.named import NamedModel
from espnet_larm.pack.options import Config, dump_yaml, parse_yaml
from espnet_larm.scoring.experiment import SetResult
from espnet_larm.scoring.tables import apart_from_silence, format_curve, format_tables

CARD = "README.md"
# The pack in the card's examples.
FILE = "model.zip"
UNKNOWN = "unknown"
MEASURES = {"wer": "word error rate", "cer": "character error rate"}
_AS_FILE = f" and this pack as `{FILE}`"


class About(NamedTuple):
    """Facts that only the publisher knows.

    Attributes:
        language: Code such as `en`; empty if not given.
        license: Licence of weights and training data; UNKNOWN if not given.
        datasets: Names of the training data on the hub; empty if not given.
        note: Markdown: hours and licences of the corpora, what the model is unfit for; empty if not given.
    """

    language: str = ""
    license: str = UNKNOWN
    datasets: tuple[str, ...] = ()
    note: str = ""


def format_card(
    manifest: Manifest,
    config: Config,
    datasets: Sequence[str],
    num_parameters: int,
    results: Sequence[SetResult],
    about: About,
) -> str:
    """The card in Markdown.

    Args:
        manifest: Manifest of the pack.
        config: Configuration of the training.
        datasets: Names of the training sets.
        num_parameters: Number of the model's parameters, its LM's and speech encoder's included.
        results: Scored sets; without any, the card has no table.
        about: Facts that the publisher gives.
    """
    results, silent = apart_from_silence(results)
    header = dump_yaml(_header(manifest.name, results, about)).decode()
    lines = [
        "---", header.rstrip(), "---", "",
        f"# {manifest.name}", "",
        *_description(manifest, config, datasets, num_parameters), "",
        *_use(manifest, 0.0 if has_llm(config) else 1.0),
        *(["## Note", "", about.note.strip(), ""] if about.note.strip() else []),
        "## Results", "",
        *(format_curve(results) if results or silent else ["Nothing was scored.", ""]),
        *silent,
        *format_tables(results),
        "## Licence", "",
        _licence(about),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def card_on_hub(card: str, name: str) -> str:
    """The card of a pack whose examples name its repository on the hub, as espnet_larm's functions take it."""
    return card.replace(_AS_FILE, "").replace(f'"{FILE}"', f'"{name}"')


def header_of(card: str) -> Config:
    """The header of a card; empty if it has none.

    Raises:
        ValueError: It is no plain YAML.
    """
    begin, header, *_ = [*card.split("---\n", 2), ""]
    return parse_yaml(CARD, header.encode()) if not begin and header else {}


def _header(name: str, results: Sequence[SetResult], about: About) -> dict[str, Any]:
    header: dict[str, Any] = {
        "license": about.license,
        # ESPnet's own `from_pretrained`, which hubs show for `espnet`, knows no plugins.
        "library_name": "espnet-larm",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["espnet", "espnet-larm", "audio", "automatic-speech-recognition"],
        "metrics": list(MEASURES),
    }
    if about.language:
        header["language"] = [about.language]
    if about.datasets:
        header["datasets"] = list(about.datasets)
    has_tags = len({result.tag for result in results}) > 1
    entries = [_model_index_entry(result, f", {result.tag}" if has_tags else "") for result in results]
    if entries:
        header["model-index"] = [{"name": name, "results": entries}]
    return header


def _model_index_entry(result: SetResult, tag: str) -> dict[str, Any]:
    last = result.read_outs[-1]
    read_out = "" if last.number is None else f", {result.unit} {last.number}"
    return {
        "task": {"type": "automatic-speech-recognition"},
        "dataset": {"name": result.name, "type": result.name},
        "metrics": [
            {
                "type": measure,
                "name": f"{text}{read_out}{tag}",
                "value": last.scores[measure]["error_percent"],
            }
            for measure, text in MEASURES.items()
            if measure in last.scores
        ],
    }


def _description(manifest: Manifest, config: Config, datasets: Sequence[str], num_parameters: int) -> Iterator[str]:
    conf = config.get("encoder_conf") or {}
    classes = f"`{config.get('model', 'espnet')}`, encoder `{config.get('encoder')}`"
    yield f"- model: {classes}, {num_parameters:,} parameters"
    if "num_loops" in conf:
        yield f"- loops: {conf['num_loops']} as trained, with a read-out every {conf.get('checkpoint_period', 4)}"
    for model in manifest.models:
        yield from _describe_model(model, config)
    yield f"- tokens: {len(config['token_list'])}, `{config.get('token_type')}`"
    yield f"- trained on: {', '.join(datasets) or 'not recorded'}"
    yield f"- seed: {config.get('seed', 'not recorded')}"
    for plugin in manifest.plugins:
        yield f"- plugin: `{plugin.kind}: {plugin.name}` of {plugin.package} {plugin.version}"
    yield from footer({"versions": manifest.versions})


def _describe_model(model: NamedModel, config: Config) -> Iterator[str]:
    words = KINDS[model.kind]
    method = conf_of(config, model.kind).get(words.method, "frozen")
    name = model.name.removeprefix("./")
    if not model.is_needed:
        yield f"- {words.kind}: began as `{name}` and was trained ({method}): all its weights are in this pack"
        return
    where = "which lay in a folder: have its files from where they came from" if model.is_folder else "of the hub"
    revision = f", revision `{model.revision}`" if model.revision else ""
    learns = f"{words.method} `{method}`"
    yield f"- {words.kind}: `{name}`{revision}, {where}; {learns}, its own weights are NOT in this pack"
    yield f"- {words.kind}'s SHA-256, of its weights as espnet_larm reads them: `{model.sha256}`"


def _use(manifest: Manifest, ctc_weight: float) -> Iterator[str]:
    where = ", in a script that `python -m espnet_larm script.py` runs" if manifest.plugins else ""
    folders = (model.kind for model in manifest.models if model.is_needed_folder)
    more = "".join(f', {kind}="<folder of the {KINDS[kind].kind}>"' for kind in folders)
    packages = sorted({plugin.package.replace("_", "-") for plugin in manifest.plugins} | {"espnet-larm"})
    yield from (
        "## Use", "",
        f"With {', '.join(packages)} installed{_AS_FILE}:", "",
        "```python",
        "import espnet_larm",
        f'recognizer = espnet_larm.load("{FILE}"{more})',
        'print(recognizer.transcribe("speech.flac").text)',
        "```", "",
        f"By ESPnet itself{where}:", "",
        "```python",
        "from espnet2.bin.asr_inference import Speech2Text", "",
        "import espnet_larm", "",
        f'files = espnet_larm.unpack("{FILE}", "model"{more})',
        f"speech2text = Speech2Text(**files, ctc_weight={ctc_weight}, beam_size=1)",
        "```", "",
        "`espnet_larm` unpickles tensors only. ESPnet's own unpacking and loading trusts a pack fully:",
        "`espnet_larm.unpack` checks it first.", "",
    )  # fmt: skip


def _licence(about: About) -> str:
    if about.license == UNKNOWN:
        return "Not stated: whoever publishes this pack fills `license` in, as the training data allows."
    return f"{about.license}, as stated by who made this pack."
