"""Property tests: the same examples in every run, of any duration on a machine that is busy."""

from hypothesis import settings

settings.register_profile("espnet_larm", deadline=None, derandomize=True, database=None)
settings.load_profile("espnet_larm")
