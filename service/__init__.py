"""A Postgres-native payment webhook service: SQL decides, Python carries bytes."""
