"""Websocket connections and what is subscribed on them.

frames          splits what a server sends into messages
websocket       one websocket connection in one thread
connection      what came over one connection
pool            all connections, and the requests sent over them
slot            keeps one connection alive: staleness, reconnect, rotation, failover
subscriptions   which pairs share connections, also while pairs come and go
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
