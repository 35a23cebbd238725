"""The tests of georep-tui: unit, property, system, gluster, tui."""
