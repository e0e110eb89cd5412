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
cd "$federation/certificates"
cp ca.crt server.crt server.key /out/coordinator/
cp ca.crt server.crt server.key /out/gateway/
