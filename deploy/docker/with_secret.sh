#!/bin/sh
# with_secret.sh FILE COMMAND...: make the secret FILE if it is not there, then become COMMAND.
# It is what a SuperLink or SuperNode shares with the one SuperExec that may ask it for work; no person needs to know it.
set -eu
secret=$1
shift
if [ ! -s "$secret" ]; then
  umask 077
  head -c 32 /dev/urandom > "$secret.new"
  mv "$secret.new" "$secret"
fi
exec "$@"
