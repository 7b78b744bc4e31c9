"""Settings and the configuration file.

settings   one recorder's settings, checked
file       the configuration file: found, read, masked
places     the line of each key in a TOML text
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
