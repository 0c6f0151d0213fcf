"""Thin entry points: arguments in, exit codes out."""
