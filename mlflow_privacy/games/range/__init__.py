"""Membership of a range of records (RaMIA)."""
