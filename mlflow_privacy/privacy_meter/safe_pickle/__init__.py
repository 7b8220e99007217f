"""Pickles read as plain data; nothing in them is ever executed."""
