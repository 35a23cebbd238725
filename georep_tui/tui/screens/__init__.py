"""Screens of the console, one room each."""
