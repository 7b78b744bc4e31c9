"""Settings and the configuration file.

settings   one recorder's settings, checked
file       the configuration file: found, read, masked
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
