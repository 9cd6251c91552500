"""A request's key or session as the identity for a user's tables, over HTTP and in a browser."""
