"""Tests on a real PostgreSQL; the fixtures are in conftest."""
