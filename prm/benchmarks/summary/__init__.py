"""Evaluations of many PRMs at a glance: `read` their folders, `join` those on the same data, `training_runs` of one method."""
