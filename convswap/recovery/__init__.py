"""Recover accuracy by a short distillation."""
