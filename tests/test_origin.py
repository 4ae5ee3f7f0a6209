"""Where numbers come from."""

import re

import torch

from espnet_larm.origin import ROOT, commit, describe_machine, footer, origin_of, versions, without_root


def test_commit_is_a_hash_or_says_why_not():
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|none \(espnet_larm .* outside a repository\)", commit())


def test_a_machine_without_git_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit().endswith("git is not installed)")


def test_versions_are_of_this_package_and_those_it_stands_on():
    assert list(versions()) == ["espnet_larm", "espnet", "torch", "torchaudio", "python"]
    assert torch.__version__.startswith(versions()["torch"])


def test_a_machine_without_gpu_is_its_processor_and_threads():
    assert describe_machine(torch.device("cpu")).keys() == {"cpu", "cores", "threads"}


def test_paths_are_named_from_the_repository():
    assert without_root(f"--config {ROOT}/conf/x.yaml") == "--config conf/x.yaml"


def test_footer_names_what_is_known():
    origin = origin_of("espnet-larm score", ["--x", f"{ROOT}/a b"], torch.device("cpu"))
    lines = footer(origin)
    assert [line.partition(":")[0] for line in lines] == ["- commit", "- command", "- machine", "- made with", "- date"]
    assert lines[1] == f"- command: `espnet-larm score --x '{ROOT}/a b'`".replace(f"{ROOT}/", "")
    assert footer({"versions": {"torch": "2", "python": "3"}}) == ["- made with: torch 2, python 3"]
