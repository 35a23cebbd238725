"""`python3 -m engine.agent ROOT`: the agent as a forced command, installed rather than sent over."""

from __future__ import annotations

import os
import sys

from engine.agent.frames import write_all
from engine.agent.server import serve


def main(argv: list[str]) -> int:
    """Greet, then serve ROOT on standard input and output."""
    if len(argv) != 2:
        sys.stderr.write("usage: python3 -m engine.agent ROOT\n")
        return 2
    write_all(1, [b"georep-agent 1\n"])
    return serve(os.fsencode(argv[1]), 0, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
