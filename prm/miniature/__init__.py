"""The whole method in miniature: a generated world with an exact step judge, and tiny language models that live in it."""
