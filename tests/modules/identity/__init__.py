"""The key of a request as an identity for the user's own tables, over HTTP and in a browser."""
