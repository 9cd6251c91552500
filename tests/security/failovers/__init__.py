"""Clients of a primary and two standbys that fail over, and a checker of the clients' answers."""
