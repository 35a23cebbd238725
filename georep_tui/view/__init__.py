"""Pure functions from snapshots and events to rows, texts and verdicts: no terminal, no clock, no files."""
