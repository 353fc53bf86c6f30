"""One Django migration for each number of the package's migrations."""
