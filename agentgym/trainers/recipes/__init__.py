"""Named algorithms, one short file a paper. Importing a file registers its recipe."""
