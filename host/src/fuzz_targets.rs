//! The fuzz targets of `host/fuzz` and, as far as they use it, the fuzzer's crate: the very files that a fuzzer runs are
//! compiled with the tests, and run over its corpus.

use std::{fs, path::Path};

/// The fuzzer's verdict on an input.
pub(crate) enum Corpus {
    Keep,
    Reject,
}

/// The macro has a module, so that the targets find it by its path alone, as they find the fuzzer's.
mod stand_in {
    macro_rules! fuzz_target {
        (|$data:ident: &[u8]| $run:expr) => {
            pub(crate) fn run($data: &[u8]) -> crate::Corpus {
                $run;
                crate::Corpus::Keep
            }
        };
        (|$data:ident: &[u8]| -> Corpus $run:block) => {
            pub(crate) fn run($data: &[u8]) -> Corpus {
                $run
            }
        };
    }
    pub(crate) use fuzz_target;
}
pub(crate) use stand_in::fuzz_target;

// Each file is a crate of its own for a fuzzer, with attributes of a crate.
#[allow(unused_attributes)]
#[path = "../fuzz/fuzz_targets/config.rs"]
mod config;
#[allow(unused_attributes)]
#[path = "../fuzz/fuzz_targets/guest.rs"]
mod guest;
#[allow(unused_attributes)]
#[path = "../fuzz/fuzz_targets/headers.rs"]
mod headers;
#[allow(unused_attributes)]
#[path = "../fuzz/fuzz_targets/json.rs"]
mod json;
#[allow(unused_attributes)]
#[path = "../fuzz/fuzz_targets/state.rs"]
mod state;

type Target = fn(&[u8]) -> Corpus;

const TARGETS: [(&str, Target); 5] = [
    ("config", config::run),
    ("guest", guest::run),
    ("headers", headers::run),
    ("json", json::run),
    ("state", state::run),
];

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|file| fs::read(file?.path())).collect::<Result<_, _>>();
    files.unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

#[test]
fn what_the_fuzzers_found_to_be_of_interest_holds() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    assert_eq!(files(&project.join("fuzz_targets")).len(), TARGETS.len(), "each target is compiled here");
    for (name, run) in TARGETS {
        let kept =
            files(&project.join("corpus").join(name)).into_iter().filter(|data| matches!(run(data), Corpus::Keep));
        let kept = kept.count();
        assert!(kept > 5, "{name} takes {kept} files of its corpus");
    }
}
