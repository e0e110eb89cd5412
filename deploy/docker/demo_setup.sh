#!/bin/sh
# provisional
set -eu
umask 077
cd /var/lib/consilium/federation
if [ ! -s ca.crt ]; then
python - <<'P'
from pathlib import Path
from deploy.certificates import *
from deploy.node_key import make_node_key
f=Path('.')
make_ca(f,'demo'); issue_server(f,['gateway'])
for h in 'abc':
    make_node_key(f/f'hospital-{h}'/'node_key')
P
fi
cp ca.crt server.crt server.key /out/coordinator/
cp ca.crt server.crt server.key /out/gateway/
for h in a b c; do cp ca.crt hospital-$h/node_key /out/hospital-$h/; done
