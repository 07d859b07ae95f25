"""Queries: a question in names becomes roles and values per token, in one place."""
