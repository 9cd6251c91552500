"""Tests of the modules with more than one session, or over HTTP."""
