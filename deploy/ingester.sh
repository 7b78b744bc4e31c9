#!/bin/sh
# /usr/local/bin/ingester: the command as the user, and with the settings, of the services.
exec sudo -u ingester sh -c '
    cd /var/lib/ingester
    set -a
    . /etc/ingester/ingester.env
    exec /opt/ingester/current/bin/ingester "$@"' ingester "$@"
