"""Whole runs of the product: real trees, real ssh, real crashes; and the machinery that judges them."""
