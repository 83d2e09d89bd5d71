#!/bin/sh
# Becomes the binary as process 1 of a container: `enter.sh IMAGE ARGUMENT..`, in namespaces that were made for it.
#
# The image is a folder, which is all that the container has. The binary ($CARREL) and what the image has an empty place
# for (/proc, /dev/null, /sys/fs/cgroup) are mounted in it, nothing can be written to, and the user is 65534, who has
# neither a home nor an environment.
set -eu
image=$1
shift

mount --bind "$image" "$image"
mount --bind "$CARREL" "$image/bin/carrel"
mount -o remount,bind,ro "$image/bin/carrel"
mount -o remount,bind,ro "$image"
[ ! -d "$image/proc" ] || mount -t proc proc "$image/proc"
[ ! -e "$image/dev/null" ] || mount --bind /dev/null "$image/dev/null"
[ ! -d "$image/sys/fs/cgroup/memory" ] || mount -t cgroup -o ro,memory cgroup "$image/sys/fs/cgroup/memory"
[ ! -d "$image/sys/fs/cgroup/unified" ] || mount -t cgroup2 -o ro cgroup2 "$image/sys/fs/cgroup/unified"

if ! setpriv --reuid=65534 true 2>/dev/null; then
    # Within a user's own namespace there is no other user, so that another namespace names this one.
    exec env -i "$(command -v unshare)" --user --map-user=65534 --map-group=65534 --root="$image" --wd=/ /bin/carrel "$@"
fi
cd "$image"
exec env -i "$(command -v setpriv)" --no-new-privs "$(command -v chroot)" --userspec=65534:65534 --groups= . /bin/carrel "$@"
