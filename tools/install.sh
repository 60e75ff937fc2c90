#!/usr/bin/env bash
# Installs Limpet as a systemd service, or upgrades it; run it again whenever you like.
#   sudo tools/install.sh                      install or upgrade, from this checkout
#   sudo tools/install.sh --uninstall          remove program and units; --purge also state, keys and configuration
#   tools/install.sh --root DIR                into an image that is not booted
# Other options: --python PATH (3.11 to 3.14), --no-deps (leave the Python packages out: tests of the layout only).
#
#   /opt/limpet/releases/<id>   a virtual environment with the agent, models and docs; root's, never written at run time
#   /opt/limpet/current         the release in use, switched in one step
#   /opt/limpet/good            the release that was committed last: another one only while a signed update is on probation
#   /opt/limpet/previous        the one before, kept to go back to
#   /etc/limpet                 limpet.toml, pipelines/, conf.d/, readers/; never overwritten
#   /etc/credstore/limpet.*     private keys and passwords, root's alone; systemd hands them to the agent
#   /var/lib/limpet             what must survive: made by the unit, owned by the user limpet
#   /var/lib/limpet-models      signed models and releases, owned by the user limpet-update
#   /var/lib/limpet-added       public models that an administrator added, root's
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

root='' python='' deps=yes action=install purge=no
say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$@" >&2; exit 1; }
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --root) root=$(realpath -m "${2:?--root needs a folder}"); shift ;;
        --python) python=${2:?--python needs a path}; shift ;;
        --no-deps) deps=no ;;
        --uninstall) action=uninstall ;;
        --purge) purge=yes ;;
        -h | --help) usage ;;
        *) printf 'install: %s is no option of this\n' "$1" >&2; usage ;;
    esac
    shift
done
[ "$root" = / ] && root=''
[ "$(id -u)" = 0 ] || fail "this needs root, for the owners of what it makes: sudo $0 $*"

live() { [ -z "$root" ] && [ -d /run/systemd/system ]; } # systemd runs on this very system
opt=$root/opt/limpet etc=$root/etc/limpet
units=(limpet.sysusers:etc/sysusers.d/limpet.conf limpet.tmpfiles:etc/tmpfiles.d/limpet.conf)
for unit in "$here"/systemd/limpet*.{service,path,timer}; do
    units+=("${unit##*/}:etc/systemd/system/${unit##*/}")
done

find_python() { # one that the service's user may reach: not in a home folder, which ProtectHome hides
    local candidate real
    for candidate in ${python:-/usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.1{4,3,2,1}}; do
        real=$(realpath -e "$candidate" 2>/dev/null) || continue
        case $real in /home/* | /root/*) continue ;; esac
        "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))' 2>/dev/null || continue
        echo "$candidate"
        return
    done
    fail "no Python from 3.11 to 3.14 (64 bit, with venv, outside home folders) was found:" \
        "sudo apt-get install python3 python3-venv, or name one with --python PATH"
}

release_id() { # the same sources, lock and Python give the same release
    (cd "$here" && find agent pipelines models docs systemd tools/locks/device.txt -type f ! -name '*.pyc' -print0 2>/dev/null |
        LC_ALL=C sort -z | xargs -0 sha256sum; "$1" --version; echo "$deps") | sha256sum | cut -c1-12
}

copy() { # copy FROM TO: files 0644, folders 0755, no caches
    mkdir -p "$2"
    tar -C "$1" --exclude=__pycache__ --exclude=node_modules --owner=0 --group=0 --mode='u=rwX,go=rX' -cf - . |
        tar -C "$2" -xpf -
}

build_release() { # build_release FOLDER PYTHON
    local site
    rm -rf "$1"
    mkdir -p "$1"
    if [ "$deps" = yes ]; then
        "$2" -m venv "$1"
        say "fetching the packages of tools/locks/device.txt, every one checked against its hash"
        "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
            -r "$here/tools/locks/device.txt" || fail "pip could not install the packages: see above; run this again"
    else
        "$2" -m venv --without-pip "$1"
    fi
    site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    copy "$here/agent" "$site/agent"
    copy "$here/pipelines" "$site/pipelines"
    "$1/bin/python" -m compileall -q "$site/agent" "$site/pipelines"
    copy "$here/models" "$1/share/limpet/models"
    copy "$here/docs" "$1/share/limpet/docs"
    copy "$here/systemd" "$1/share/limpet/systemd" # a way back to this release installs them again
    mkdir -p "$1/share/limpet/pipelines"
    install -m 0644 "$here"/pipelines/*.toml "$1/share/limpet/pipelines"
    install -m 0644 "$here/LICENSE" "$1/share/limpet/LICENSE"
    touch "$1/.complete"
}

put_files() {
    local pair name
    for pair in "${units[@]}"; do
        mkdir -p "$(dirname "$root/${pair#*:}")"
        install -m 0644 "$here/systemd/${pair%%:*}" "$root/${pair#*:}"
    done
    install -d -m 0755 "$root/usr/local/bin"
    install -m 0755 "$here/systemd/limpet.sh" "$root/usr/local/bin/limpet"
    systemd-sysusers ${root:+--root="$root"} "$root/etc/sysusers.d/limpet.conf" ||
        fail "the users limpet and limpet-update could not be made: see above"
    mkdir -p "$etc"
    if [ ! -e "$etc/limpet.toml" ]; then install -m 0640 "$here/systemd/limpet.toml" "$etc/limpet.toml"; fi
    systemd-tmpfiles ${root:+--root="$root"} --create "$root/etc/tmpfiles.d/limpet.conf" ||
        fail "the folders of /etc/limpet could not be made: see above"
}

point() { # point LINK RELEASE: in one step
    ln -sfn "$2" "$opt/$1.new"
    mv -T "$opt/$1.new" "$opt/$1"
}

switch_to() { # the release that was good stays for one step back; older ones go
    local previous old
    previous=$(readlink "$opt/good" 2>/dev/null || readlink "$opt/current" 2>/dev/null || true)
    sync # all of it must be there before anything points to it
    if [ -n "$previous" ] && [ "$previous" != "releases/$1" ]; then point previous "$previous"; fi
    point good "releases/$1"
    point current "releases/$1"
    ln -sfn current/share "$opt/share"
    rm -f "$root/etc/systemd/system/limpet.service.d/zz-limpet-trial.conf" # a trial ends here
    for old in "$opt"/releases/*; do
        case releases/${old##*/} in "releases/$1" | "$(readlink "$opt/previous")") ;; *) rm -rf "$old" ;; esac
    done
}

install_all() {
    local chosen id units_before
    chosen=$(find_python)
    id=$(release_id "$chosen")
    install -d -m 0755 "$opt" "$opt/releases"
    if [ -e "$opt/releases/$id/.complete" ]; then
        say "release $id is already there"
    else
        say "building release $id with $("$chosen" --version)"
        build_release "$opt/releases/$id" "$chosen"
    fi
    units_before=$(unit_sum)
    put_files
    if [ "$(readlink "$opt/current" 2>/dev/null)$(readlink "$opt/good" 2>/dev/null)" != "releases/${id}releases/$id" ]; then
        switch_to "$id"
        units_before=other
    fi
    if live; then
        systemctl daemon-reload
        if systemctl --quiet is-enabled limpet.service 2>/dev/null; then # units that are new since it was enabled
            systemctl --quiet reenable limpet.service
            systemctl try-restart limpet-update.path limpet-update.timer limpet-switch.path
        fi
        if [ "$(unit_sum)" != "$units_before" ] && systemctl --quiet is-active limpet.service; then
            systemctl restart limpet.service
            say "restarted limpet.service"
        fi
    fi
    say "release $id is in use; configuration: $etc/limpet.toml"
    if ! live || ! systemctl --quiet is-enabled limpet.service 2>/dev/null; then next_steps; fi
}

unit_sum() { sha256sum "$root/etc/systemd/system/limpet.service" 2>/dev/null || true; } # nothing before the first time

next_steps() {
    if [ -n "$root" ]; then say "what follows is for the machine that boots this image"; fi
    cat <<-'TEXT'
	Next: sudo limpet keys new device --out /root/limpet-keys && sudo install -m 600 /root/limpet-keys/device.key \
	           /etc/credstore/limpet.signing.key          (readers get device.pub; keep a copy of the key elsewhere)
	      put the readers' .pub files into /etc/limpet/readers, broker and sources into /etc/limpet/limpet.toml,
	      pipelines into /etc/limpet/pipelines            (examples: /opt/limpet/share/limpet/pipelines)
	      sudo limpet check
	      sudo systemctl enable --now limpet && systemctl status limpet
	TEXT
}

uninstall_all() {
    local pair
    if live; then
        for pair in "${units[@]##*/}"; do
            case $pair in limpet*.path | limpet*.timer | limpet*.service) systemctl disable --now "$pair" 2>/dev/null || true ;; esac
        done
    fi
    for pair in "${units[@]}"; do rm -f "$root/${pair#*:}"; done
    rm -rf "$opt" "$root/usr/local/bin/limpet"
    if live; then systemctl daemon-reload; fi
    if [ "$purge" = yes ]; then
        rm -rf "$etc" "$root/var/lib/limpet" "$root/var/lib/limpet-models" "$root/var/lib/limpet-added" "$root/var/lib/limpet-switch" "$root/etc/systemd/system/limpet.service.d" "$root"/etc/credstore/limpet.*
        say "removed program, units, configuration, keys and state; the users limpet and limpet-update stay, so that their" \
            "numbers are not reused"
    else
        say "removed program and units; kept $etc and $root/var/lib/limpet (remove them with --purge)"
    fi
}

"${action}_all"
