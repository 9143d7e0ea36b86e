"""Helpers that know nothing of networks: atomic files, progress, quiet libraries."""
