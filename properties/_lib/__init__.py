"""Helpers that the families share."""
