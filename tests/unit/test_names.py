"""Names that are not UTF-8 reach every reader: escaped, with their bytes beside them."""

from __future__ import annotations

import base64
import json
import os

from hypothesis import given
from hypothesis import strategies as st

from engine.names import escaped, shown


def test_escaped_with_its_bytes() -> None:
    name = b"\xffa\xc3\xa9"
    found = escaped({"brick": os.fsdecode(name), "n": 1})
    assert found == {"brick": "\\xffaé", "brick_b64": base64.b64encode(name).decode(), "n": 1}
    assert shown(name) == "\\xffaé"


def test_lists_of_names() -> None:
    found = escaped({"held": {"sample": ["fine", os.fsdecode(b"\x80")]}})
    assert found["held"]["sample"] == ["fine", "\\x80"]
    assert [base64.b64decode(s) for s in found["held"]["sample_b64"]] == [b"fine", b"\x80"]


def test_the_same_object_where_nothing_is_to_do() -> None:
    """A snapshot twice a second is not copied for nothing."""
    document = {"a": [{"b": "ü"}, "x", 1.5, None, True], "c": {}}
    assert escaped(document) is document


_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary().map(os.fsdecode) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(_documents)
def test_every_document_becomes_strict_utf_8(document: object) -> None:
    json.dumps(escaped(document), ensure_ascii=False).encode("utf-8")


@given(st.binary(max_size=50))
def test_no_name_is_lost(name: bytes) -> None:
    found = escaped({"path": os.fsdecode(name)})
    kept = base64.b64decode(found["path_b64"]) if "path_b64" in found else os.fsencode(found["path"])
    assert kept == name
