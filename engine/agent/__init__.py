"""The half of the engine that runs on the secondary; standard library only, Python 3.9, no import from outside."""
