"""Bytes and frames on their way through hooks."""
