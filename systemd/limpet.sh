#!/bin/sh
# /usr/local/bin/limpet. By hand, secrets come from where systemd takes them for the service, if this user may read them.
if [ -z "${CREDENTIALS_DIRECTORY-}" ] && [ -r /etc/credstore ]; then export CREDENTIALS_DIRECTORY=/etc/credstore; fi
exec /opt/limpet/current/bin/python -P -m agent "$@"
