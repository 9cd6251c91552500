"""Tests of `keylatch doctor`: it finds what somebody damaged, and nothing else."""
