from . import file as file
from .file import (
    NAME as NAME,
    VARIABLE as VARIABLE,
    Configuration as Configuration,
    is_secret as is_secret,
    masked as masked,
    masked_text as masked_text,
    near as near,
    nearest as nearest,
    user_file as user_file,
)
from .settings import (
    FILLS as FILLS,
    Settings as Settings,
    default_collector as default_collector,
    default_data_dir as default_data_dir,
    interval_ms as interval_ms,
    seconds as seconds,
)
