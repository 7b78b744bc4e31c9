from .binance import lower as lower, upper as upper
from .dial import (
    Deadline as Deadline,
    NotConnected as NotConnected,
    UpgradeRefused as UpgradeRefused,
    connect_socket as connect_socket,
    open_websocket as open_websocket,
    tls_context as tls_context,
)
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
from .registry import (
    SIMULATOR as SIMULATOR,
    VENUES as VENUES,
    is_practice as is_practice,
    region_refused as region_refused,
    rightly_named as rightly_named,
    simulator_at as simulator_at,
    stored_name as stored_name,
    venue_named as venue_named,
)
from .rest import PATIENCE_SECONDS as PATIENCE_SECONDS, connections as connections, fetch_over as fetch_over
from .screening import (
    SUPPLIES_PATH as SUPPLIES_PATH,
    SUPPLIES_URL as SUPPLIES_URL,
    Criteria as Criteria,
    Supplies as Supplies,
    Verdict as Verdict,
    amount as amount,
    amount_text as amount_text,
    fetch_supplies as fetch_supplies,
    fetch_tickers as fetch_tickers,
    require_moderate as require_moderate,
    screen_pairs as screen_pairs,
)
from .venue import (
    Acknowledged as Acknowledged,
    Book as Book,
    Channel as Channel,
    Limits as Limits,
    Listing as Listing,
    ListingStatus as ListingStatus,
    Malformed as Malformed,
    Message as Message,
    Method as Method,
    Refused as Refused,
    ShuttingDown as ShuttingDown,
    StreamSpec as StreamSpec,
    Venue as Venue,
)
