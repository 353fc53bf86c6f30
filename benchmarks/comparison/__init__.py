"""This project beside what people would pick instead: every system is asked the same questions."""
