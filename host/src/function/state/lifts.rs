//! What a component does with the functions of its core modules: which it lifts, and what is called after each of them.

use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{CanonicalFunction, CanonicalOption, ComponentAlias, ExternalKind, Instance, Payload};

/// The core functions that a component lifts and passes around, by the names under which modules export them.
#[derive(Debug, Default)]
pub(super) struct Lifts {
    /// The components and modules around the payload that is read, with the names of the components' core functions.
    levels: Vec<Vec<Option<String>>>,
    /// Functions that are lifted, each with those that the host calls after it; `None` where there is none.
    lifted: BTreeMap<String, BTreeSet<Option<String>>>,
    /// Functions that code of another module may call.
    passed: BTreeSet<String>,
}

impl Lifts {
    /// Reads what a payload says. All payloads of a component have to be read, in order.
    pub(super) fn read(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { .. } => self.levels.push(Vec::new()),
            Payload::End(_) => drop(self.levels.pop()),
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
                            self.passed.extend(name);
                        }
                    }
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions.clone() {
                    match function? {
                        CanonicalFunction::Lift { core_func_index, options, .. } => {
                            let after = options.iter().find_map(|option| match option {
                                CanonicalOption::PostReturn(index) => self.name(*index),
                                _ => None,
                            });
                            if let Some(name) = self.name(core_func_index) {
                                self.lifted.entry(name).or_default().insert(after);
                            }
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

    /// A module imports a function of this name.
    pub(super) fn imported(&mut self, name: &str) {
        self.passed.insert(name.to_owned());
    }

    /// Whether the host calls `after` after each call of `name`, and nobody else calls either.
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

    fn push(&mut self, function: Option<String>) {
        if let Some(functions) = self.levels.last_mut() {
            functions.push(function);
        }
    }

    fn name(&self, index: u32) -> Option<String> {
        self.levels.last()?.get(index as usize)?.clone()
    }
}
