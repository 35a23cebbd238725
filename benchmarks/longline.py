"""A long line in front of a TCP port: every byte waits before it goes on. Prints the port it listens on.

    python -m benchmarks.longline TARGET_PORT DELAY_SECONDS [TARGET_HOST]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

WINDOW = 4 << 20
"""Bytes on their way in one direction at most."""


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW // 65536)

    async def leave() -> None:
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    leaving = asyncio.create_task(leave())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await line.put((loop.time() + delay, data))
    await line.put((loop.time() + delay, b""))
    with contextlib.suppress(ConnectionError):
        await leaving


async def main(target: int, delay: float, host: str) -> None:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, target)
        await asyncio.gather(_carry(reader, back, delay), _carry(there, writer, delay))
        writer.close()
        back.close()

    server = await asyncio.start_server(one, host, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"))
