from .binance import lower_symbol as lower_symbol, upper_symbol as upper_symbol
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
    assets_of as assets_of,
    choose_pairs as choose_pairs,
    choose_watched_pairs as choose_watched_pairs,
    fetch_listings as fetch_listings,
    guessed_assets as guessed_assets,
    is_pair_name as is_pair_name,
    keep_listings_in as keep_listings_in,
    listed_symbols as listed_symbols,
    normal_symbol as normal_symbol,
    pair_named as pair_named,
    symbols_of as symbols_of,
)
from .registry import (
    EXCHANGE_NAME as EXCHANGE_NAME,
    SIMULATOR as SIMULATOR,
    VENUES as VENUES,
    is_practice as is_practice,
    region_refused as region_refused,
    rightly_named as rightly_named,
    simulator_at as simulator_at,
    stored_name as stored_name,
    venue_named as venue_named,
)
from .rest import (
    LONGEST_RETRY_SECONDS as LONGEST_RETRY_SECONDS,
    fetch_over as fetch_over,
    http_connections as http_connections,
)
from .screening import (
    SUPPLIES_PATH as SUPPLIES_PATH,
    SUPPLIES_URL as SUPPLIES_URL,
    Criteria as Criteria,
    Supplies as Supplies,
    Verdict as Verdict,
    amount_text as amount_text,
    fetch_supplies as fetch_supplies,
    fetch_tickers as fetch_tickers,
    parse_amount as parse_amount,
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
