"""The control calls of the agent: JSON in, JSON out. Gfids are hex; names and paths base64."""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import sys
import time
from typing import Any, Callable, Optional

from engine.agent import foreign
from engine.agent.frames import PROTOCOL
from engine.agent.gluster import GlusterTarget, Secondary
from engine.agent.handles import OpError
from engine.agent.hashing import Hashing
from engine.agent.listing import b64
from engine.agent.state import CallError, Holding, Place, look
from engine.agent.target import Target, TreeTarget
from engine.agent.tree import Mode, gfid_of_name
from engine.agent.types import Gfid, Slot, Stat

VERSION = "0.1.0"
MAX_DIGESTS = 256
"""Most files in one call `digest`."""

Params = dict[str, Any]
Result = dict[str, Any]


class Calls:
    """Answers calls. Used by the main thread; `digest` is answered later, by the hashing thread."""

    def __init__(self, root: bytes, hashing: Hashing) -> None:
        self._root = root
        self._hashing = hashing
        self.held: Optional[Target] = None
        self._volume: Optional[Secondary] = None
        self.timeout = 0.0
        """Seconds without any frame after which the agent leaves; 0 = never."""
        self._methods: dict[str, Callable[[Params], Result]] = {
            "hello": self._hello, "begin": self._begin, "keepalive": self._keepalive, "statfs": self._statfs,
            "adopt_begin": self._adopt_begin, "adopt_end": self._adopt_end, "foreign": self._foreign,
            "sweep": self._sweep, "limbo": self._limbo, "commit": self._commit, "lookup": self._lookup,
            "taken": self._taken, "list": self._list, "place": self._place, "remove": self._remove,
            "set_aside": self._set_aside, "clear_slot": self._clear_slot, "stage": self._stage,
            "unwritten": self._unwritten, "unstage": self._unstage, "here": self._here, "arrived": self._arrived,
            "torn": self._torn,
        }  # fmt: skip

    def answer(self, ident: int, request: object) -> Optional[dict[str, Any]]:
        """The reply object to a request; None when another thread answers. sqlite3.Error passes."""
        try:
            if not isinstance(request, dict) or not isinstance(request.get("method"), str):
                raise CallError("a call without a method", "bad-request", "", errno.EBADMSG)
            method, params = request["method"], request.get("params") or {}
            if not isinstance(params, dict):
                raise CallError(f"{method}: params must be an object", "bad-request", "", errno.EBADMSG)
            if self.held is not None:
                self.held.settle()
            if method == "digest":
                return self._digest(ident, params)
            run = self._methods.get(method)
            if run is None:
                raise CallError(f"call {method!r} is not known", "unknown-call", "", errno.ENOSYS)
            return {"result": run(params)}
        except CallError as e:
            return _error(e.text, e.code, e.errno, e.hint, node=e.node)
        except OpError as e:
            return _error(e.text, "operation", e.errno, found=e.found)
        except OSError as e:
            return _error(os.strerror(e.errno or errno.EIO), "system", e.errno or errno.EIO)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            return _error(f"bad parameters: {type(e).__name__}: {e}", "bad-request", errno.EINVAL)

    def need(self) -> Target:
        """What `begin` opened. CallError before it."""
        if self.held is None:
            raise CallError("begin comes first", "not-begun", "", errno.EPERM)
        return self.held

    def _tree(self) -> TreeTarget:
        """The same, where only a tree has what is asked for."""
        held = self.need()
        if not isinstance(held, TreeTarget):
            raise CallError("a volume has no such thing", "not-a-tree", "", errno.ENOSYS)
        return held

    def close(self, clean: bool) -> None:
        """Let the target go."""
        held, self.held = self.held, None
        try:
            if held is not None:
                held.close(clean)
        finally:
            if self._volume is not None:
                self._volume.close()
                self._volume = None

    # --- the session

    def _hello(self, params: Params) -> Result:
        if params.get("protocol") != PROTOCOL:
            raise CallError(
                f"the agent speaks protocol {PROTOCOL}, the engine {params.get('protocol')}",
                "other-protocol", "use the same version on both sides", errno.EPROTONOSUPPORT,
            )  # fmt: skip
        if params.get("volume"):
            found = self._secondary(params).look(str(params.get("session") or ""), str(params.get("brick") or ""))
        else:
            found = look(self._place_of(params))
        return {
            "protocol": PROTOCOL, "version": VERSION, "python": sys.version.split()[0], "pid": os.getpid(),
            "uid": os.geteuid(), "node": os.uname().nodename, "time": time.time(), **found,
        }  # fmt: skip

    def _place_of(self, params: Params) -> Place:
        if not self._root:
            raise CallError("neither a directory nor a volume was named", "bad-request", "", errno.EINVAL)
        return Place(self._root, _name(params))

    def _secondary(self, params: Params) -> Secondary:
        """The volume, mounted once."""
        if self._volume is None:
            self._volume = Secondary(dict(params["volume"]))
        return self._volume

    def _begin(self, params: Params) -> Result:
        if self.held is not None:
            raise CallError("begun already", "begun", "", errno.EBUSY)
        session = {k: str(params[k]) for k in ("session", "brick", "primary")}
        take_over, wait = bool(params.get("take_over")), float(params.get("wait") or 0.0)
        answer: Result = {"index_lost": False, "recovering": False, "limbo": []}
        if params.get("volume"):
            self.held = GlusterTarget(self._secondary(params), session, take_over=take_over, wait=wait)
        else:
            holding = Holding(self._place_of(params), session, take_over=take_over,
                              create=bool(params.get("create")), wait=wait)  # fmt: skip
            self.held = TreeTarget(holding)
            answer = {
                "index_lost": holding.index_lost, "recovering": holding.recovering,
                "limbo": sorted(g.hex() for g in holding.tree.limbo),
            }  # fmt: skip
        self.timeout = float(params.get("timeout") or 0.0)
        return {**answer, "statfs": self.held.statfs()}

    def _keepalive(self, _: Params) -> Result:
        return {"time": time.time()}

    def _statfs(self, _: Params) -> Result:
        return {"statfs": self.need().statfs()}

    def _commit(self, params: Params) -> Result:
        held = self.need()
        mark = params.get("mark")
        keep = params.get("keep_deleted")
        if mark is not None:
            mark = {"sec": int(mark["sec"]), "nsec": int(mark["nsec"])}
        extra = {k: params[k] for k in ("entry_mark", "names") if params.get(k) is not None}
        if isinstance(held, GlusterTarget):
            return held.commit(mark, extra)
        return self._tree().holding.commit(
            [_gfid(g) for g in params.get("purge") or []],
            purge_foreign=bool(params.get("purge_foreign")),
            keep_deleted=None if keep is None else float(keep),
            mark=mark,
            extra=extra,
        )

    # --- adoption

    def _adopt_begin(self, params: Params) -> Result:
        if isinstance(self.need(), GlusterTarget):
            return {}  # every object there has its gfid: there is nothing to take over
        holding = self._tree().holding
        checksum = params.get("adopt", "metadata") == "checksum"
        mode = Mode(bool(params.get("replace")), checksum, False)
        holding.begin_adoption(mode, bool(params.get("clear", True)))
        return {}

    def _adopt_end(self, _: Params) -> Result:
        if isinstance(self.need(), TreeTarget):
            self._tree().holding.set_mode(None)
        return {}

    def _foreign(self, params: Params) -> Result:
        tree = self._tree().tree
        limit = int(params.get("limit", 20))
        total = 0
        shown: list[foreign.Foreign] = []
        for f in foreign.walk(tree):
            total += 1
            if f.top and len(shown) < limit:
                shown.append(f)
        entries = []
        for f in shown:
            st = foreign.stat_of(tree, f.path)
            entries.append({"path": b64(b"/".join(f.path)), "kind": f.kind, "size": 0 if st is None else st.st_size})
        sample = [b"/".join(f.path).decode("utf-8", "backslashreplace") for f in shown]
        return {"total": total, "sample": sample, "entries": entries}

    def _sweep(self, _: Params) -> Result:
        held = self._tree()
        held.applying()
        return {"moved": foreign.sweep(held.tree)}

    def _limbo(self, _: Params) -> Result:
        objects: list[Result] = []
        held = self.need()
        if not isinstance(held, TreeTarget):
            return {"objects": objects}
        for one in foreign.in_limbo(held.tree):
            gfid = gfid_of_name(one.name)
            objects.append({
                "gfid": gfid.hex() if gfid else None, "name": None if gfid else b64(one.name), "kind": one.kind,
                "objects": one.objects, "bytes": one.size,
            })  # fmt: skip
        return {"objects": objects}

    # --- looking

    def _lookup(self, params: Params) -> Result:
        held = self.need()
        found: dict[str, Any] = {}
        for text in params["gfids"]:
            one = held.lookup(_gfid(text))
            if one is not None:
                found[text] = one
        return {"objects": found}

    def _taken(self, params: Params) -> Result:
        return {"taken": [g.hex() for g in self.need().taken([_slot(s) for s in params["slots"]])]}

    def _list(self, params: Params) -> Result:
        after = base64.b64decode(params.get("after") or "")
        limit = max(1, min(int(params.get("limit", 1000)), 2000))
        entries = self.need().page(_gfid(params["gfid"]), after, limit, bool(params.get("xattrs")))
        return {"entries": entries}

    def _digest(self, ident: int, params: Params) -> Optional[Result]:
        held = self.need()
        wanted = params["gfids"]
        if len(wanted) > MAX_DIGESTS:
            raise CallError(f"{len(wanted)} files in one digest; at most {MAX_DIGESTS}", "bad-request", "", errno.E2BIG)
        algorithm = str(params.get("algo") or "sha256")
        if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
            raise CallError(f"digest {algorithm!r} is not known", "bad-request", "", errno.EINVAL)
        files: list[tuple[str, int]] = []
        failed: dict[str, Any] = {}
        for text in wanted:
            try:
                files.append((text, held.open_file(_gfid(text))))
            except OpError as e:
                failed[text] = {"digest": None, "errno": e.errno, "text": e.text}
            except OSError as e:
                failed[text] = {"digest": None, "errno": e.errno, "text": os.strerror(e.errno or errno.EIO)}
        self._hashing.digests(ident, files, failed, algorithm)
        return None

    # --- repair

    def _place(self, params: Params) -> Result:
        held = self.need()
        held.applying()
        xattrs = params.get("xattrs")
        placed = held.place(
            _gfid(params["gfid"]), [_slot(s) for s in params["slots"]], [_slot(s) for s in params.get("drop") or ()],
            Stat._make(params["stat"]),
            None if params.get("link") is None else base64.b64decode(params["link"]),
            None if xattrs is None else {base64.b64decode(k): base64.b64decode(v) for k, v in xattrs.items()},
            bool(params.get("replace")),
        )  # fmt: skip
        failed = placed.failed
        return {
            "made": placed.made, "data": placed.data, "size": placed.size, "mtime_ns": placed.mtime_ns,
            "errno": 0 if failed is None else failed.errno, "text": "" if failed is None else failed.text,
            "nlink": placed.nlink, "beyond": [_shown(slot) for slot in placed.beyond],
        }  # fmt: skip

    def _remove(self, params: Params) -> Result:
        held = self.need()
        held.applying()
        slots = [_slot(s) for s in params["slots"]]
        names, beyond = held.remove(_gfid(params["gfid"]), slots, {_gfid(g) for g in params.get("below") or ()})
        return {"names": names, "beyond": [_shown(slot) for slot in beyond]}

    def _here(self, params: Params) -> Result:
        return {"here": [g.hex() for g in self.need().here([_gfid(g) for g in params["gfids"]])]}

    def _set_aside(self, params: Params) -> Result:
        held = self.need()
        held.applying()
        return {"names": held.set_aside(_gfid(params["gfid"]), [_slot(s) for s in params["slots"]])}

    def _clear_slot(self, params: Params) -> Result:
        held = self.need()
        held.applying()
        return {"cleared": held.clear_slot(_slot(params), bytes.fromhex(str(params["gfid"])))}

    def _stage(self, params: Params) -> Result:
        held = self.need()
        held.applying()
        gfids = [_gfid(g) for g in params["gfids"]]
        sizes = [int(n) for n in params.get("sizes") or [0] * len(gfids)]
        return held.stage(gfids, sizes, bool(params.get("basis", True)))

    def _arrived(self, params: Params) -> Result:
        self.need().arrived(str(params["token"]), [_gfid(g) for g in params["gfids"]])
        return {}

    def _torn(self, _: Params) -> Result:
        return {"torn": sorted(g.hex() for g in self.need().torn())}

    def _unwritten(self, params: Params) -> Result:
        return {"unwritten": [g.hex() for g in self.need().unwritten(str(params["token"]))]}

    def _unstage(self, params: Params) -> Result:
        return self.need().unstage(str(params["token"]))


def _name(params: Params) -> bytes:
    """The brick's name under the root; text in UTF-8, as it was typed."""
    return os.fsencode(str(params.get("root_name") or ""))


def _gfid(text: object) -> Gfid:
    gfid = bytes.fromhex(str(text))
    if len(gfid) != 16:
        raise ValueError(f"not a gfid: {text!r}")
    return gfid


def _slot(params: Params) -> Slot:
    try:
        return Slot(_gfid(params["parent"]), base64.b64decode(params["name"], validate=True))
    except binascii.Error as e:
        raise ValueError(f"a name that is not base64: {params['name']!r}") from e


def _shown(slot: Slot) -> dict[str, str]:
    return {"parent": slot.parent.hex(), "name": b64(slot.name)}


def _error(text: str, code: str, number: int, hint: str = "", found: Gfid = b"",
           node: Optional[dict[str, str]] = None) -> dict[str, Any]:  # fmt: skip
    """`found` is the gfid that was in the way, `node` who would not refuse it."""
    error: dict[str, Any] = {"text": text, "code": code, "errno": number, "hint": hint}
    if found:
        error["found"] = found.hex()
    if node is not None:
        error["node"] = node
    return {"error": error}
