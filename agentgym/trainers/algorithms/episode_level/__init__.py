"""Methods that give every turn of an episode the same advantage, or its return."""
