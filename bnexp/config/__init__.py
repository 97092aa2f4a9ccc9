"""What can be asked for, and whether it is allowed; words into a config.

In which order to read: ``schema`` (every setting of a run), ``checks`` (ranges and choices), ``registry`` (a name finds
its builder), ``compose`` (Hydra: words of the command line into a config), ``names`` (what runs are called),
``capabilities`` (the record of what a norm can do), ``metrics`` (what is known of a measured quantity by its name),
``shipped`` (where the yaml files are).
"""
