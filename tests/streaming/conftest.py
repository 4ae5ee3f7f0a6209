"""Property tests: the same examples in every run, of any duration on a machine that is busy."""

from hypothesis import settings

settings.register_profile("streaming", deadline=None, derandomize=True, database=None, max_examples=12)
settings.load_profile("streaming")
