"""The search world: questions that are answered by searching an encyclopedia."""
