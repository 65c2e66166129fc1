"""Judging a PRM: step scores of candidates or benchmark items in, tables, metrics and plots out."""
