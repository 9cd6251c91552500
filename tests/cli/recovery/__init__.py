"""Day two of an installation: what was restored, what is upgraded, what is removed."""
