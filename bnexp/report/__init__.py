"""How a comparison is shown: ``tables`` in four formats, ``figures``, and both in one self-contained ``page``."""
