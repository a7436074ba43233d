"""The configuration file: from text to checked settings, with every mistake at its place.

    tree.py         YAML text -> plain data, and where each piece of it stands
    schema.py       the shape of the file, as frozen models; tracing.py one of its sections
    explain.py      what a validation error means to the person who wrote the file
    checks.py       what no single model can see: names that point elsewhere, doubtful combinations
    load.py         the whole way; the one entry
    effective.py    settings -> YAML, with every default filled in
    json_schema.py  the shape of the file, for editors

Nothing here imports a concrete policy or backend: their registries are arguments.
"""
