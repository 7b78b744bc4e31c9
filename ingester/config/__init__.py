"""Settings and the configuration file.

settings   one recorder's settings, checked
file       the configuration file: found, read, masked
places     the line of each key in a TOML text
"""
