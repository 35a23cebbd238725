"""The peers side by side: georep-tui, rsync, and tar through ssh, on this machine."""
