"""Notify decides what is told to whom, and by which road."""
