//! The use that a component makes of its core modules' functions: those that it lifts, and those called after each.

use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{CanonicalFunction, CanonicalOption, ComponentAlias, ExternalKind, Instance, Payload};

/// A component or module.
#[derive(Debug, Default)]
struct Nesting {
    /// A component's core functions, by the names under which modules export them.
    functions: Vec<Option<String>>,
    /// True if it lifts or lowers functions.
    passes: bool,
}

/// The core functions that a component lifts and passes around, by the names under which modules export them.
#[derive(Debug, Default)]
pub(super) struct Lifts {
    /// The components and modules around the payload that is read.
    levels: Vec<Nesting>,
    /// Components that lift or lower functions.
    pub(super) components: usize,
    /// Names of functions that give memory for what is passed.
    reallocs: BTreeSet<String>,
    /// Names that components give to functions, each with the functions' original names.
    renamed: BTreeMap<String, BTreeSet<String>>,
    /// Functions that are lifted, each with those that the host calls after it; `None` where there is none.
    lifted: BTreeMap<String, BTreeSet<Option<String>>>,
    /// Functions that code of another module may call.
    passed: BTreeSet<String>,
}

impl Lifts {
    /// Reads a payload. All payloads of a component have to be read, in order.
    pub(super) fn note(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { .. } => self.levels.push(Nesting::default()),
            Payload::End(_) => self.components += usize::from(self.levels.pop().is_some_and(|level| level.passes)),
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    if let ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, name, .. } = alias? {
                        self.push(Some(name.to_owned()));
                    }
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    if let Instance::FromExports(exports) = instance? {
                        for export in exports.iter().filter(|export| export.kind == ExternalKind::Func) {
                            let name = self.name(export.index);
                            self.renamed.entry(export.name.to_owned()).or_default().extend(name.clone());
                            self.passed.extend(name);
                        }
                    }
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions.clone() {
                    match function? {
                        CanonicalFunction::Lift { core_func_index, options, .. } => {
                            self.passes(&options);
                            let after = options.iter().find_map(|option| match option {
                                CanonicalOption::PostReturn(index) => self.name(*index),
                                _ => None,
                            });
                            if let Some(name) = self.name(core_func_index) {
                                self.lifted.entry(name).or_default().insert(after);
                            }
                        }
                        CanonicalFunction::Lower { options, .. } => {
                            self.passes(&options);
                            self.push(None);
                        }
                        // Each of the others is a core function, and none that a module exports.
                        _ => self.push(None),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes that a module imports a function of this name.
    pub(super) fn imported(&mut self, name: &str) {
        self.passed.insert(name.to_owned());
    }

    /// Returns true if the host calls `after` after each call of `name`, and nobody else calls either.
    pub(super) fn are_a_pair(&self, name: &str, after: &str) -> bool {
        let only_after = |afters: &BTreeSet<Option<String>>| afters.iter().all(|it| it.as_deref() == Some(after));
        let elsewhere = self.lifted.iter().any(|(lifted, afters)| {
            lifted == after || (lifted != name && afters.iter().any(|it| it.as_deref() == Some(after)))
        });
        self.lifted.get(name).is_some_and(only_after)
            && !elsewhere
            && !self.passed.contains(name)
            && !self.passed.contains(after)
    }

    /// The names of all functions that give memory for what is passed, wherever they come from.
    pub(super) fn reallocs(&self) -> BTreeSet<String> {
        let mut names = self.reallocs.clone();
        let mut left: Vec<&String> = self.reallocs.iter().collect();
        while let Some(name) = left.pop() {
            for of in self.renamed.get(name).into_iter().flatten() {
                if names.insert(of.clone()) {
                    left.push(of);
                }
            }
        }
        names
    }

    /// Notes that the component being read passes values with these options.
    fn passes(&mut self, options: &[CanonicalOption]) {
        for option in options {
            if let CanonicalOption::Realloc(index) = option {
                let name = self.name(*index);
                self.reallocs.extend(name);
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.passes = true;
        }
    }

    fn push(&mut self, function: Option<String>) {
        if let Some(level) = self.levels.last_mut() {
            level.functions.push(function);
        }
    }

    fn name(&self, index: u32) -> Option<String> {
        self.levels.last()?.functions.get(index as usize)?.clone()
    }
}
