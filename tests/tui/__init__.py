"""The tests of the console and of its view."""
