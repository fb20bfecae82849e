"""Layers: depth, directions, projection, dropout and streams of every cell, driven by its spec."""
