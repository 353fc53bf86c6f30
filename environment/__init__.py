"""Layer 1: everything between a bare machine and a running, tested worker.

``./dev``, the Nix outputs, the Procfile, Replit and CI all run this package; none of them implements "temporary
PostgreSQL" or "worker up" a second time. ``bootstrap`` and what it imports use the standard library only, because they
run before anything is installed.
"""
