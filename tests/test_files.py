from __future__ import annotations

from pathlib import Path

import pytest

from vitexplain_utils.show import write_whole


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "note.bin"
    for content in (b"first", b"second \x00\xff", b""):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    there, link = tmp_path / "there.bin", tmp_path / "link.bin"
    for content in (b"first", b"second"):
        link.unlink(missing_ok=True)
        link.symlink_to(there)
        write_whole(link, content)
        assert link.is_symlink() and there.read_bytes() == content
    link.unlink()
    link.symlink_to(tmp_path / "nowhere" / "note.bin")
    with pytest.raises(FileNotFoundError, match=r"link\.bin"):
        write_whole(link, content)


def half(self: Path, content: bytes) -> int:
    with self.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError("the disk is full")


def refuse(self: Path, target: Path) -> Path:
    raise OSError("no")


@pytest.mark.parametrize(("name", "failing"), [("write_bytes", half), ("replace", refuse)])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_leaves_all_as_it_was(tmp_path, monkeypatch, name, failing, exists):
    path = tmp_path / "note.bin"
    if exists:
        path.write_bytes(b"old")
    monkeypatch.setattr(Path, name, failing)
    with pytest.raises(OSError):
        write_whole(path, b"a new and longer content")
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or path.read_bytes() == b"old"


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "note.bin", b"content")
    assert list(tmp_path.iterdir()) == []
