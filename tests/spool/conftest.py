"""The spool that tests open."""

import pytest
from spools import SMALL

from ingester.spool import Spool


@pytest.fixture
def opened():
    """Opens spools and closes them in the end."""
    spools = []

    def opened(folder, **options):
        spool = Spool(folder, **SMALL | options)
        spool.open()
        spools.append(spool)
        return spool

    yield opened
    for spool in spools:
        spool.close()
