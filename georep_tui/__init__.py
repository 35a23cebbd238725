"""Everything a person touches: commands, headless runs, the console."""
