"""The transfer engine the configuration asks for, with as many jobs as it says (`sync_method`, `sync_jobs`)."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from engine.apply import Watch
from engine.link import Link, SshTarget
from engine.options import Options
from engine.transfer.base import Transfer
from engine.transfer.jobs import Engine, Parallel
from engine.transfer.rsync import RsyncTransfer
from engine.transfer.staged import clear_stages
from engine.transfer.stream import Stream
from engine.transfer.tarssh import TarTransfer
from engine.volume.base import View


def parallel(
    options: Callable[[], Options],
    new_view: Callable[[], View],
    link: Link,
    watch: Watch,
    *,
    root: bytes,
    state: str,
    target: SshTarget,
    log: Callable[[str, str], None],
    name: str,
) -> Parallel:
    """The rsync or tarssh engine with `sync_jobs` jobs, to be closed before the link is (SYN-1…3).

    `new_view` gives a view of the tree at `root` with a root descriptor and an index connection of its own; `state` is
    the brick's state directory, `name` goes into the names of threads. `watch` is told from all jobs. Number of jobs
    and words for rsync are those of `options` at each use.
    """
    clear_stages(state)

    def stream(view: View) -> Stream:
        now = options()
        return Stream(view, link, watch, delta_threshold=now.delta_threshold, xattrs=now.sync_xattrs)

    def make() -> Engine:
        now = options()
        view = new_view()

        engine: Transfer
        if now.sync_method == "tarssh":
            engine = TarTransfer(
                view, link, watch, stream(view), root=root, state=state, target=target, log=log,
                timeout=now.secondary_timeout, xattrs=now.sync_xattrs,
            )  # fmt: skip
        else:
            more = tuple(shlex.split(now.rsync_ssh_options))
            engine = RsyncTransfer(
                view, link, watch, stream(view), root=root, state=state, log=log,
                target=replace(target, options=(*target.options, *more)), timeout=now.secondary_timeout,
                xattrs=now.sync_xattrs, command=now.rsync_command, options=tuple(shlex.split(now.rsync_options)),
                existing=now.rsync_opt_existing, delta_threshold=now.delta_threshold,
            )  # fmt: skip
        return Engine(engine, view.end)

    return Parallel(make, lambda: options().sync_jobs, name)
