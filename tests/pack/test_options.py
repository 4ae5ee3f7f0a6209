"""Configurations in packs: no paths of the machine, no foreign code, plain YAML."""

import pytest

from espnet_larm.pack.options import (
    check_self_contained,
    check_tokens,
    dump_yaml,
    file_options,
    locate,
    make_portable,
    parse_yaml,
    with_option,
)

PLAIN = {
    "encoder": "larm",
    "frontend": "default",
    "decoder": None,
    "token_list": ["<blank>", "A"],
    "token_type": "char",
}


def test_plain_configuration_is_accepted():
    check_self_contained(PLAIN)
    check_self_contained({**PLAIN, "encoder": "conformer", "decoder": "transformer"})
    check_self_contained({**PLAIN, "frontend": "affinity_pooling", "frontend_conf": {"frontend": "default"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": "hubert"},
            "encoder: hubert cannot be in a pack: .* files or code from elsewhere. Allowed: .*larm",
        ),
        ({"encoder": "os:system"}, "encoder: os:system cannot be in a pack"),
        ({"frontend": "s3prl"}, "frontend: s3prl cannot be in a pack"),
        (
            {"frontend": "affinity_pooling", "frontend_conf": {"frontend": "s3prl", "tau": 0.9}},
            "frontend: s3prl cannot be in a pack",
        ),
        ({"decoder": "hugging_face_transformers"}, "decoder: hugging_face_transformers cannot"),
        ({"decoder": "s4"}, "decoder: s4 cannot"),
        ({"token_type": "hugging_face"}, "token_type: hugging_face cannot be in a pack. Allowed: bpe"),
        ({"token_list": "/etc/passwd"}, "token_list must be a list of tokens"),
        ({"token_list": [1]}, "token_list must be a list of tokens"),
        ({"encoder": ["larm"]}, "encoder: .* cannot be in a pack"),
    ],
)
def test_what_takes_files_or_code_from_elsewhere_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_self_contained({**PLAIN, **change})


def test_files_are_named_as_in_the_pack_and_places_left_out(tmp_path):
    (tmp_path / "exp/asr").mkdir(parents=True)
    for name in ("stats.npz", "bpe.model"):
        (tmp_path / name).touch()
    config = {
        **PLAIN,
        "bpemodel": "bpe.model",
        "normalize_conf": {"stats_file": str(tmp_path / "stats.npz"), "norm_vars": True},
        "output_dir": "/home/me/exp",
        "rir_scp": "/home/me/rirs",
        "seed": 3,
    }
    portable, files = make_portable(config, tmp_path / "exp/asr")
    assert files == {"stats.npz": tmp_path / "stats.npz", "bpe.model": tmp_path / "bpe.model"}
    assert portable["normalize_conf"] == {"stats_file": "stats.npz", "norm_vars": True}
    assert portable["bpemodel"] == "bpe.model" and portable["seed"] == 3 and portable["rir_scp"] is None
    assert "output_dir" not in portable and "/home/me" not in dump_yaml(portable).decode()
    assert config["normalize_conf"]["stats_file"] == str(tmp_path / "stats.npz")


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").touch()
    with pytest.raises(ValueError, match="have one name; rename one of them"):
        make_portable({"bpemodel": "a/x", "non_linguistic_symbols": "b/x"}, tmp_path)


def test_files_are_found_from_the_recipes_folder_above(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "exp/asr").mkdir(parents=True)
    (tmp_path / "exp/stats.npz").touch()
    assert locate("exp/stats.npz", tmp_path / "exp/asr") == tmp_path / "exp/stats.npz"
    with pytest.raises(FileNotFoundError, match=r"exp/none.npz is missing \(config.yaml in .*exp/asr names it\)"):
        locate("exp/none.npz", tmp_path / "exp/asr")


def test_file_options_are_found_and_set_without_changing_the_original():
    inner = {"stats_file": "a"}
    config = {"normalize_conf": inner, "bpemodel": None, "non_linguistic_symbols": "b"}
    assert dict(file_options(config)) == {("normalize_conf", "stats_file"): "a", ("non_linguistic_symbols",): "b"}
    changed = with_option(config, ("normalize_conf", "stats_file"), "c")
    assert changed == {**config, "normalize_conf": {"stats_file": "c"}} and inner == {"stats_file": "a"}
    assert with_option(config, ("bpemodel",), "d") == {**config, "bpemodel": "d"} and config["bpemodel"] is None


def test_yaml_comes_back_as_it_was():
    content = {"b": [1, None, "ü", "<space>"], "a": {"x": 1.5}}
    assert parse_yaml("x", dump_yaml(content)) == content
    assert list(parse_yaml("x", dump_yaml(content))) == ["b", "a"]


@pytest.mark.parametrize(
    "text",
    [
        b"a: !!python/object/apply:os.system [echo]\n",
        b"a: &x [1]\nb: *x\n",
        b"a: [\n",
        b"\xff\xfe\xff",
        b"[" * 5000,
    ],
)
def test_yaml_that_makes_objects_or_grows_is_refused(text):
    with pytest.raises(ValueError, match="x.yaml is refused"):
        parse_yaml("x.yaml", text)


@pytest.mark.parametrize("text", [b"- 1\n", b"1: a\n", b""])
def test_yaml_without_options_is_refused(text):
    with pytest.raises(ValueError, match=r"x.yaml holds no options"):
        parse_yaml("x.yaml", text)


def test_an_lms_tokens_may_hold_anything_its_tokenizer_spells():
    check_tokens(["<bos>", "\x1b[", "\u202e"], "hugging_face")
    with pytest.raises(ValueError, match="control character"):
        check_tokens(["<blank>", "\u202e"], "bpe")
