#!/bin/sh
# demo_setup.sh: what coordinator and hospitals of the demonstration have to exchange once, each one's files in /out/NAME.
# In earnest a hospital makes its node key itself, and nobody else ever has it.
set -eu
umask 077
federation=$CONSILIUM_FEDERATION
hospitals="hospital-a hospital-b hospital-c"
[ ! -s /out/gateway/server.key ] || exit 0

consilium coordinator provision --name demo --host gateway $(printf -- '--hospital %s ' $hospitals)
for hospital in $hospitals; do
  cp "$federation/kits/$hospital"/* "/out/$hospital/"
  consilium hospital keygen --kit "/out/$hospital"
  consilium coordinator provision --register "$hospital=/out/$hospital/node_key.pub"
done
# The agent signs its part of secure aggregation with the node key, and knows the others by the roster.
for hospital in $hospitals; do
  cp "$federation/roster.txt" "/out/$hospital/"
  chgrp socket "/out/$hospital" "/out/$hospital/node_key" "/out/$hospital/roster.txt"
  chmod 0750 "/out/$hospital"
  chmod 0640 "/out/$hospital/node_key" "/out/$hospital/roster.txt"
done
cd "$federation/certificates"
cp ca.crt server.crt server.key /out/coordinator/
cp ca.crt server.crt server.key /out/gateway/
