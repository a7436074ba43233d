"""Several processes behind one port: a supervisor, what its workers share, and one admin port for all."""
