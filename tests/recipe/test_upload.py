"""The uploading program says what it will do before it does it."""

import pytest


@pytest.fixture
def run(larm_task):
    from espnet_larm.recipe.upload import main

    return lambda *options: main([str(option) for option in options])


def test_files_and_licence_are_printed_before_anything_is_sent(run, hub, tiny_pack, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_bob")
    with pytest.raises(PermissionError):
        run("--pack", tiny_pack, "--hf_repo", "ann/tiny")
    said = capsys.readouterr().out
    assert f"-> {hub.endpoint}/ann/tiny (public if it is new):" in said and "licence: cc-by-4.0" in said
    assert "  model.safetensors  " in said and "  README.md  " in said
    assert hub.repositories == {}


def test_a_new_repository_can_be_private(run, hub, tiny_pack, capsys):
    assert run("--pack", tiny_pack, "--hf_repo", "ann/tiny", "--private") == 0
    assert hub.private == {"ann/tiny"} and "meta.yaml" in hub.files("ann/tiny")
    assert 'espnet_larm.load("ann/tiny") loads it.' in capsys.readouterr().out


def test_what_is_no_pack_is_not_uploaded(run, hub, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"zip")
    with pytest.raises(ValueError, match=r"x.zip is damaged or no zip file"):
        run("--pack", tmp_path / "x.zip", "--hf_repo", "ann/tiny")
    with pytest.raises(FileNotFoundError, match=r"y.zip is missing"):
        run("--pack", tmp_path / "y.zip", "--hf_repo", "ann/tiny")
    assert hub.requests == []
