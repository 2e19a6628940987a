"""Fuzzer of what strangers write: checkpoint folders, corpus files, rows in a database."""
