#!/bin/sh
# Write the secrets of compose.yaml once, readable by their owner alone. Never overwrites any.
set -eu
umask 077
cd "${1:-$(dirname "$0")}"
if [ -e celeriac.env ]; then
    echo "celeriac.env is there already; nothing was changed." >&2
    exit 1
fi
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
mkdir -p secrets
postgres=$(random)
valkey=$(random)
printf %s "$postgres" > secrets/postgres_password
printf %s "$valkey" > secrets/valkey_password
# the containers' own users read these two; the directory keeps others of this host out
chmod 644 secrets/postgres_password secrets/valkey_password
cat > flower.env <<END
FLOWER_BASIC_AUTH=ops:$(random)
END
cat > celeriac.env <<END
DATABASE_URL=postgresql://celeriac:$postgres@postgres:5432/celeriac
REDIS_URL=redis://:$valkey@valkey:6379/0
CELERIAC_SECRET_KEY=$(random)
END
echo "Written: celeriac.env, flower.env and secrets/. Keep a copy of CELERIAC_SECRET_KEY elsewhere."
