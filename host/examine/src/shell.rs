//! A guest's shell: its component without the effects of instantiation on memories.
//!
//! An instance that is made again from a copy of its memories must not start again: start code could grow a memory that
//! has grown already, see its size, ask for the time, or take minutes, each time. So the host instantiates a guest's
//! shell, in which no start code runs and no data is written, and puts the memories' bytes there itself. What must hold:
//! a shell with the memories of an instance is that instance.
//!
//! * **Data.** Active segments become passive ones without bytes. All segments keep their numbers, and to
//!   `memory.init` and `data.drop` a segment without bytes is what an active one is once it was written: dropped.
//! * **Tables** are no memory, so elements stay, and a shell fills its tables as the guest does.
//! * **The start** goes. What it does to memories, and to globals that are in memories, is part of their bytes. What it
//!   does to tables, to segments, and to globals that modules share is not: a linker's start function writes such
//!   globals, with the addresses of a library's things. A shell gets a start function that does just that
//!   ([`Kept`]), if each value is known from the code alone and each step is taken exactly once. Otherwise the guest
//!   has no shell, and there is a reason.

use super::{
    balance, globals,
    module::Module,
    rewrite::{longer, sections},
};
use std::collections::{BTreeMap, BTreeSet};
use wasm_encoder::{CodeSection, Encode, Function, FunctionSection, RawSection, Section, SectionId};
use wasmparser::{BinaryReader, DataKind, DataSectionReader, ModuleArity, Operator};

/// The deepest nesting of calls in a start function.
const DEPTH: usize = 32;

/// The code of a module's start function that changes tables, segments and globals that cannot be moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept(Vec<u8>);

impl Kept {
    /// Follows a module's start function.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be followed.
    pub(super) fn of(module: &Module<'_>) -> Result<Self, String> {
        let lasting = lasting(module);
        let Some(start) = module.start.filter(|start| lasting.contains(start)) else { return Ok(Self::default()) };
        let mut walk = StartWalk { module, lasting: &lasting, operands: Vec::new(), kept: Vec::new() };
        walk.function(start, 0).map_err(|Unknown(what)| {
            format!("its start function {what}, in a way that is not known from its code alone")
        })?;
        Ok(Self(walk.kept))
    }
}

/// A module of a shell, and the units of fuel that the engine takes less for it, not counting start code; `None` if
/// the module has no start code and no data anyway.
pub(super) fn of(wasm: &[u8], module: &Module<'_>, kept: &Kept) -> wasmparser::Result<Option<(Vec<u8>, u64)>> {
    const FUNCTION: u8 = SectionId::Function as u8;
    const START: u8 = SectionId::Start as u8;
    const CODE: u8 = SectionId::Code as u8;
    const DATA: u8 = SectionId::Data as u8;
    let (mut changed, mut fuel) = (false, 0);
    let mut out = wasm.get(..8).unwrap_or_default().to_vec();
    // Functions of its own are needed only to keep what one of them does: then there is a section of them.
    let ty = module.start.and_then(|start| module.type_index_of_function(start)).filter(|_| !kept.0.is_empty());
    for (id, content) in sections(wasm)? {
        let content = match (id, ty) {
            (START, None) => {
                changed = true;
                continue;
            }
            (START, Some(_)) => {
                changed = true;
                encoded(&(module.functions.len() as u32))
            }
            (FUNCTION, Some(ty)) => longer(&content, FunctionSection::new().function(ty), 1)?,
            (CODE, Some(_)) => {
                let mut function = Function::new([]);
                function.raw(kept.0.iter().copied()).instructions().end();
                longer(&content, CodeSection::new().function(&function), 1)?
            }
            (DATA, _) => {
                let (data, written) = without_active(&content)?;
                changed |= written > 0;
                fuel += written;
                data
            }
            _ => content,
        };
        RawSection { id, data: &content }.append_to(&mut out);
    }
    Ok(changed.then_some((out, fuel)))
}

fn encoded(what: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    what.encode(&mut bytes);
    bytes
}

/// A data section with active segments made passive and empty, and the fuel that the engine takes to write them: one
/// unit if there are any, one for each, and one for each byte.
fn without_active(content: &[u8]) -> wasmparser::Result<(Vec<u8>, u64)> {
    const PASSIVE: u8 = 1;
    let segments = DataSectionReader::new(BinaryReader::new(content, 0))?;
    let (mut out, mut fuel) = (encoded(&segments.count()), 0);
    for segment in segments {
        let segment = segment?;
        match segment.kind {
            DataKind::Passive => out.extend_from_slice(content.get(segment.range).unwrap_or_default()),
            DataKind::Active { .. } => {
                fuel = fuel.max(1) + 1 + segment.data.len() as u64;
                out.extend_from_slice(&[PASSIVE, 0]);
            }
        }
    }
    Ok((out, fuel))
}

/// Functions that run only at the start and, themselves or by calls, have effects outside of memories.
fn lasting(module: &Module<'_>) -> BTreeSet<u32> {
    let mut callers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    let mut new = Vec::new();
    for (number, does) in module.during_start() {
        does.calls.iter().for_each(|called| callers.entry(*called).or_default().push(number));
        if does.changes.is_some() || does.sets.iter().any(|global| globals::can_be_moved(module, *global).is_err()) {
            new.push(number);
        }
    }
    while let Some(number) = new.pop() {
        if found.insert(number) {
            new.extend(callers.get(&number).into_iter().flatten());
        }
    }
    found
}

/// The reason why a step cannot be followed, in words.
struct Unknown(&'static str);

/// Steps for each byte of code that is kept.
const KEPT: usize = 64;

const COMPUTES: Unknown = Unknown("changes tables, segments or globals that cannot be moved to memory");

/// A walk through the functions of a start, in the order in which they run. The walk enters no block, so each
/// instruction met runs once.
struct StartWalk<'a> {
    module: &'a Module<'a>,
    lasting: &'a BTreeSet<u32>,
    /// The code of each known operand, made only of constants and globals that never change.
    operands: Vec<Option<Vec<u8>>>,
    /// The code that is kept.
    kept: Vec<u8>,
}

impl StartWalk<'_> {
    fn function(&mut self, number: u32, depth: usize) -> Result<(), Unknown> {
        let body = self.module.does(number).filter(|_| depth < DEPTH).map(|does| &does.body).ok_or(COMPUTES)?;
        let (bytes, start) = (body.as_bytes(), body.range().start);
        let mut reader = body.get_operators_reader().map_err(|_| COMPUTES)?;
        while !reader.eof() {
            let (operator, at) = reader.read_with_offset().map_err(|_| COMPUTES)?;
            let code = bytes.get(at - start..reader.original_position() - start).ok_or(COMPUTES)?;
            self.takes(1)?;
            self.step(&operator, code, depth)?;
        }
        Ok(())
    }

    fn step(&mut self, operator: &Operator<'_>, code: &[u8], depth: usize) -> Result<(), Unknown> {
        match operator {
            Operator::I32Const { .. }
            | Operator::I64Const { .. }
            | Operator::F32Const { .. }
            | Operator::F64Const { .. }
            | Operator::V128Const { .. }
            | Operator::RefNull { .. }
            | Operator::RefFunc { .. } => self.push(Some(code.to_vec())),
            Operator::GlobalGet { global_index } => {
                let global = self.module.globals.get(*global_index as usize).ok_or(COMPUTES)?;
                self.push((!global.mutable).then(|| code.to_vec()))
            }
            Operator::I32Add
            | Operator::I32Sub
            | Operator::I32Mul
            | Operator::I64Add
            | Operator::I64Sub
            | Operator::I64Mul => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.push(a.zip(b).map(|(a, b)| [&a, &b, code].concat()))
            }
            Operator::GlobalSet { global_index } if globals::can_be_moved(self.module, *global_index).is_err() => {
                self.keep(1, code, "sets globals that cannot be moved to memory")
            }
            Operator::TableSet { .. } => self.keep(2, code, "has `table.set`"),
            Operator::TableFill { .. } => self.keep(3, code, "has `table.fill`"),
            Operator::TableCopy { .. } => self.keep(3, code, "has `table.copy`"),
            Operator::TableInit { .. } => self.keep(3, code, "has `table.init`"),
            Operator::ElemDrop { .. } => self.keep(0, code, "has `elem.drop`"),
            Operator::DataDrop { .. } => self.keep(0, code, "has `data.drop`"),
            // Its success depends on limits, which may differ between instances.
            Operator::TableGrow { .. } => Err(Unknown("has `table.grow`")),
            Operator::Call { function_index } if self.lasting.contains(function_index) => {
                let (params, results) = operator.operator_arity(self.module).ok_or(COMPUTES)?;
                if (params, results) != (0, 0) {
                    return Err(COMPUTES);
                }
                self.function(*function_index, depth + 1)
            }
            Operator::End => Ok(()),
            _ if leaves_the_line(operator) => Err(COMPUTES),
            _ => {
                let (params, results) = operator.operator_arity(self.module).ok_or(COMPUTES)?;
                for _ in 0..params {
                    self.pop()?;
                }
                (0..results).try_for_each(|_| self.push(None))
            }
        }
    }

    /// Keeps an instruction with so many operands.
    fn keep(&mut self, operands: usize, code: &[u8], what: &'static str) -> Result<(), Unknown> {
        let (first, before) = (self.operands.len().checked_sub(operands).ok_or(COMPUTES)?, self.kept.len());
        for operand in self.operands.split_off(first) {
            self.kept.extend(operand.ok_or(Unknown(what))?);
        }
        self.kept.extend_from_slice(code);
        // All that is kept is one function of the shell, and is no larger than a guest's own may be.
        self.takes(KEPT * (self.kept.len() - before))
    }

    /// Accounts for further steps of the walk.
    fn takes(&self, steps: usize) -> Result<(), Unknown> {
        if self.module.may_walk(steps) { Ok(()) } else { Err(COMPUTES) }
    }

    /// Pushes an operand, which takes as many steps as its code has bytes.
    fn push(&mut self, operand: Option<Vec<u8>>) -> Result<(), Unknown> {
        self.takes(1 + operand.as_ref().map_or(0, Vec::len))?;
        self.operands.push(operand);
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<Vec<u8>>, Unknown> {
        self.operands.pop().ok_or(COMPUTES)
    }
}

/// Instructions after which the next one may not run, or may run again.
fn leaves_the_line(operator: &Operator<'_>) -> bool {
    let blocks = matches!(
        operator,
        Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::Else | Operator::Unreachable
    );
    let returns = matches!(
        operator,
        Operator::Return
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
    );
    blocks || returns || balance::jumps_otherwise(operator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Examined, Parts, examine};
    use std::{path::Path, time::Duration, time::Instant as Clock};
    use wasmparser::{Validator, WasmFeatures};
    use wasmtime::{Engine, Instance, Linker, Memory, Store, Val};

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    /// A module's shell, if it differs from the module.
    fn shell(wasm: &[u8]) -> Option<Vec<u8>> {
        let module = Module::parse(wasm).unwrap();
        let (shell, _) = of(wasm, &module, &Kept::of(&module).unwrap()).unwrap()?;
        Validator::new_with_features(WasmFeatures::all()).validate_all(&shell).unwrap();
        Some(shell)
    }

    /// An instance of a module that may import a global, `host.base`, and calls of `host.called`, which it counts.
    struct Made {
        store: Store<u32>,
        instance: Instance,
    }

    impl Made {
        fn new(wasm: &[u8]) -> Self {
            let engine = Engine::default();
            let module = wasmtime::Module::new(&engine, wasm).unwrap();
            let mut store = Store::new(&engine, 0);
            let mut linker = Linker::new(&engine);
            let ty = wasmtime::GlobalType::new(wasmtime::ValType::I32, wasmtime::Mutability::Const);
            let base = wasmtime::Global::new(&mut store, ty, Val::I32(1000)).unwrap();
            linker.define(&store, "host", "base", base).unwrap();
            linker.func_wrap("host", "called", |mut cx: wasmtime::Caller<'_, u32>| *cx.data_mut() += 1).unwrap();
            let instance = linker.instantiate(&mut store, &module).unwrap();
            Self { store, instance }
        }

        fn memory(&mut self) -> Memory {
            self.instance.get_memory(&mut self.store, "memory").unwrap()
        }

        fn bytes(&mut self) -> Vec<u8> {
            self.memory().data(&self.store).to_vec()
        }

        /// The results of `f`, or `None` for a trap.
        fn call(&mut self, argument: i32) -> Option<Vec<String>> {
            let f = self.instance.get_func(&mut self.store, "f").unwrap();
            let mut results = vec![Val::I32(0); f.ty(&self.store).results().len()];
            f.call(&mut self.store, &[argument.into()], &mut results).ok()?;
            Some(results.iter().map(|result| format!("{result:?}")).collect())
        }
    }

    /// Asserts that a module's instance, and one of its shell with the same memory, behave alike.
    fn same(text: &str, arguments: &[i32]) {
        let wasm = wasm(text);
        let mut whole = Made::new(&wasm);
        let mut shell = Made::new(&shell(&wasm).unwrap());
        assert_eq!(*shell.store.data(), 0, "nothing but what is kept is called");
        assert!(shell.bytes().iter().all(|byte| *byte == 0), "nothing is written");
        let (started, memory) = (whole.bytes(), shell.memory());
        let more = (started.len() - memory.data_size(&shell.store)) / 65536;
        memory.grow(&mut shell.store, more as u64).unwrap();
        memory.data_mut(&mut shell.store).copy_from_slice(&started);
        for argument in arguments {
            assert_eq!(whole.call(*argument), shell.call(*argument), "{argument} in {text}");
            assert_eq!(whole.bytes(), shell.bytes(), "{argument} in {text}");
        }
    }

    #[test]
    fn segments_are_to_instructions_what_they_were() {
        let segments = "(module (memory (export \"memory\") 1)
            (data $active (i32.const 16) \"active\") (data $passive \"passive\") (data $more (i32.const 40) \"more\")
            (func (export \"f\") (param $n i32) (result i32)
                (block $drops (block $passive (block $one (block $none
                    (br_table $none $one $passive $drops (local.get $n)))
                    (memory.init $active (i32.const 0) (i32.const 0) (i32.const 0))
                    (memory.init $active (i32.const 65536) (i32.const 0) (i32.const 0))
                    (return (i32.const 10)))
                    (memory.init $active (i32.const 0) (i32.const 0) (i32.const 1))
                    (return (i32.const 11)))
                    (memory.init $passive (i32.const 100) (i32.const 3) (i32.const 4))
                    (return (i32.load (i32.const 100))))
                (data.drop $active) (data.drop $passive) (i32.load8_u (i32.const 43))))";
        same(segments, &[0, 1, 2, 0, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn what_a_start_does_beside_memories_is_kept_and_nothing_else() {
        let starts = "(module (import \"host\" \"base\" (global $base i32)) (import \"host\" \"called\" (func $called))
            (memory (export \"memory\") 1) (data (i32.const 0) \"x\") (data $dropped \"y\")
            (global $shared (export \"shared\") (mut i32) (i32.const 0))
            (global $wide (export \"wide\") (mut i64) (i64.const 0))
            (global $reference (mut funcref) (ref.null func))
            (type $gives (func (result i32))) (table $table (export \"table\") 4 funcref)
            (elem (table $table) (i32.const 3) func $three) (elem $segment func $two)
            (elem declare func $one $four)
            (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
            (func $three (result i32) (i32.const 3)) (func $four (result i32) (i32.const 4))
            (func $link
                (global.set $shared (i32.sub (i32.add (global.get $base) (i32.const 50)) (i32.const 8)))
                (global.set $wide (i64.mul (i64.const -3) (i64.const 7)))
                (call $called)
                (global.set $reference (ref.func $four))
                (table.set $table (i32.const 0) (ref.func $one)))
            (func $write (param i32) (result i32) (loop (if (i32.const 0) (then (br 1))))
                (i32.store (i32.const 8) (local.get 0)) (memory.grow (i32.const 2)))
            (start $start)
            (func $start (local i32)
                (i32.store (i32.const 4) (i32.const 9)) nop
                (local.set 0 (call $write (i32.load (i32.const 4))))
                (call $link)
                (memory.init $dropped (i32.const 12) (i32.const 0) (i32.const 1)) (data.drop $dropped)
                (table.init $table $segment (i32.const 1) (i32.const 0) (i32.const 1))
                (table.copy $table $table (i32.const 2) (i32.const 1) (i32.const 1)) (elem.drop $segment)
                (drop (table.get $table (i32.const 0))))
            (func (export \"f\") (param $n i32) (result i32 i64 i32 i32)
                (if (i32.eq (local.get $n) (i32.const 4)) (then
                    (memory.init $dropped (i32.const 12) (i32.const 0) (i32.const 1))))
                (global.get $shared) (global.get $wide)
                (call_indirect $table (type $gives) (local.get $n)) (ref.is_null (global.get $reference))))";
        same(starts, &[0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_module_that_neither_starts_nor_writes_is_its_own_shell() {
        for own in ["", "(memory 1) (data \"passive\")", "(table 1 funcref) (elem (i32.const 0) $f) (func $f)"] {
            assert_eq!(shell(&wasm(&format!("(module {own})"))), None, "{own}");
        }
        assert!(shell(&wasm("(module (memory 1) (data (i32.const 0) \"\"))")).is_some());
        // A start function of another module, as tools have it to call `_initialize`, and one of its own.
        for starts in ["(import \"a\" \"f\" (func $f))", "(func $f (loop br 0))"] {
            let shell = shell(&wasm(&format!("(module {starts} (start $f))"))).unwrap();
            assert_eq!(Module::parse(&shell).unwrap().start, None);
        }
    }

    #[test]
    fn what_a_start_function_does_not_surely_do_once_is_told() {
        let why = |body: &str, more: &str| {
            let text = format!(
                "(module (memory 1) (table $t 1 funcref) (global $g (export \"g\") (mut i32) (i32.const 0))
                    (start $start) (func $start (local i32) {body}) {more})"
            );
            Kept::of(&Module::parse(&wasm(&text)).unwrap()).unwrap_err()
        };
        let set = "(global.set $g (i32.const 1))";
        for line in [
            format!("(if (i32.load (i32.const 0)) (then {set}))"),
            format!("(loop {set})"),
            format!("(block (br_if 0 (i32.const 1)) {set})"),
            format!("{set} (return)"),
            format!("{set} (unreachable)"),
        ] {
            let told = why(&line, "");
            let what =
                "its start function changes tables, segments or globals that cannot be moved to memory, in a way";
            assert!(told.starts_with(what), "{told}");
        }
        for (line, what) in [
            ("(global.set $g (i32.load (i32.const 0)))", "sets globals that cannot be moved to memory"),
            ("(global.set $g (global.get $g))", "sets globals that cannot be moved to memory"),
            ("(global.set $g (i32.add (memory.size) (i32.const 1)))", "sets globals that cannot be moved to memory"),
            ("(global.set $g (local.get 0))", "sets globals that cannot be moved to memory"),
            ("(table.set $t (memory.size) (ref.null func))", "has `table.set`"),
            ("(drop (table.grow $t (ref.null func) (i32.const 1)))", "has `table.grow`"),
        ] {
            let told = why(line, "");
            assert!(told.starts_with(&format!("its start function {what}, in a way that is not known")), "{told}");
        }
        why("(call $f (i32.const 1))", &format!("(func $f (param i32) {set})"));
        // No start function is followed for ever.
        let twice = |n: usize| format!("(func $f{n} (call $f{0}) (call $f{0}))", n + 1);
        let began = Clock::now();
        why("(call $f0)", &((0..30).map(twice).collect::<String>() + &format!("(func $f30 {set})")));
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_shell_of_each_guest_of_the_corpus_is_valid_and_starts_nothing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/guest");
        let mut kept = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            let guest = std::fs::read(&file).unwrap();
            let Examined { shell, state, .. } = examine(&guest);
            if state.is_err() {
                assert_eq!(shell, None, "{file:?}");
                continue;
            }
            kept += 1;
            let shell = shell.unwrap();
            Validator::new_with_features(WasmFeatures::all()).validate_all(&shell).unwrap();
            for (_, module) in Parts::of(&shell).unwrap().modules {
                let links = file.ends_with("linkage-tables.wasm");
                assert!(module.data.is_empty() && (module.start.is_none() || links), "{file:?}");
            }
        }
        assert!(kept > 4, "{kept} guests are kept");
    }
}
