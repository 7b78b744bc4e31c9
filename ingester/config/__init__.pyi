from .file import (
    CONFIG_NAME as CONFIG_NAME,
    CONFIG_VARIABLE as CONFIG_VARIABLE,
    Configuration as Configuration,
    find_configuration as find_configuration,
    is_secret as is_secret,
    masked as masked,
    masked_text as masked_text,
    read_configuration as read_configuration,
    user_config_file as user_config_file,
)
from .settings import (
    FILLS as FILLS,
    Settings as Settings,
    default_collector as default_collector,
    default_data_dir as default_data_dir,
    interval_ms as interval_ms,
    seconds as seconds,
)
