"""Stage 15: put a pack on the Hugging Face hub: its members unpacked, the weights in safetensors, a model card.

Examples:
    espnet-larm upload --pack exp/asr_x/asr_x_valid.loss.ave.zip --hf_repo user/name

The pack is loaded first, as `espnet_larm.load` does, and what will be uploaded is printed before it is. `hf auth
login`, or a token in HF_TOKEN, says who uploads. The repository is made if it is not there. Weights of an LM or a
speech encoder that the pack names are not uploaded: packs do not hold them. `espnet_larm.load("user/name")` loads it.
"""

import argparse
import tempfile
from pathlib import Path

from espnet_larm.options import given_options
from espnet_larm.pack.models import ModelPlaces, add_places


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True, help="the pack, which stage 14 makes")
    parser.add_argument("--hf_repo", required=True, help="repository on the hub, user/name")
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private; one that is there stays as it is"
    )
    add_places(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Upload, after saying what."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.pack.hub import address_of, upload, write_hub_folder
    from espnet_larm.recognize.packs import load_checked

    load_checked(args.pack, str(args.pack), "cpu", "float32", ModelPlaces(**given_options(ModelPlaces, args)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_hub_folder(args.pack, args.hf_repo, folder)
        visible = "private" if args.private else "public"
        print(f"{args.pack} -> {address_of(args.hf_repo)} ({visible} if it is new):")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes")
        for model in manifest.models:
            if model.is_needed:
                print(f"  without the weights of {model}, which it names")
        print(f"  licence: {_licence_of(folder)}", flush=True)
        address = upload(folder, args.hf_repo, f"Upload {manifest.name}", args.private)
    print(f'{address}\nespnet_larm.load("{args.hf_repo}") loads it.')
    return 0


def _licence_of(folder: Path) -> str:
    """The licence in the model card of a folder, or what to do where there is none."""
    from espnet_larm.pack.card import CARD, UNKNOWN, header_of

    path = folder / CARD
    licence = header_of(path.read_text(encoding="utf-8")).get("license", UNKNOWN) if path.is_file() else UNKNOWN
    return "not stated; `pack --license` states it (asr.sh: --pack_opts)" if licence == UNKNOWN else str(licence)
