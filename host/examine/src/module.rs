//! A core module's declarations, and its functions' effects on possible state.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};
use wasmparser::{
    BlockType, CompositeInnerType, ConstExpr, ContType, DataKind, ElementItems, ExternalKind, FrameKind, FuncType,
    FunctionBody, ModuleArity, Operator, Parser, Payload, RefType, SubType, TableInit, TypeRef, ValType,
};

/// The prefix of the names of exports that the host calls after each call of another one.
const AFTER: &str = "cabi_post_";
/// Steps that proofs about a module, and the walk through its start, may take at least.
const EFFORT: u64 = 20_000_000;
/// Steps that proofs about a module may take for each byte of its code, if that is more than [`EFFORT`].
const EFFORT_OF_A_BYTE: u64 = 16;
/// The custom section by which a module says that what lies below its stack pointer holds nothing between calls.
const DEAD_STACK: &str = "carrel:dead-stack";

/// A core module.
#[derive(Debug, Default)]
pub(super) struct Module<'a> {
    pub(super) types: Vec<SubType>,
    /// The types of its functions, imported ones first.
    pub(super) functions: Vec<u32>,
    pub(super) imported_functions: usize,
    /// Its globals, imported ones first.
    pub(super) globals: Vec<Global>,
    pub(super) imported_globals: usize,
    /// Linear memories that it imports, and that it has of its own.
    pub(super) imported_memories: u32,
    pub(super) memories: u32,
    /// The start of each active data segment, if that is a constant.
    pub(super) data: Vec<Option<u64>>,
    /// Its start function.
    pub(super) start: Option<u32>,
    /// True if a section says that the bytes below the stack pointer hold nothing between calls.
    pub(super) says_dead_stack: bool,
    /// Reasons why state cannot be kept, in words.
    pub(super) obstacles: Vec<String>,
    /// Names of the functions that it imports.
    pub(super) imports: BTreeSet<String>,
    /// Exports that have a partner, if that is known; by itself a module only says so by their names.
    pub(super) paired: Option<BTreeSet<String>>,
    /// Functions that are exported, by their names.
    pub(super) exports: BTreeMap<String, u32>,
    /// Functions that code or a table refers to.
    referred: BTreeSet<u32>,
    /// Functions that code calls.
    called: BTreeSet<u32>,
    /// The effects of each of its own functions.
    does: Vec<Does<'a>>,
    /// Functions that may run during calls: others may call them, or one that others may call does.
    in_calls: BTreeSet<u32>,
    /// Functions that run only before the first call. Those that are in neither set never run.
    start_only: BTreeSet<u32>,
    /// Bytes of its functions' code.
    code: u64,
    /// Steps that proofs have taken.
    proofs: Cell<u64>,
    /// Steps that the walk through its start has taken.
    walk: Cell<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Global {
    pub(super) ty: ValType,
    pub(super) mutable: bool,
    pub(super) exported: bool,
    /// The bits of the initial value, if that is a constant.
    pub(super) start: Option<u128>,
}

/// The effects of a function's code.
#[derive(Debug)]
pub(super) struct Does<'a> {
    pub(super) body: FunctionBody<'a>,
    pub(super) sets: BTreeSet<u32>,
    pub(super) calls: BTreeSet<u32>,
    /// The name of an instruction that changes state other than memories and globals, if there is one.
    pub(super) changes: Option<&'static str>,
}

impl<'a> Module<'a> {
    pub(super) fn parse(wasm: &'a [u8]) -> wasmparser::Result<Self> {
        let mut module = Self::default();
        let mut referred = BTreeSet::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        module.types.extend(group?.into_types());
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import.ty {
                            module.imports.insert(import.name.to_owned());
                        }
                        module.import(import.ty);
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        module.functions.push(ty?);
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        module.memories += 1;
                        if memory?.shared {
                            module.obstacles.push("it has a shared memory".into());
                        }
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        if let TableInit::Expr(all) = table?.init {
                            refers(&all, &mut referred)?;
                        }
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let global = global?;
                        let start = constant(&global.init_expr);
                        refers(&global.init_expr, &mut referred)?;
                        let (ty, mutable) = (global.ty.content_type, global.ty.mutable);
                        module.globals.push(Global { ty, mutable, exported: false, start });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        match export.kind {
                            ExternalKind::Func | ExternalKind::FuncExact => {
                                module.exports.insert(export.name.to_owned(), export.index);
                            }
                            ExternalKind::Global => {
                                if let Some(global) = module.globals.get_mut(export.index as usize) {
                                    global.exported = true;
                                }
                            }
                            _ => {}
                        }
                    }
                }
                Payload::StartSection { func, .. } => module.start = Some(func),
                Payload::CustomSection(section) => module.says_dead_stack |= section.name() == DEAD_STACK,
                Payload::ElementSection(section) => {
                    for element in section {
                        let element = element?;
                        if let ElementItems::Functions(functions) = element.items {
                            for function in functions {
                                referred.insert(function?);
                            }
                        } else if let ElementItems::Expressions(_, items) = element.items {
                            for item in items {
                                refers(&item?, &mut referred)?;
                            }
                        }
                    }
                }
                Payload::DataSection(section) => {
                    for data in section {
                        if let DataKind::Active { offset_expr, .. } = data?.kind {
                            let at = constant(&offset_expr).and_then(|at| u64::try_from(at).ok());
                            module.data.push(at);
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    module.code += body.as_bytes().len() as u64;
                    let does = Does::of(body, &mut referred)?;
                    module.called.extend(&does.calls);
                    module.does.push(does);
                }
                _ => {}
            }
        }
        module.in_calls = module.closure(module.exports.values().chain(&referred).copied());
        module.start_only = module.closure(module.start).difference(&module.in_calls).copied().collect();
        module.referred = referred;
        let changes = module.after_start().find_map(|(_, does)| does.changes);
        module.obstacles.extend(changes.map(|name| format!("its code has `{name}`, which changes what is no memory")));
        Ok(module)
    }

    fn import(&mut self, ty: TypeRef) {
        match ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                self.functions.push(ty);
                self.imported_functions += 1;
            }
            TypeRef::Global(ty) => {
                let (ty, mutable) = (ty.content_type, ty.mutable);
                self.globals.push(Global { ty, mutable, exported: false, start: None });
                self.imported_globals += 1;
            }
            TypeRef::Memory(memory) => {
                self.imported_memories += 1;
                if memory.shared {
                    self.obstacles.push("it has a shared memory".into());
                }
            }
            TypeRef::Table(_) | TypeRef::Tag(_) => {}
        }
    }

    /// These functions, and all that they call.
    fn closure(&self, from: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut next: Vec<u32> = from.into_iter().collect();
        while let Some(function) = next.pop() {
            if found.insert(function) {
                next.extend(self.does(function).into_iter().flat_map(|does| &does.calls));
            }
        }
        found
    }

    /// The effects of functions that may run during calls, with their numbers.
    fn after_start(&self) -> impl Iterator<Item = (u32, &Does<'a>)> {
        let numbered = self.does.iter().enumerate();
        let numbered = numbered.map(|(index, does)| ((self.imported_functions + index) as u32, does));
        numbered.filter(|(number, _)| self.in_calls.contains(number))
    }

    /// The globals that functions set which may run during calls.
    pub(super) fn set_globals(&self) -> BTreeSet<u32> {
        self.after_start().flat_map(|(_, does)| does.sets.iter().copied()).collect()
    }

    /// The functions that set a global and may run during calls: their numbers and bodies.
    pub(super) fn setters(&self, global: u32) -> impl Iterator<Item = (u32, &FunctionBody<'a>)> {
        let setters = self.after_start().filter(move |(_, does)| does.sets.contains(&global));
        setters.map(|(number, does)| (number, &does.body))
    }

    /// Accounts for further steps of a proof, and returns true if there are so many left. A proof that runs out of
    /// steps fails, so that no guest's examination takes for ever.
    pub(super) fn may_try(&self, steps: usize) -> bool {
        takes(&self.proofs, steps, self.code.saturating_mul(EFFORT_OF_A_BYTE).max(EFFORT))
    }

    /// Like [`may_try`](Self::may_try), for the walk through the start. That may go through the same code many times,
    /// so that the code's size says nothing of it.
    pub(super) fn may_walk(&self, steps: usize) -> bool {
        takes(&self.walk, steps, EFFORT)
    }

    pub(super) fn own_functions(&self) -> usize {
        self.does.len()
    }

    /// Returns true if this module itself may call a function: its code, a table, or its start.
    pub(super) fn is_called(&self, function: u32) -> bool {
        self.referred.contains(&function) || self.called.contains(&function) || self.start == Some(function)
    }

    /// The export that the host calls after each call of this one, or the one after which it calls this one.
    pub(super) fn partner(&self, function: u32) -> Option<u32> {
        let mut names = self.exports.iter().filter(|(_, exported)| **exported == function).map(|(name, _)| name);
        let (name, None) = (names.next()?, names.next()) else { return None };
        let first = name.strip_prefix(AFTER).unwrap_or(name);
        if self.paired.as_ref().is_some_and(|paired| !paired.contains(first)) {
            return None;
        }
        let partner = if first == name { self.exports.get(&format!("{AFTER}{name}")) } else { self.exports.get(first) };
        partner.copied()
    }

    /// Keeps only those pairs of exports that `are_a_pair` confirms.
    pub(super) fn pair(&mut self, are_a_pair: impl Fn(&str, &str) -> bool) {
        let names = self.exports.keys().filter(|name| are_a_pair(name, &format!("{AFTER}{name}")));
        self.paired = Some(names.cloned().collect());
    }

    /// The globals that functions set which run only before the first call.
    pub(super) fn set_at_start(&self) -> BTreeSet<u32> {
        self.during_start().flat_map(|(_, does)| does.sets.iter().copied()).collect()
    }

    /// The numbers of its own functions that run only before the first call, with their effects.
    pub(super) fn during_start(&self) -> impl Iterator<Item = (u32, &Does<'a>)> {
        self.start_only.iter().filter_map(|number| Some((*number, self.does(*number)?)))
    }

    /// The effects of one of its own functions.
    pub(super) fn does(&self, function: u32) -> Option<&Does<'a>> {
        self.does.get((function as usize).checked_sub(self.imported_functions)?)
    }

    /// The initial value of a global of this module, if that is a number.
    pub(super) fn global_start(&self, global: u32) -> Option<u64> {
        self.globals.get(global as usize)?.start.and_then(|start| u64::try_from(start).ok())
    }

    /// The number of a function's parameters; functions are counted with imported ones first.
    pub(super) fn params(&self, function: usize) -> usize {
        let ty = self.functions.get(function).and_then(|ty| self.types.get(*ty as usize));
        match ty.map(|ty| &ty.composite_type.inner) {
            Some(CompositeInnerType::Func(ty)) => ty.params().len(),
            _ => 0,
        }
    }
}

/// The arity of instructions outside of any block; those that depend on blocks or tags have none here.
impl ModuleArity for Module<'_> {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.types.get(index as usize)
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.functions.get(function as usize).copied()
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        0
    }

    fn label_block(&self, _: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}

impl<'a> Does<'a> {
    fn of(body: FunctionBody<'a>, referred: &mut BTreeSet<u32>) -> wasmparser::Result<Self> {
        let mut does = Self { body, sets: BTreeSet::new(), calls: BTreeSet::new(), changes: None };
        for operator in does.body.clone().get_operators_reader()? {
            match operator? {
                Operator::GlobalSet { global_index } => drop(does.sets.insert(global_index)),
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    does.calls.insert(function_index);
                }
                Operator::RefFunc { function_index } => drop(referred.insert(function_index)),
                Operator::TableSet { .. } => does.changes = Some("table.set"),
                Operator::TableGrow { .. } => does.changes = Some("table.grow"),
                Operator::TableFill { .. } => does.changes = Some("table.fill"),
                Operator::TableCopy { .. } => does.changes = Some("table.copy"),
                Operator::TableInit { .. } => does.changes = Some("table.init"),
                Operator::ElemDrop { .. } => does.changes = Some("elem.drop"),
                Operator::DataDrop { .. } => does.changes = Some("data.drop"),
                _ => {}
            }
        }
        Ok(does)
    }
}

/// Adds steps to those that were taken, and returns true if there are not more than `most`.
fn takes(taken: &Cell<u64>, steps: usize, most: u64) -> bool {
    taken.set(taken.get().saturating_add(steps as u64));
    taken.get() <= most
}

/// Notes the functions that a constant expression refers to.
fn refers(expression: &ConstExpr<'_>, referred: &mut BTreeSet<u32>) -> wasmparser::Result<()> {
    for operator in expression.get_operators_reader() {
        if let Operator::RefFunc { function_index } = operator? {
            referred.insert(function_index);
        }
    }
    Ok(())
}

/// The bits of a constant expression that is one number.
fn constant(expression: &ConstExpr<'_>) -> Option<u128> {
    let mut operators = expression.get_operators_reader();
    let bits = match operators.read().ok()? {
        Operator::I32Const { value } => u128::from(value.cast_unsigned()),
        Operator::I64Const { value } => u128::from(value.cast_unsigned()),
        Operator::F32Const { value } => u128::from(value.bits()),
        Operator::F64Const { value } => u128::from(value.bits()),
        Operator::V128Const { value } => u128::from_le_bytes(*value.bytes()),
        _ => return None,
    };
    matches!(operators.read().ok()?, Operator::End).then_some(bits)
}
