from . import binance_spot as binance_spot, screening as screening, supplies as supplies
from .binance_spot import (
    EXCHANGES as EXCHANGES,
    SIMULATOR as SIMULATOR,
    Exchange as Exchange,
    lower as lower,
    upper as upper,
)
from .dial import (
    Deadline as Deadline,
    NotConnected as NotConnected,
    UpgradeRefused as UpgradeRefused,
    connect_socket as connect_socket,
    open_websocket as open_websocket,
    tls_context as tls_context,
)
from .listings import Listing as Listing
from .pairs import (
    DEFAULT_COINS as DEFAULT_COINS,
    DEFAULT_QUOTE as DEFAULT_QUOTE,
    Choice as Choice,
    assets as assets,
    choose as choose,
    choose_watched as choose_watched,
    fetch_listings as fetch_listings,
    guessed_assets as guessed_assets,
    is_name as is_name,
    listed_symbols as listed_symbols,
    normal as normal,
    pair_named as pair_named,
    symbols_of as symbols_of,
    use_listing as use_listing,
)
from .rest import PATIENCE_SECONDS as PATIENCE_SECONDS, connections as connections, fetch_over as fetch_over
from .screening import Criteria as Criteria, Verdict as Verdict, amount as amount, amount_text as amount_text
from .supplies import (
    DEFAULT_SOURCE as DEFAULT_SOURCE,
    PRODUCTS as PRODUCTS,
    Supplies as Supplies,
    fetch_supplies as fetch_supplies,
)
