"""Reproductions: published claims, measured again with this library."""
