"""Tests of `keylatch doctor`: it finds damage, and nothing else."""
