"""What a recorder publishes about itself, who is alerted, and checks of everything that recording needs.

report             what is published once a second, also on disk for other processes
alerts             what is wrong, and when it is reported
monitor            observes a running recorder once a second
metrics_server     the metrics port
webhook            alerts to a webhook
overview           `status`: how everything is
doctor             checks of this machine and the data folder
doctor_exchange    checks of the way to the exchange, and of the clock
doctor_questdb     checks of QuestDB and its tables
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
