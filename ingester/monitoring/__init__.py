"""What a recorder publishes about itself, and who is alerted.

report               what is published once a second
alerts               what is wrong, and when it is reported
observer, monitor    reads a running recorder; the thread that does so
state_file           the report on disk, for other processes
exposition, http     Prometheus metrics; the metrics port
webhook              alerts to a webhook
overview, survey     what `ingester status` shows, and how it is gathered
doctor               checks of network, clock, machine, disk and server
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
