"""What all tests share."""

from hypothesis import settings

# A machine that is busy with something else is no reason to fail.
settings.register_profile("bordure", deadline=None)
settings.load_profile("bordure")
