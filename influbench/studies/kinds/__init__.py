"""The kinds of studies, one a file: each has a ``KIND`` (see ``influbench.studies.kind``)."""
