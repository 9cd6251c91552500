"""Tests of the database with more than one session, one server or one installation."""
