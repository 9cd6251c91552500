# Makes the cluster at the first start, then becomes the server: understands of the variables of
# PostgreSQL's official image what the stack uses.
set -eu
data=/var/lib/postgresql/data

if [ "$(id -u)" -eq 0 ]; then
  mkdir -p "$data" /var/run/postgresql
  chown postgres:postgres "$data" /var/run/postgresql
  chmod 0700 "$data"
  exec setpriv --reuid=postgres --regid=postgres --init-groups /bin/sh "$0" "$@"
fi

if [ ! -e "$data/PG_VERSION" ]; then
  umask 077
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
  # The options are words.
  # shellcheck disable=SC2086
  initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile=/tmp/password \
    --auth=scram-sha-256 --no-sync ${POSTGRES_INITDB_ARGS-}
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
fi
export PGDATA="$data"
exec "$@"
