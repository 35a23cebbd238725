"""What the index says of what was committed: rows get the size and the times that their objects have at the commit."""

from __future__ import annotations

import os
import stat as _stat
from typing import Optional

from engine.agent.handles import OpError, ident_of
from engine.agent.heal import NOWHERE
from engine.agent.tree import Tree, Where
from engine.agent.types import LIMBO, Gfid


def seen(tree: Tree, where: Where, gfid: Gfid, st: Optional[os.stat_result] = None) -> None:
    """What was done to an object has ended: its row gets what the commit will find, `st` where that was looked at."""
    row = where.row
    if row is None or row.kind == _stat.S_IFDIR:
        return
    if st is None:
        st = os.stat(where.name, dir_fd=where.pfd, follow_symlinks=False)
    if st.st_nlink > 1 or row.parent in (LIMBO, NOWHERE) or ident_of(st) != row.ident:
        tree.touched.add(gfid)
        return
    tree.touched.discard(gfid)
    tree.index.note((row.parent, row.name), st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def renew(tree: Tree) -> None:
    """Before a commit: the rows of what was touched say what is on disk now."""
    touched, tree.touched = tree.touched, set()
    for gfid in touched:
        for row in tree.index.rows(gfid):
            if row.parent in (LIMBO, NOWHERE) or row.kind == _stat.S_IFDIR:
                continue
            try:
                st = os.stat(row.name, dir_fd=tree.dirfd(row.parent), follow_symlinks=False)
            except (OpError, OSError):
                continue  # an operation on it will say so
            if ident_of(st) == row.ident and _stat.S_IFMT(st.st_mode) == row.kind:
                tree.index.note((row.parent, row.name), st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        tree.dirs.settle()
    tree.index.relieve()
