"""Built-in environments; one world a file or folder."""
