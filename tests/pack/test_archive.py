"""Zip files: the same bytes for the same input, and what is refused of a stranger's."""

import stat
import zipfile

import pytest

from espnet_larm.pack.archive import digest, extract, open_archive, write_archive


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "a.zip"
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    write_archive(path, {"meta.yaml": b"a: 1\n", "sub/weights": tmp_path / "weights"})
    return path


def write(path, *members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def test_members_come_back_as_they_were(pack, tmp_path):
    with open_archive(pack) as archive:
        extract(archive, tmp_path / "out", set(archive.namelist()))
    assert (tmp_path / "out/meta.yaml").read_bytes() == b"a: 1\n"
    assert (tmp_path / "out/sub/weights").read_bytes() == b"w" * 3_000_000
    assert not list((tmp_path / "out").rglob("*.part"))


def test_same_input_gives_the_same_bytes(pack, tmp_path):
    other = tmp_path / "copy"
    other.write_bytes((tmp_path / "weights").read_bytes())
    other.chmod(0o600)
    write_archive(tmp_path / "b.zip", {"meta.yaml": b"a: 1\n", "sub/weights": other})
    assert digest(tmp_path / "b.zip") == digest(pack)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:evil", "a\\..\\evil", "."])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    path = write(tmp_path / "a.zip", ("meta.yaml", b""), (name, b"x"))
    with (
        pytest.raises(ValueError, match="leaves the folder; it is refused, and nothing was unpacked"),
        open_archive(path),
    ):
        pass


@pytest.mark.parametrize("name", ["a//b", "./a", "a/./b", "a\x1bb"])
def test_names_that_are_not_plain_are_refused(tmp_path, name):
    path = write(tmp_path / "a.zip", (name, b"x"))
    with pytest.raises(ValueError, match="not its plain one"), open_archive(path):
        pass


@pytest.mark.parametrize("names", [["sub/A", "sub/a"], ["\u00e9", "e\u0301"]])
def test_names_that_some_file_systems_take_for_one_are_refused(tmp_path, names):
    path = write(tmp_path / "a.zip", *((name, b"x") for name in names))
    with pytest.raises(ValueError, match="is there twice"), open_archive(path):
        pass


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "compression", "message"),
    [
        ([(link("config.yaml"), b"/etc/passwd")], zipfile.ZIP_STORED, r"'config.yaml' is a link or a device"),
        (
            [("bomb", b"0" * 10_000_000)],
            zipfile.ZIP_DEFLATED,
            "would grow from .* to 10000000 bytes; allowed: 10 times",
        ),
        ([("a", b"1"), ("a", b"2")], zipfile.ZIP_STORED, "is there twice"),
        ([("a", b"1")], zipfile.ZIP_LZMA, "is compressed by method 14"),
    ],
    ids=["link", "bomb", "hidden", "compression"],
)
def test_harmful_members_are_refused(tmp_path, members, compression, message):
    path = write(tmp_path / "a.zip", *members, compression=compression)
    with pytest.raises(ValueError, match=message), open_archive(path):
        pass


def test_a_pack_that_was_zipped_again_is_read(tmp_path):
    path = write(tmp_path / "a.zip", ("sub/", b""), ("sub/a", b"12"), compression=zipfile.ZIP_DEFLATED)
    with open_archive(path) as archive:
        extract(archive, tmp_path / "out", set(archive.namelist()))
    assert (tmp_path / "out/sub/a").read_bytes() == b"12"


def test_links_in_the_target_are_not_followed(pack, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out/meta.yaml").symlink_to(tmp_path / "mine")
    (tmp_path / "out/.meta.yaml.part").symlink_to(tmp_path / "mine")
    with open_archive(pack) as archive:
        extract(archive, tmp_path / "out", set(archive.namelist()))
    assert (tmp_path / "mine").read_text() == "mine"


def test_damage_is_named(pack, tmp_path):
    whole = pack.read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"short.zip is damaged or no zip file"), open_archive(tmp_path / "short.zip"):
        pass
    (tmp_path / "changed.zip").write_bytes(whole.replace(b"www", b"wvw", 1))
    with pytest.raises(ValueError, match="damaged"), open_archive(tmp_path / "changed.zip") as archive:
        extract(archive, tmp_path / "out", set(archive.namelist()))
    with (
        pytest.raises(FileNotFoundError, match=r"none.zip is missing; a pack is a zip file"),
        open_archive(tmp_path / "none.zip"),
    ):
        pass
