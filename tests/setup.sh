#!/usr/bin/env bash
# Installs what the stack, the tests and the linters need; does nothing, quickly, when all is there.
#
#   tests/setup.sh               all of it: system packages (as root, Debian or Ubuntu), npm's and PyPI's
#   tests/setup.sh --system      the system packages alone
#   tests/setup.sh --containers  those, and what containers need where no Docker engine answers
#
# Everything that is not a system package stays in the repository: .venv and tests/node_modules.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The server's major version: the oldest installed one from 15 on, as in stack/tools.py, else apt's own.
postgres_version() {
  local program version
  version=$(for program in /usr/lib/postgresql/*/bin/postgres; do
    if [[ $program =~ ^/usr/lib/postgresql/([0-9]+)/ ]] && ((BASH_REMATCH[1] >= 15)); then
      echo "${BASH_REMATCH[1]}"
    fi
  done | sort -n | head -n 1)
  if [ -z "$version" ] && command -v apt-cache >/dev/null; then
    version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]\+\)$/\1/p')
  fi
  echo "${version:-15}"
}

# The Debian packages that are missing.
missing_packages() {
  local version extensions
  version=$(postgres_version)
  extensions=/usr/share/postgresql/$version/extension
  [ -x "/usr/lib/postgresql/$version/bin/postgres" ] || echo "postgresql-$version"
  [ -e "$extensions/pgtap.control" ] || echo "postgresql-$version-pgtap"
  [ -e "$extensions/plpgsql_check.control" ] || echo "postgresql-$version-plpgsql-check"
  command -v psql >/dev/null || echo postgresql-client
  command -v pg_prove >/dev/null || echo libtap-parser-sourcehandler-pgtap-perl
  PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null || echo pgbouncer
  command -v git >/dev/null || echo git
  command -v make >/dev/null || echo make
  command -v npm >/dev/null || echo npm
  command -v curl >/dev/null || echo curl
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  # Where the distribution has none (Ubuntu's is a snap), the test asks for Chrome by name.
  if ! command -v chromium chromium-browser google-chrome >/dev/null; then
    if [ "$(. /etc/os-release && echo "${ID-}")" != ubuntu ]; then echo chromium; fi
  fi
  [ -x .venv/bin/python ] || python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
  if [ "$mode" = --containers ]; then missing_for_containers; fi
}

missing_for_containers() {
  [ -z "${DOCKER_HOST-}" ] || return 0
  [ -S /var/run/docker.sock ] || PATH=$PATH:/usr/sbin command -v dockerd >/dev/null || echo docker.io
}

install_system() {
  local missing
  missing=$(missing_packages | xargs)
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "setup: not Debian or Ubuntu; install by hand what these packages hold: $missing" >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: missing: $missing. This installs it:" >&2
    echo "  sudo tests/setup.sh ${mode:---system}" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Only now does apt know which server it has.
  mapfile -t missing < <(missing_packages)
  echo "setup: installing ${missing[*]}"
  without_cluster "${missing[@]}"
  # The tests start a pooler and an engine of their own and want none beside them.
  local services=()
  if [[ " ${missing[*]} " == *" pgbouncer "* ]]; then services+=(pgbouncer); fi
  if [[ " ${missing[*]} " == *" docker.io "* ]]; then
    services+=(docker.socket docker.service containerd.service)
  fi
  if [ ${#services[@]} -gt 0 ] && command -v systemctl >/dev/null; then
    systemctl --quiet disable --now "${services[@]}" 2>/dev/null || true
  fi
}

# Debian makes and starts a cluster with a server package. The stack makes its own and wants none beside it.
without_cluster() {
  local conf=/etc/postgresql-common/createcluster.conf
  apt-get install -qq -y --no-install-recommends postgresql-common >/dev/null
  cp -p "$conf" "$conf.before-keylatch"
  trap 'mv -f /etc/postgresql-common/createcluster.conf{.before-keylatch,}' EXIT
  sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' "$conf"
  apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  mv -f "$conf.before-keylatch" "$conf"
  trap - EXIT
}

# `stamp_of STAMP INPUT…` says what was installed from: the inputs, and where, as a venv cannot be moved.
stamp_of() {
  shift
  { pwd && cat "$@"; } | sha256sum
}
is_current() {
  [ -e "$1" ] && [ "$(cat "$1")" = "$(stamp_of "$@")" ]
}

install_npm() {
  local inputs=(tests/node_modules/.keylatch-stamp tests/package.json tests/package-lock.json tests/.npmrc)
  is_current "${inputs[@]}" && return
  (cd tests && npm ci --no-progress --loglevel=error)
  stamp_of "${inputs[@]}" >"${inputs[0]}"
}

install_python() {
  local inputs=(.venv/.keylatch-stamp tests/requirements.lock python_client/pyproject.toml)
  is_current "${inputs[@]}" && return
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: python3 is $(python3 --version); 3.11 or newer is needed" >&2
    exit 1
  }
  python3 -m venv --clear .venv
  local pip=(.venv/bin/pip --quiet --disable-pip-version-check install --no-deps --no-compile)
  # uv first: it installs the rest in a fifth of the time. If only pip's settings reach PyPI, uv
  # fails and pip installs. The lock is complete, so --no-deps resolves nothing.
  "${pip[@]}" --require-hashes -r <(sed -n '/^uv==/,/# via/p' tests/requirements.lock)
  local uv=(.venv/bin/uv --quiet pip install --no-deps --no-cache --python .venv/bin/python)
  "${uv[@]}" --require-hashes -r tests/requirements.lock ||
    "${pip[@]}" --require-hashes -r tests/requirements.lock
  "${pip[@]}" --no-build-isolation -e python_client
  stamp_of "${inputs[@]}" >"${inputs[0]}"
}

# The output of `make up` is a .env; what npm says of its work must not get into it.
exec >&2
mode=${1-}
install_system
[ -n "$mode" ] && exit
# Two at once take turns.
mkdir -p tests/.stack
exec 9>tests/.stack/setup.lock
flock 9
install_npm &
npm=$!
install_python &
python=$!
wait "$npm" || {
  kill "$python" 2>/dev/null || true
  exit 1
}
wait "$python"
