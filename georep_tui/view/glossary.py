"""The words of the field, explained for the help."""

from __future__ import annotations

TERMS: tuple[tuple[str, str], ...] = (
    ("primary", "the side that changes; what happens here is replicated"),
    ("secondary", "the side that receives; a replica nobody else should write to"),
    ("session", "one replication: a primary, a secondary, and all bricks between them"),
    ("brick", "one directory that holds part of the primary; each has a worker of its own"),
    ("gfid", "the identity of a file or directory; it stays the same when it is renamed"),
    ("changelog", "a journal of what changed in a brick during one time slice"),
    ("crawl", "how changes are found: L changelog (live), Y history (what piled up), H hybrid (compares everything)"),
    ("xsync", "another word for the hybrid crawl; x forces one"),
    ("lag", "age of the oldest change that is not on the secondary yet, failures included; 0 if none is known, – if unknown"),
    ("synced", "everything that changed on the primary before this moment is on the secondary"),
    ("pending", "all changes that are known and not on the secondary yet"),
    ("entry / data / meta", "what is left of the batch: names, contents, attributes"),
    ("failures", "objects that could not be synced; each is kept in a ledger and tried again until both sides agree"),
    ("batch", "changes that are applied and committed together: entry, data, meta, commit"),
    ("checkpoint", "a moment: complete when all before it is on the secondary; with failures before it, it is not good"),
    ("held", "too many deletes at once: nothing is deleted until a person approves or rejects"),
    ("verify", "compares both sides, and repairs if asked"),
    ("backlog", "changelogs that are closed and not synced yet"),
    ("last try / next try", "the ledger tries by itself, each time after a longer pause; r tries now"),
)  # fmt: skip

STATES: tuple[tuple[str, str], ...] = (
    ("Active", "replicating"),
    ("Passive", "another replica of the same data is active; this one stands by"),
    ("Initializing...", "connecting to the secondary"),
    ("Created", "set up, never started"),
    ("Faulty", "the worker failed; its reason and the next attempt are shown"),
    ("Held", "deletes wait for a person's answer"),
    ("Paused", "a person paused it; changes are recorded, not applied"),
    ("Stopped", "not running; nothing is replicated. *died*: its engine ended without a stop"),
)
