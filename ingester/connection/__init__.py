"""Websocket connections and what is subscribed on them.

frames          splits what a server sends into messages
websocket       one websocket connection in one thread
connection      what came over one connection
slot            keeps one connection alive: staleness, reconnect, rotation, failover
grouping        which streams share connections
subscriptions   pairs that come and go while the others flow
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
