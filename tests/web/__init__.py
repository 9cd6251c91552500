"""Tests of the routes for FastAPI: a real uvicorn before the real stack."""
