"""A line that can be cut: a TCP proxy in front of a port, which counts bytes, stalls, breaks and heals."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Self


class Line:
    """Listens on `port` of 127.0.0.1 and carries every connection to `target` there.

    `sent` and `received` count the bytes that went towards the target and came back, over all connections.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        """`delay`: seconds every byte is on its way, in either direction."""
        self.target = target
        self.delay = delay
        self.sent = 0
        self.received = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Break every connection, and every new one at once."""
        self._do(self._cut())

    def stall(self) -> None:
        """Carry nothing any more, without telling either end: as a failing network does."""
        self._do(self._set(False))

    def heal(self) -> None:
        """Carry again. What broke stays broken; what stalled goes on."""
        self._do(self._set(True))

    def close(self) -> None:
        """Break everything and leave the port."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _set(self, flows: bool) -> None:
        if flows:
            self._refuses = False
            self._flows.set()
        else:
            self._flows.clear()

    async def _cut(self) -> None:
        self._refuses = True
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            if self._refuses:
                return
            back, there = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(there)
            await asyncio.gather(self._carry(reader, there, out=True), self._carry(back, writer, out=False))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, out: bool) -> None:
        if self.delay:
            late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
            await asyncio.gather(self._enter(reader, late), self._leave(late, writer, out=out))
            return
        while data := await reader.read(1 << 18):
            await self._flows.wait()
            if out:
                self.sent += len(data)
            else:
                self.received += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _enter(self, reader: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            data = await reader.read(1 << 16)
            await late.put((self._loop.time() + self.delay, data))
            if not data:
                return

    async def _leave(
        self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, out: bool
    ) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._flows.wait()
            if not data:
                break
            if out:
                self.sent += len(data)
            else:
                self.received += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
