"""Tests of the routes for FastAPI, with a real uvicorn and the real stack."""
