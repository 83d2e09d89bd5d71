//! The memory that there is for this process: the least that the machine, its control groups and its own limit allow.
//!
//! `limits.memory` defaults to a part of it. A bound that is overlooked ends the whole process instead of one call.
//! So every source of a bound is read, and there always is one:
//!
//! | source | read from |
//! |---|---|
//! | the machine | the system's own call, which needs no file, and `/proc/meminfo`, which containers may be given with less |
//! | control groups, version 2 | `memory.max` and `memory.high` of the process's group and of all above it |
//! | control groups, version 1 | `memory.limit_in_bytes`, likewise, and what `memory.stat` tells of groups above that cannot be seen |
//! | the process | `RLIMIT_AS` |
//!
//! At `memory.high` the kernel does not end a process but slows it down until it can do nothing else, so that it is a
//! bound as well.
//!
//! The process's group is named in `/proc/self/cgroup`, by its path from the root of its hierarchy, and
//! `/proc/self/mountinfo` tells which part of which hierarchy is mounted where: see cgroups(7) and proc(5). A group
//! outside of what is mounted is looked for at the mount itself, which is as near as the process can see.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    system::sysinfo,
};
use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// The usual mount points of hierarchies, for when nothing tells.
const BY_CUSTOM: [(Version, &str); 3] = [
    (Version::Two, "/sys/fs/cgroup"),
    (Version::Two, "/sys/fs/cgroup/unified"),
    (Version::One, "/sys/fs/cgroup/memory"),
];

/// The kind of a hierarchy of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The smallest limit in a group's folder, in bytes.
    fn limit(self, group: &Path) -> Option<usize> {
        let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok();
        match self {
            // `max` is no number.
            Self::Two => least([number("memory.max"), number("memory.high")]),
            Self::One => {
                let stat = fs::read_to_string(group.join("memory.stat")).ok();
                let above = stat.iter().flat_map(|stat| stat.lines());
                let above = above.filter_map(|line| line.strip_prefix("hierarchical_memory_limit ")).next();
                least([number("memory.limit_in_bytes"), above.and_then(|bytes| bytes.trim().parse().ok())])
            }
        }
    }
}

/// A hierarchy of control groups, as a part of it is mounted.
struct Mount {
    version: Version,
    /// The group at the mount point, by its path in the hierarchy.
    group: PathBuf,
    /// The mount point.
    at: PathBuf,
}

/// Bytes of memory that this process may use.
pub(super) fn memory() -> usize {
    let system = sysinfo();
    let installed = u64::from(system.mem_unit.max(1)).saturating_mul(system.totalram as u64);
    let of_the_process = getrlimit(Resource::As).current.map(saturating);
    let bounds = [told(Path::new("/")), of_the_process];
    least(bounds).unwrap_or(usize::MAX).min(saturating(installed))
}

/// Descriptors of the host besides those of its connections and of guests.
const OWN: usize = 64;
/// One in so many of the descriptors beyond [`OWN`] is kept for guests, whatever the number of connections.
const GUESTS: usize = 4;

/// Files that this process may have open, once [`raise_descriptors`] was called.
fn descriptors() -> usize {
    getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, saturating)
}

/// The descriptors left for guests beside the host's own and those of so many connections. If connections are allowed
/// more than there are, guests still get a part.
pub(super) fn descriptors_for_guests(connections: usize) -> usize {
    of_guests(descriptors(), connections)
}

fn of_guests(descriptors: usize, connections: usize) -> usize {
    let left = descriptors.saturating_sub(OWN);
    left.saturating_sub(connections).max(left / GUESTS).clamp(1, 10_000_000)
}

/// Raises the number of files that this process may have open to the system's maximum. Returns a warning if that is
/// not enough for what the limits allow callers and guests.
pub fn raise_descriptors(connections: usize, open_files: usize) -> Option<String> {
    let had = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: had.maximum, maximum: had.maximum });
    let have = if raised.is_ok() { had.maximum } else { had.current };
    let have = have.map_or(usize::MAX, saturating);
    (have < connections.saturating_add(open_files).saturating_add(OWN)).then(|| {
        format!(
            "`limits.connections` allows {connections} connections, `limits.open_files` {open_files} files to guests, \
             and the system allows this process {have} open files (ulimit -Hn), of which it needs {OWN} itself: callers \
             beyond that are turned away"
        )
    })
}

/// The smallest limit in the files below a root, in bytes: `proc/` and `sys/` of a machine.
fn told(root: &Path) -> Option<usize> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        total.trim().trim_end_matches("kB").trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    least([machine, of_the_groups(root)])
}

/// The smallest limit of the process's visible control groups, in bytes.
fn of_the_groups(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mut mounts: Vec<_> = mounts.split(|byte| *byte == b'\n').filter_map(mount).collect();
    if mounts.is_empty() {
        let by_custom = |(version, at)| Mount { version, group: "/".into(), at: PathBuf::from(at) };
        mounts = BY_CUSTOM.map(by_custom).into();
    }
    least(mounts.iter().map(|mount| {
        let own = groups.lines().find_map(|line| group(line, mount.version)).unwrap_or("/");
        // A path that leads out of the mount is of a group that is not seen from here.
        let below = Path::new(own).strip_prefix(&mount.group).unwrap_or(Path::new(""));
        let below = if below.components().all(|it| matches!(it, Component::Normal(_))) { below } else { Path::new("") };
        let at = root.join(mount.at.strip_prefix("/").unwrap_or(&mount.at));
        // From the process's own group up to the one at the mount.
        least(below.ancestors().map(|group| mount.version.limit(&at.join(group))))
    }))
}

/// The path of the process's group, of a line `number:controllers:path`. Of version 2 number and controllers say nothing.
fn group(line: &str, version: Version) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let right = match version {
        Version::One => controllers.split(',').any(|it| it == "memory"),
        Version::Two => number == "0" && controllers.is_empty(),
    };
    right.then_some(path)
}

/// A line of mountinfo, if a hierarchy is mounted that may bound memory.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (group, at) = (fields.nth(3)?, fields.next()?);
    // After the mount's own options there are any number of fields, and a `-` ends them.
    let mut of_the_system = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, options) = (of_the_system.next()?, of_the_system.nth(1)?);
    let version = match kind {
        b"cgroup2" => Version::Two,
        b"cgroup" if options.split(|byte| *byte == b',').any(|it| it == b"memory") => Version::One,
        _ => return None,
    };
    Some(Mount { version, group: unescaped(group), at: unescaped(at) })
}

/// A path in which some bytes stand as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        rest = after;
        let escaped = match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        path.push(escaped.unwrap_or(*byte));
        if escaped.is_some() {
            rest = &after[3..];
        }
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

fn least(bounds: impl IntoIterator<Item = Option<usize>>) -> Option<usize> {
    bounds.into_iter().flatten().min()
}

fn saturating(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:        1000 kB\n");
    const MACHINE: usize = 1000 << 10;
    const V2: &str = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const V1_CPU: &str = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

    /// The figures that a machine with these files tells.
    fn of(files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        told(root.path())
    }

    /// The figures that a machine of 1000 KiB tells with these control groups, and without each of the limits that it has there.
    #[track_caller]
    fn with_groups(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<usize> {
        let known = [MEMINFO, ("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mountinfo)];
        assert_eq!(of(&known), Some(MACHINE), "without a limit it is the machine's");
        of(&[&known[..], files].concat())
    }

    #[test]
    fn a_limit_of_version_2_counts_wherever_it_is_on_the_way_up() {
        let own = "0::/system.slice/carrel.service\n";
        for group in ["", "system.slice/", "system.slice/carrel.service/"] {
            for file in ["memory.max", "memory.high"] {
                let path = format!("sys/fs/cgroup/{group}{file}");
                assert_eq!(with_groups(own, V2, &[(&path, "4096\n")]), Some(4096), "{path}");
            }
        }
        let nested = [
            ("sys/fs/cgroup/system.slice/memory.max", "8192\n"),
            ("sys/fs/cgroup/system.slice/carrel.service/memory.max", "16384\n"),
            ("sys/fs/cgroup/system.slice/carrel.service/memory.high", "12288\n"),
        ];
        assert_eq!(with_groups(own, V2, &nested), Some(8192), "the least counts");
        assert_eq!(with_groups(own, V2, &nested[1..]), Some(12288), "that is `memory.high`, where it is less");
    }

    #[test]
    fn a_limit_of_another_group_does_not_count() {
        let other = [("sys/fs/cgroup/other/memory.max", "4096"), ("sys/fs/cgroup/a/b/c/memory.max", "4096")];
        assert_eq!(with_groups("0::/a/b\n", V2, &other), Some(MACHINE));
        let cpu = [("sys/fs/cgroup/cpu/a/memory.limit_in_bytes", "4096")];
        assert_eq!(with_groups("4:memory:/a\n3:cpu:/a\n", &[V1_CPU, V1].concat(), &cpu), Some(MACHINE));
    }

    #[test]
    fn max_is_no_limit_and_neither_is_what_cannot_be_read() {
        for text in ["max\n", "9223372036854771712", "", "many", "-1", "4096 bytes"] {
            let files = [("sys/fs/cgroup/memory.max", text), ("sys/fs/cgroup/memory.high", text)];
            assert_eq!(with_groups("0::/\n", V2, &files), Some(MACHINE), "{text:?}");
        }
    }

    #[test]
    fn in_a_namespace_the_group_is_at_the_mount() {
        // Its own root; one that it has been moved out of; one of which the mount shows another part.
        for (own, mounted) in [("0::/\n", V2), ("0::/../other\n", V2), ("0::/a/../../b\n", V2), ("0::/else\n", V2)] {
            let limit = [("sys/fs/cgroup/memory.max", "4096\n"), ("sys/fs/cgroup/cgroup.controllers", "memory\n")];
            assert_eq!(with_groups(own, mounted, &limit), Some(4096), "{own}");
        }
    }

    #[test]
    fn a_part_of_a_hierarchy_may_be_mounted_and_anywhere() {
        let of_docker = "40 30 0:23 /docker/c0ffee /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let inside = [("sys/fs/cgroup/below/memory.max", "4096")];
        assert_eq!(with_groups("0::/docker/c0ffee/below\n", of_docker, &inside), Some(4096));
        assert_eq!(with_groups("0::/docker/c0ffee\n", of_docker, &[("sys/fs/cgroup/memory.max", "4096")]), Some(4096));
        let elsewhere = r"40 30 0:23 / /run/my\040groups\134x rw - cgroup2 none rw".to_owned() + "\n";
        assert_eq!(with_groups("0::/a\n", &elsewhere, &[(r"run/my groups\x/a/memory.max", "4096")]), Some(4096));
    }

    #[test]
    fn a_limit_of_version_1_counts_and_so_does_one_that_is_not_seen() {
        let own = "5:cpu,cpuacct:/\n4:hugetlb,memory:/docker/c0ffee\n1:name=systemd:/\n";
        for group in ["", "docker/", "docker/c0ffee/"] {
            let path = format!("sys/fs/cgroup/memory/{group}memory.limit_in_bytes");
            assert_eq!(with_groups(own, V1, &[(&path, "4096\n")]), Some(4096), "{path}");
        }
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let above = ("sys/fs/cgroup/memory/memory.stat", "cache 0\nhierarchical_memory_limit 4096\ntotal_cache 0\n");
        assert_eq!(with_groups(own, V1, &[unlimited]), Some(MACHINE));
        assert_eq!(with_groups(own, V1, &[unlimited, above]), Some(4096));
    }

    #[test]
    fn with_both_versions_that_one_counts_that_bounds_memory() {
        let own = "4:memory:/a\n0::/b\n";
        let mounted = [V1, "41 24 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"].concat();
        let (one, two) = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "sys/fs/cgroup/unified/b/memory.max");
        assert_eq!(with_groups(own, &mounted, &[(one, "4096")]), Some(4096));
        assert_eq!(with_groups(own, &mounted, &[(two, "4096")]), Some(4096));
        assert_eq!(with_groups(own, &mounted, &[(one, "8192"), (two, "4096")]), Some(4096));
    }

    #[test]
    fn where_proc_is_missing_the_usual_places_are_looked_at() {
        for path in ["memory.max", "memory.high", "unified/memory.max", "memory/memory.limit_in_bytes"] {
            assert_eq!(of(&[(&format!("sys/fs/cgroup/{path}"), "4096")]), Some(4096), "{path}");
        }
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn guests_get_the_descriptors_that_callers_leave_and_neither_all() {
        assert_eq!(of_guests(1_048_576, 10_000), 1_038_512);
        assert_eq!(of_guests(1024, 500), 460);
        assert_eq!(of_guests(1024, 10_000), 240);
        assert_eq!((of_guests(10, 10), of_guests(usize::MAX, 1)), (1, 10_000_000));
    }

    #[test]
    fn this_machine_has_memory_and_a_bound_whatever_its_files_tell() {
        let (memory, system) = (memory(), sysinfo());
        let installed = system.totalram as usize * system.mem_unit as usize;
        assert!(memory > 64 << 20 && memory <= installed, "{memory} of {installed}");
    }
}
