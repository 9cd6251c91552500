"""Tests of the command line: the installed program, against the real stack."""
