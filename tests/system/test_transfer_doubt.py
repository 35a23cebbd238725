"""SYN-5, SYN-6, SYN-8, ERR-6: rsync and tarssh while files change or vanish, and programs that are not believed."""

from __future__ import annotations

import os
import time

import pytest

from engine.transfer.staged import ROUNDS, Carried, Stage
from tests.system.transfer_rig import ENGINES, Meddler, Rig, write

@pytest.mark.parametrize("name", ENGINES)
def test_syn6_vanished_files_are_success_or_gone(here: Rig, name: str) -> None:
    for i in range(1200):
        (here.primary / f"f{i:04}").write_bytes(b"%d" % i)
    files = here.make()
    lost = [here.gfid(f"f{i:04}") for i in range(100)]
    for i in range(100):
        (here.primary / f"f{i:04}").unlink()
    result = here.send(here.engine(name), files, files)
    assert result.gone == lost or set(result.gone) == set(lost)  # the index still has them: look again
    assert len(result.sent) == 1100
    here.scan()
    result = here.send(here.engine(name), files)
    assert result.gone == [] and result.problems == []  # nor the index: success
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_err6_a_thousand_files_vanish_while_they_are_sent(here: Rig, name: str) -> None:
    for i in range(1500):
        (here.primary / f"f{i:04}").write_bytes(b"%d" % i)
    files = here.make()
    engine = here.engine(name)

    def vanish() -> None:
        for i in range(1000):
            (here.primary / f"f{i:04}").unlink(missing_ok=True)

    Meddler(engine, vanish, None)
    result = here.send(engine, files, files)
    assert len(result.gone) == 1000 and len(result.sent) == 500
    assert not result.problems


@pytest.mark.parametrize("name", ENGINES)
def test_syn8_a_file_that_changes_meanwhile_is_sent_again(here: Rig, name: str) -> None:
    path = here.primary / "f"
    path.write_bytes(b"first")
    (here.primary / "other").write_bytes(b"other")
    files = here.make()
    engine = here.engine(name)
    after = iter((b"other", b"third!"))

    def change() -> None:
        data = next(after, None)
        if data is not None:
            path.write_bytes(data)

    meddler = Meddler(engine, None, change)
    result = here.send(engine, files, files)
    assert result.sent == set(files)
    assert meddler.calls == 3
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn8_same_size_and_time_but_changed_meanwhile(here: Rig, name: str) -> None:
    path = here.primary / "f"
    path.write_bytes(b"first")
    files = here.make()
    engine = here.engine(name)
    once = iter((1,))

    def change() -> None:
        if next(once, None):
            old = path.stat()
            path.write_bytes(b"secnd")
            os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

    meddler = Meddler(engine, None, change)
    assert here.send(engine, files, files).sent == set(files)
    assert meddler.calls == 2
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn8_a_name_that_leads_to_another_file_meanwhile(here: Rig, name: str) -> None:
    path, aside = here.primary / "f", here.primary / "aside"
    path.write_bytes(b"the file")
    files = here.make()
    engine = here.engine(name)

    def swap() -> None:
        if path.exists():
            path.rename(aside)
            path.write_bytes(b"impostor")

    Meddler(engine, swap, None)
    result = here.send(engine, files, files)
    assert result.gone == files and not result.sent
    here.scan()
    assert here.send(here.engine(name), files).sent == set(files)
    with open(here.there("f"), "rb") as f:
        assert f.read() == b"the file"  # it is the object that counts; its new name is another record's


@pytest.mark.parametrize("name", ENGINES)
def test_syn8_a_file_that_never_rests_goes_by_stream(here: Rig, name: str) -> None:
    path = here.primary / "log"
    path.write_bytes(b"line\n")
    files = here.make()
    engine = here.engine(name)

    def grow() -> None:
        with open(path, "ab") as f:
            f.write(b"line\n")

    meddler = Meddler(engine, None, grow)
    result = here.send(engine, files, files)
    assert meddler.calls == ROUNDS
    assert result.sent == set(files)
    assert engine.fallback.fell_back == files  # type: ignore[attr-defined]
    assert "'log'" in here.lines[0] and "keeps changing" in here.lines[0]
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn5_a_program_that_lies_is_not_believed(here: Rig, name: str) -> None:
    """Exit 0, nothing done: what gsyncd 10.3 takes for success with rsync 3.5."""
    write(here.primary / "f", 5000)
    files = here.make()
    engine = here.engine(name)
    engine.carry = lambda *_: Carried()  # type: ignore[method-assign,assignment]
    result = here.send(engine, files, files)
    assert engine.fallback.fell_back == files  # type: ignore[attr-defined]
    assert "nothing was written to it" in here.lines[0]
    assert result.sent == set(files)
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn5_a_file_of_the_same_size_that_was_passed_over_is_seen(here: Rig, name: str) -> None:
    """Size and, once set, time would say that it is there: only that it was never written to tells."""
    (here.primary / "f").write_bytes(b"old")
    (here.primary / "g").write_bytes(b"one")
    files = here.make()
    engine = here.engine(name)
    here.send(engine, files, files)
    (here.primary / "f").write_bytes(b"new")
    (here.primary / "g").write_bytes(b"two")
    carry = engine.carry
    given: list[int] = []

    def one(stage: Stage, names: list[str], whole: bool) -> Carried:
        given.append(len(names))
        return carry(stage, names[:1], whole)

    engine.carry = one  # type: ignore[method-assign]
    assert here.send(engine, files).sent == set(files)
    assert given == [2, 1]
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn5_a_staged_name_that_is_another_file_is_not_believed(here: Rig, name: str) -> None:
    """It has another name elsewhere: what is put in place must be nobody else's."""
    (here.primary / "f").write_bytes(b"old")
    files = here.make()
    engine = here.engine(name)
    here.send(engine, files, files)
    (here.primary / "f").write_bytes(b"new")

    def replace(stage: Stage, names: list[str], _whole: bool) -> Carried:
        staged = os.path.join(stage.there, names[0].encode())
        os.unlink(staged)
        (here.primary.parent / "foreign").write_bytes(b"new")
        os.link(here.primary.parent / "foreign", staged)
        return Carried()

    engine.carry = replace  # type: ignore[method-assign]
    assert here.send(engine, files).sent == set(files)
    assert engine.fallback.fell_back == files  # type: ignore[attr-defined]
    assert "another file" in here.lines[0]
    here.assert_same()


@pytest.mark.parametrize("name", ENGINES)
def test_syn5_a_file_the_secondary_does_not_have_is_told_by_the_fallback(here: Rig, name: str) -> None:
    (here.primary / "here").write_bytes(b"here")
    files = here.make()
    (here.primary / "not there").write_bytes(b"x")
    here.scan()
    missing = here.gfid("not there")
    result = here.send(here.engine(name), [*files, missing])
    assert result.sent == set(files)
    assert [(p.gfid, p.operation) for p in result.problems] == [(missing, "DATA")]


@pytest.mark.parametrize("name", ENGINES)
def test_syn8_a_fifo_takes_a_names_place_meanwhile(here: Rig, name: str) -> None:
    """rsync opens what it listed as a file, and would wait for a writer for ever; a large one before it gives time."""
    for large in ("f", "g"):
        write(here.primary / large, 16 << 20, seed=ord(large))
    files = here.make()
    later = max("fg", key=here.gfid)
    throttle = here.watch.throttle

    def replace(nbytes: int) -> None:
        if here.watch.throttled > 1 << 20 and not (here.primary / later).is_fifo():
            (here.primary / later).unlink()
            os.mkfifo(here.primary / later)
        throttle(nbytes)

    here.watch.throttle = replace  # type: ignore[method-assign]
    began = time.monotonic()
    result = here.send(here.engine(name), files, files)
    assert time.monotonic() - began < 20
    assert len(result.sent) == 1 and result.problems == [] and result.gone == [here.gfid(later)]
