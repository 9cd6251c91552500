"""Tests of the Python client: alone, and over every transport against the real stack."""
