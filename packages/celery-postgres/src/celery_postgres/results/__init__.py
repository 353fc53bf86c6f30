"""The result backend: storing, waiting, chords."""
