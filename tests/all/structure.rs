//! The picture of the sources: a room imports only rooms below it, and no two files import each other, not even by way
//! of others. See `host/docs/architecture.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{Attribute, Item, ItemMod, UseTree, Visibility, visit::Visit};

/// The rooms of `host/src`, from the top to the ground. A room imports only those that come after it. Those on one line
/// do not import each other either.
const ROOMS: [&[&str]; 17] = [
    &["main"],
    &["fuzzing", "cli"],
    &["prove"],
    &["http"],
    &["host"],
    &["config"],
    &["call"],
    &["session"],
    &["function"],
    &["instance"],
    &["observe", "state"],
    &["identity"],
    &["grants"],
    &["limits"],
    &["scheduler"],
    &["settings"],
    &["tls"],
];

/// A module, by the names of those around it and its own.
type Name = Vec<String>;

/// The sources of a crate: the paths that each module names, and those that it gives others as its own.
#[derive(Default)]
struct Sources {
    named: BTreeMap<Name, Vec<Name>>,
    given: BTreeMap<Name, BTreeMap<String, Name>>,
}

impl Sources {
    /// Reads a folder, in which `root` is the crate's own file.
    fn read(folder: &str, root: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut sources = Self::default();
        let (mut files, mut of_tests) = (Vec::new(), Vec::new());
        find(&folder, &mut files);
        for file in files {
            let path = file.strip_prefix(&folder).expect("below the folder").with_extension("");
            let mut name: Name = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if name.last().is_some_and(|last| last == "mod") || name == [root] {
                name.pop();
            }
            let text = fs::read_to_string(&file).expect("a file");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let mut paths = Paths { of: name.clone(), named: Vec::new(), given: BTreeMap::new(), of_tests: Vec::new() };
            paths.visit_file(&parsed);
            sources.named.insert(name.clone(), paths.named);
            sources.given.insert(name, paths.given);
            of_tests.append(&mut paths.of_tests);
        }
        for module in of_tests {
            sources.named.remove(&module);
        }
        sources
    }

    /// The module in which something with this path is, wherever it is given from.
    fn home(&self, path: &[String], seen: &mut BTreeSet<Name>) -> Name {
        let depth = (0..=path.len()).rev().find(|depth| self.named.contains_key(&path[..*depth])).unwrap_or(0);
        let (module, rest) = path.split_at(depth);
        let Some(item) = rest.first().filter(|_| seen.insert(path.to_vec())) else { return module.to_vec() };
        match self.given.get(module).and_then(|given| given.get(item)) {
            Some(given) => self.home(given, seen),
            None => module.to_vec(),
        }
    }

    /// The modules that each module needs.
    fn needs(&self) -> BTreeMap<&Name, BTreeSet<Name>> {
        let needs = |of: &Name, paths: &Vec<Name>| {
            let homes = paths.iter().map(|path| self.home(path, &mut BTreeSet::new()));
            homes.filter(|home| home != of && !home.is_empty()).collect()
        };
        self.named.iter().map(|(of, paths)| (of, needs(of, paths))).collect()
    }

    /// Modules that need each other: what is left when all are taken away that need nobody who is left, and all whom
    /// nobody needs who is left.
    fn circles(&self) -> Vec<String> {
        let mut needs = self.needs();
        loop {
            let left: BTreeSet<Name> = needs.keys().map(|of| (*of).clone()).collect();
            let needed: BTreeSet<Name> = needs.values().flatten().cloned().collect();
            needs.values_mut().for_each(|of| of.retain(|need| left.contains(need)));
            needs.retain(|of, needs| !needs.is_empty() && needed.contains(*of));
            if needs.len() == left.len() {
                let told = |(of, needs): (&&Name, &BTreeSet<Name>)| {
                    format!(
                        "{} needs {}",
                        of.join("::"),
                        needs.iter().map(|it| it.join("::")).collect::<Vec<_>>().join(", ")
                    )
                };
                return needs.iter().map(told).collect();
            }
        }
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.extension() {
            None if path.is_dir() => find(&path, files),
            Some(extension) if extension == "rs" => files.push(path),
            _ => {}
        }
    }
}

/// The paths in a file that begin at its crate, its parent or itself; those in tests are left out.
struct Paths {
    of: Name,
    named: Vec<Name>,
    given: BTreeMap<String, Name>,
    /// Modules that are only there in tests.
    of_tests: Vec<Name>,
}

impl Paths {
    /// The whole path, if it is one within the crate.
    fn whole(&self, path: &[String]) -> Option<Name> {
        let mut whole = self.of.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                whole.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    whole.pop();
                    rest = &rest[1..];
                }
            }
            // It may be a module below this one; if it is none, this one has it.
            _ => {}
        }
        whole.extend_from_slice(rest);
        Some(whole)
    }

    fn add(&mut self, before: &[String], tree: &UseTree, given: bool) {
        let mut path = before.to_vec();
        match tree {
            UseTree::Path(it) => {
                path.push(it.ident.to_string());
                self.add(&path, &it.tree, given);
            }
            UseTree::Group(it) => it.items.iter().for_each(|tree| self.add(before, tree, given)),
            UseTree::Name(it) if it.ident == "self" => self.push(&path, None),
            UseTree::Name(it) => {
                path.push(it.ident.to_string());
                self.push(&path, given.then(|| it.ident.to_string()));
            }
            UseTree::Rename(it) => {
                path.push(it.ident.to_string());
                self.push(&path, given.then(|| it.rename.to_string()));
            }
            UseTree::Glob(_) if given => {
                panic!("{:?} gives others all of {path:?}: what that is is not seen here", self.of)
            }
            UseTree::Glob(_) => self.push(&path, None),
        }
    }

    /// A path, and the name by which it is given to others, if it is.
    fn push(&mut self, path: &[String], given: Option<String>) {
        let Some(whole) = self.whole(path) else { return };
        // What a module gives of those below it is not for its own use.
        let below = !["crate", "super"].contains(&path[0].as_str());
        if given.is_none() || !below {
            self.named.push(whole.clone());
        }
        if let Some(name) = given {
            self.given.insert(name, whole);
        }
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    is_only_if(attributes, &["test", "any(test,fuzzing)"])
}

/// True if an item is only there under one of these conditions.
fn is_only_if(attributes: &[Attribute], conditions: &[&str]) -> bool {
    let tokens = |it: &Attribute| it.meta.require_list().map(|list| list.tokens.to_string().replace(' ', ""));
    let is_one = |condition: String| conditions.contains(&condition.as_str());
    attributes.iter().any(|it| it.path().is_ident("cfg") && tokens(it).is_ok_and(is_one))
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        match item {
            Item::Use(it) if !is_of_tests(&it.attrs) => {
                self.add(&[], &it.tree, !matches!(it.vis, Visibility::Inherited));
            }
            Item::Use(_) => {}
            Item::Fn(it) if is_of_tests(&it.attrs) => {}
            _ => syn::visit::visit_item(self, item),
        }
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        if !is_of_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        } else if module.content.is_none() && is_only_if(&module.attrs, &["test"]) {
            self.of_tests.extend(self.whole(&[module.ident.to_string()]));
        }
    }

    /// The paths among a macro's words.
    fn visit_macro(&mut self, called: &'a syn::Macro) {
        let words = called.tokens.to_string().replace(" :: ", "::");
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in
            words.split(|c| !is_part(c)).filter(|word| word.starts_with("crate::") || word.starts_with("super::"))
        {
            let parts: Vec<String> = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            self.push(&parts, None);
        }
        syn::visit::visit_macro(self, called);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts.len() > 1 {
            self.push(&parts, None);
        }
        syn::visit::visit_path(self, path);
    }
}

#[test]
fn no_room_imports_one_above_it() {
    let sources = Sources::read("src", "lib");
    let level = |room: &str| ROOMS.iter().position(|level| level.contains(&room));
    let mut wrong = Vec::new();
    let (mut arrows, mut rooms) = (0, BTreeSet::new());
    for (of, needs) in sources.needs() {
        let Some(room) = of.first() else { continue };
        rooms.insert(room.clone());
        let at = level(room).unwrap_or_else(|| panic!("`{room}` is no room: where is its place in ROOMS?"));
        for need in needs {
            let other = &need[0];
            arrows += usize::from(other != room);
            if other != room && level(other).is_none_or(|other| other <= at) {
                wrong.push(format!("{} needs {}", of.join("::"), need.join("::")));
            }
        }
    }
    assert_eq!(rooms.len(), ROOMS.iter().map(|level| level.len()).sum::<usize>(), "a room is gone: {rooms:?}");
    assert!(arrows > 100, "only {arrows} imports are found: the test does not see them any more");
    assert!(wrong.is_empty(), "these import what is above them:\n{}", wrong.join("\n"));
}

#[test]
fn no_two_files_import_each_other() {
    let folders = [
        ("src", "lib"),
        ("examine/src", "lib"),
        ("arena/src", "lib"),
        ("benches/figures", "all"),
        ("benches/native", "server"),
    ];
    for (folder, root) in folders {
        let circles = Sources::read(folder, root).circles();
        assert!(circles.is_empty(), "in host/{folder} these need each other:\n{}", circles.join("\n"));
    }
}

#[test]
fn a_circle_and_an_arrow_upwards_are_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write("lib.rs", "mod a; mod b; mod c; pub use b::B;");
    write("a.rs", "pub struct A; fn f() -> crate::B { todo!() }");
    write("b.rs", "use super::c; pub struct B; #[cfg(test)] mod tests { use crate::a::A; }");
    write("c.rs", "pub fn f() {}");
    let read = || Sources::read(folder.path().to_str().expect("text"), "lib");
    assert_eq!(read().circles(), Vec::<String>::new());
    let needs = |of: &str| read().needs().get(&vec![of.to_owned()]).cloned().expect("a module");
    assert_eq!(needs("a"), BTreeSet::from([vec!["b".to_owned()]]), "by way of the crate's root");
    for names_a in [
        "pub fn f() { crate::a::g() }",
        "use super::a::A;",
        "pub(crate) use crate::a::A;",
        "fn f() { println!(\"{}\", crate::a::A) }",
        "struct C(crate::a::A);",
    ] {
        write("c.rs", names_a);
        assert_eq!(read().circles(), ["a needs b", "b needs c", "c needs a"], "{names_a}");
    }
}

/// The way of a request, in `lib.rs`: each step is one file's, which it begins with.
#[test]
fn a_request_can_be_followed_file_by_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = fs::read_to_string(folder.join("lib.rs")).expect("a file");
    let ways = text.split("# Follow one request").nth(1).and_then(|rest| rest.split("//! Meanwhile").next());
    let numbered = |line: &&str| line.trim_start_matches("//! ").starts_with(|first: char| first.is_ascii_digit());
    let steps: Vec<_> = ways.expect("the way of a request").lines().filter(numbered).collect();
    assert!(steps.len() > 20, "{steps:?}");
    for step in steps {
        let file = step.split('`').nth(1).unwrap_or_default();
        assert!(step.contains(&format!(". `{file}` ")) && folder.join(file).is_file(), "{step}");
    }
}
