#!/bin/sh
# install.sh POLICY PACKAGE...
#
# Installs packages by apt, as root, and starts no service that comes with them. POLICY is /usr/sbin/policy-rc.d.
set -eu
policy=$1
shift
export DEBIAN_FRONTEND=noninteractive

# Debian starts a service when it installs one, unless this file says no. It must not stay behind, also when this is interrupted:
# what is installed later would not be started either. One that is there already is the administrator's.
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

# Without a network, or beside another apt, it fails within minutes. Nothing ends it from outside: that would leave packages half
# installed.
apt() {
  apt-get --yes --quiet -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o DPkg::Lock::Timeout=60 "$@"
}

# When it fails at first, the lists may be old, or there are none.
apt install --no-install-recommends "$@" || { apt update && apt install --no-install-recommends "$@"; }
