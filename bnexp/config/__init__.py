"""The settings of a run: their names, allowed values and defaults, and how the command line becomes a config.

Read the files in this order: ``schema`` (every setting of a run), ``checks`` (ranges and choices), ``registry`` (finds
the builder of a name), ``words`` (what is typed, before Hydra reads it), ``own_folder`` (yaml files of the user's),
``compose`` (Hydra: turns the command line into a config), ``own_code`` (where an error in the user's modules is),
``descriptions`` (what a yaml says of its choice), ``names`` (names of runs), ``capabilities`` (what a norm can do),
``metrics`` (direction, chance level and format of a measured quantity), ``shipped`` (finds the yaml files),
``defaults`` (what differs from them), ``extras`` (packages that may be missing).
"""
