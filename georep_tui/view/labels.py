"""Short names of bricks: as little of node and path as tells one from the others of its session."""

from __future__ import annotations

from functools import lru_cache

from georep_tui.view.snapshot import Session


def short_labels(session: Session) -> dict[str, str]:
    """For each brick's id the shortest of: nothing (it is the only one), its last name, `node:name`, `node:/path`."""
    return _labels(tuple((one.id, one.node, one.brick) for one in session.bricks))


@lru_cache(maxsize=256)
def _labels(bricks: tuple[tuple[str, str, str], ...]) -> dict[str, str]:
    if len(bricks) == 1:
        return {bricks[0][0]: ""}
    for shape in ("{name}", "{node}:{name}"):
        found = {ident: shape.format(node=node, name=_last(path)) for ident, node, path in bricks}
        if len(set(found.values())) == len(bricks):
            return found
    return {ident: f"{node}:{path}" if node else path for ident, node, path in bricks}


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1] or path
