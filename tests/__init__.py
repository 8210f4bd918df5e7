"""The tests, and what several of them need: `tests.tiny` small runs, `tests.architectures` genotypes and operations."""
