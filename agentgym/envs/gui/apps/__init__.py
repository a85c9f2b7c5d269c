"""The applications, one a file, each with its templates; a new one is found by itself."""
